//! Choice of one term a class so that the whole costs least, subterms that are shared counted once.
//!
//! The problem is NP-hard (Stepp, "Equality Saturation", 2011); bodies have some hundred classes, and what makes them hard is that
//! a launch is worth it only when several of its readers take it: a bundle, a norm that two products share. A pass from the
//! leaves up takes of each class the term whose subterms, each counted once, cost least. Then a search takes a class to be paid
//! for already, or fixes another candidate of it, and chooses again; what lowers the true total stays. Moves come in a fixed
//! order and their number is bounded: the result is the same each time.

/// A term of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What it costs itself.
    pub cost: f64,
    /// The classes it reads.
    pub children: Vec<usize>,
}

/// Classes of candidates, and those of which a candidate is needed.
#[derive(Clone, Debug, Default)]
pub struct Problem {
    /// The candidates of each class.
    pub classes: Vec<Vec<Candidate>>,
    /// The classes needed.
    pub roots: Vec<usize>,
}

/// A solution.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The candidate taken of each class, `None` where none can be. Only those that the roots need mean anything.
    pub taken: Vec<Option<usize>>,
    /// The cost of all that the roots need.
    pub total: f64,
}

/// Rounds of the search; in practice two or three change something.
const ROUNDS: usize = 8;

/// A total is lower if it is so by more than sums of floats may differ.
const GAIN: f64 = 1.0 - 1e-9;

/// What a class that is paid for costs, of its price: enough to tell its candidates apart.
const PAID: f64 = 1e-3;

/// Finds a choice of low total cost.
pub fn extract(problem: &Problem) -> Choice {
    let order = order(problem);
    let shared = shared(problem, &order);
    let mut search = Search::new(problem, order);
    let mut best = search.choose();
    search.kept.copy_from_slice(&search.used);
    for _ in 0..ROUNDS {
        let before = best.total;
        shared.iter().for_each(|class| search.try_shared(class.index, &mut best));
        for class in 0..problem.classes.len() {
            search.try_other(class, &mut best);
        }
        if best.total >= before * GAIN {
            search.try_pairs(&shared, &mut best);
        }
        if best.total >= before * GAIN {
            break;
        }
    }
    best
}

/// Classes children first, with the candidates of each that make no cycle.
type Order = Vec<(usize, Vec<usize>)>;

/// The classes that the roots may need, children first. Of candidates that lead back to their own class those are left out that
/// close the cycle when classes are walked in order.
fn order(problem: &Problem) -> Order {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    struct Frame {
        class: usize,
        candidate: usize,
        child: usize,
        kept: Vec<usize>,
    }
    let mut states = vec![State::New; problem.classes.len()];
    let mut order = Order::new();
    for root in &problem.roots {
        if states[*root] != State::New {
            continue;
        }
        let open = |class| Frame { class, candidate: 0, child: 0, kept: Vec::new() };
        states[*root] = State::Open;
        let mut stack = vec![open(*root)];
        while let Some(frame) = stack.last_mut() {
            let Some(candidate) = problem.classes[frame.class].get(frame.candidate) else {
                states[frame.class] = State::Done;
                order.push((frame.class, std::mem::take(&mut frame.kept)));
                stack.pop();
                continue;
            };
            let Some(child) = candidate.children.get(frame.child).copied() else {
                frame.kept.push(frame.candidate);
                (frame.candidate, frame.child) = (frame.candidate + 1, 0);
                continue;
            };
            frame.child += 1;
            match states[child] {
                State::Done => {}
                State::Open => (frame.candidate, frame.child) = (frame.candidate + 1, 0),
                State::New => {
                    states[child] = State::Open;
                    stack.push(open(child));
                }
            }
        }
    }
    order
}

/// A class that several candidates read, and that costs something.
struct Shared {
    index: usize,
    /// Whether several read it for next to nothing: names of its results.
    is_bundle: bool,
}

/// The classes that it may be worth to pay once for several readers.
fn shared(problem: &Problem, order: &Order) -> Vec<Shared> {
    let mut readers = vec![(0, 0); problem.classes.len()];
    for candidate in order.iter().flat_map(|(class, kept)| kept.iter().map(|i| &problem.classes[*class][*i])) {
        for child in &candidate.children {
            readers[*child].0 += 1;
            readers[*child].1 += usize::from(candidate.cost <= cost_of(problem, *child) * PAID);
        }
    }
    let shared =
        readers.into_iter().enumerate().map(|(index, (all, names))| (Shared { index, is_bundle: names > 1 }, all));
    shared.filter(|(class, all)| *all > 1 && cost_of(problem, class.index) > 0.0).map(|(class, _)| class).collect()
}

/// What the cheapest candidate of a class costs itself.
fn cost_of(problem: &Problem, class: usize) -> f64 {
    problem.classes[class].iter().map(|c| c.cost).fold(f64::INFINITY, f64::min)
}

/// What the search makes the pass from the leaves up believe of a class.
#[derive(Clone, Copy, Default)]
struct Bias {
    /// It is paid for already.
    paid: bool,
    /// Only this candidate may be taken.
    only: Option<usize>,
}

struct Search<'a> {
    problem: &'a Problem,
    order: Order,
    bias: Vec<Bias>,
    /// Words of a set of classes.
    words: usize,
    /// For each class the classes that its taken candidate needs, itself among them.
    needs: Vec<u64>,
    /// What each class is believed to cost.
    believed: Vec<f64>,
    /// The classes that the choice made last needs.
    used: Vec<u64>,
    /// Those that the best choice needs.
    kept: Vec<u64>,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem, order: Order) -> Search<'a> {
        let count = problem.classes.len();
        let words = count.div_ceil(64).max(1);
        Search {
            problem,
            order,
            bias: vec![Bias::default(); count],
            words,
            needs: vec![0; words * count],
            believed: vec![0.0; count],
            used: vec![0; words],
            kept: vec![0; words],
        }
    }

    /// Pays for a class, or no more; or for it in the place of another: of two bundles with the same results one is enough.
    fn try_shared(&mut self, class: usize, best: &mut Choice) {
        let toggled = |bias: Bias| Bias { paid: !bias.paid, only: None };
        if self.try_move(&[(class, toggled(self.bias[class]))], best) || self.bias[class].paid {
            return;
        }
        let paid: Vec<usize> = (0..self.bias.len()).filter(|c| self.bias[*c].paid).collect();
        for other in paid {
            let changes = [class, other].map(|c| (c, toggled(self.bias[c])));
            if self.try_move(&changes, best) {
                return;
            }
        }
    }

    /// Pays for two bundles at once: what one of them gives may be worth it only to readers that the other has.
    fn try_pairs(&mut self, shared: &[Shared], best: &mut Choice) {
        let bundles: Vec<usize> = shared.iter().filter(|class| class.is_bundle).map(|class| class.index).collect();
        for (i, first) in bundles.iter().enumerate() {
            for second in &bundles[i + 1..] {
                let paid = Bias { paid: true, only: None };
                self.try_move(&[(*first, paid), (*second, paid)], best);
            }
        }
    }

    /// Takes each other candidate of a class that the best choice needs, or any again where one has been fixed.
    fn try_other(&mut self, class: usize, best: &mut Choice) {
        let bias = self.bias[class];
        if bias.only.is_some() {
            self.try_move(&[(class, Bias { only: None, ..bias })], best);
        }
        for candidate in 0..self.problem.classes[class].len() {
            if self.is_kept(class) && best.taken[class] != Some(candidate) {
                self.try_move(&[(class, Bias { only: Some(candidate), ..bias })], best);
            }
        }
    }

    /// Changes the bias of classes, and back unless that lowers the total. If it does not as it is, it is tried with nothing
    /// fixed: what was not worth it before may be so now.
    fn try_move(&mut self, changes: &[(usize, Bias)], best: &mut Choice) -> bool {
        let before = self.bias.clone();
        changes.iter().for_each(|(class, bias)| self.bias[*class] = *bias);
        if self.accepts(best) {
            return true;
        }
        if before.iter().any(|bias| bias.only.is_some()) {
            self.bias.iter_mut().for_each(|bias| bias.only = None);
            if self.accepts(best) {
                return true;
            }
        }
        self.bias = before;
        false
    }

    /// Chooses anew; keeps the choice if its total is lower. Only what it needs is paid for then.
    fn accepts(&mut self, best: &mut Choice) -> bool {
        let choice = self.choose();
        let gains = choice.total < best.total * GAIN;
        if gains {
            *best = choice;
            self.kept.copy_from_slice(&self.used);
            for class in 0..self.bias.len() {
                self.bias[class].paid &= self.is_kept(class);
            }
        }
        gains
    }

    /// Whether the best choice needs the class.
    fn is_kept(&self, class: usize) -> bool {
        self.kept[class / 64] & (1 << (class % 64)) != 0
    }

    /// From the leaves up, the candidate of each class that is believed to cost least with all it needs.
    fn choose(&mut self) -> Choice {
        let mut taken = vec![None; self.problem.classes.len()];
        let mut own = vec![0.0; self.problem.classes.len()];
        let mut needs = vec![0u64; self.words];
        let mut least_needs = vec![0u64; self.words];
        let order = std::mem::take(&mut self.order);
        for (class, kept) in &order {
            let bias = self.bias[*class];
            let mut least = f64::INFINITY;
            for index in kept.iter().filter(|i| bias.only.is_none_or(|only| only == **i)) {
                let candidate = &self.problem.classes[*class][*index];
                if candidate.children.iter().any(|c| taken[*c].is_none()) {
                    continue;
                }
                let cost = if bias.paid { candidate.cost * PAID } else { candidate.cost };
                let total = cost + self.union(candidate, &mut needs);
                if total < least {
                    least = total;
                    taken[*class] = Some(*index);
                    own[*class] = candidate.cost;
                    self.believed[*class] = cost;
                    std::mem::swap(&mut least_needs, &mut needs);
                }
            }
            if taken[*class].is_some() {
                least_needs[class / 64] |= 1 << (class % 64);
                self.needs[class * self.words..][..self.words].copy_from_slice(&least_needs);
            }
        }
        self.order = order;
        let total = self.total(&taken, &own);
        Choice { taken, total }
    }

    /// The classes that a candidate's children need, and what they are believed to cost together.
    fn union(&self, candidate: &Candidate, needs: &mut [u64]) -> f64 {
        needs.fill(0);
        for child in &candidate.children {
            let of_child = &self.needs[child * self.words..][..self.words];
            needs.iter_mut().zip(of_child).for_each(|(n, c)| *n |= c);
        }
        members(needs).map(|class| self.believed[class]).sum()
    }

    /// What the choice truly costs; notes what it needs.
    fn total(&mut self, taken: &[Option<usize>], own: &[f64]) -> f64 {
        self.used.fill(0);
        for root in &self.problem.roots {
            if taken[*root].is_none() {
                return f64::INFINITY;
            }
            let of_root = &self.needs[root * self.words..][..self.words];
            self.used.iter_mut().zip(of_root).for_each(|(n, c)| *n |= c);
        }
        members(&self.used).map(|class| own[class]).sum()
    }
}

/// The classes of a set, lowest first.
fn members(set: &[u64]) -> impl Iterator<Item = usize> + '_ {
    set.iter().enumerate().flat_map(|(word, bits)| {
        let mut bits = *bits;
        std::iter::from_fn(move || {
            (bits != 0).then(|| {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                word * 64 + bit
            })
        })
    })
}
