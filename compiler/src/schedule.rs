//! Scheduling: the order of launches.
//!
//! Any order that respects data and state dependencies is correct; the one chosen keeps little memory live. A greedy walk
//! takes, of the launches that are ready, the one that adds least to the live bytes; graph order is kept where it is better.
//! What a launch adds changes only when a buffer comes to life or has one user left, so the walk looks again at no other
//! launch than those users: its time is that of sorting the launches.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use ir::program::{Access, Arg, BufferId, Launch, Program};

use crate::lower::Lowered;

/// Reorders the launches of a lowered program.
pub fn schedule(mut lowered: Lowered) -> Lowered {
    let order = greedy_order(&lowered.program);
    let reordered = permute(&lowered.program, &order);
    if reordered.arena_lower_bound() < lowered.program.arena_lower_bound() {
        let mut new_index = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, old)| new_index[*old] = new);
        lowered.in_place.iter_mut().for_each(|p| p.launch = new_index[p.launch]);
        lowered.program = reordered;
    }
    lowered
}

fn permute(program: &Program, order: &[usize]) -> Program {
    Program { launches: order.iter().map(|i| program.launches[*i].clone()).collect(), ..program.clone() }
}

/// Memory whose accesses have an order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Resource {
    Buffer(BufferId),
    State(u32),
}

/// The last launch that wrote a resource, and those that read it since.
#[derive(Default)]
struct Accesses {
    writer: Option<usize>,
    readers: Vec<usize>,
}

/// Which launches wait for each launch, and for how many each waits.
struct Dependencies {
    followers: Vec<Vec<usize>>,
    waiting: Vec<usize>,
}

impl Dependencies {
    /// A reader waits for the writer before it, a writer for that and for the readers since.
    fn of(program: &Program) -> Dependencies {
        let count = program.launches.len();
        let mut dependencies = Dependencies { followers: vec![Vec::new(); count], waiting: vec![0; count] };
        let mut accesses: HashMap<Resource, Accesses> = HashMap::new();
        for (at, launch) in program.launches.iter().enumerate() {
            for (resource, access) in launch.args.iter().filter_map(resource) {
                let seen = accesses.entry(resource).or_default();
                if let Some(writer) = seen.writer {
                    dependencies.add(writer, at);
                }
                if access == Access::Read {
                    seen.readers.push(at);
                } else {
                    seen.readers.drain(..).for_each(|reader| dependencies.add(reader, at));
                    seen.writer = Some(at);
                }
            }
        }
        dependencies
    }

    fn add(&mut self, before: usize, after: usize) {
        if before != after {
            self.followers[before].push(after);
            self.waiting[after] += 1;
        }
    }
}

fn resource((_, arg): &(String, Arg)) -> Option<(Resource, Access)> {
    match arg {
        Arg::Buffer(id, access) => Some((Resource::Buffer(*id), *access)),
        Arg::State(index, access) => Some((Resource::State(*index), *access)),
        _ => None,
    }
}

fn greedy_order(program: &Program) -> Vec<usize> {
    let Dependencies { followers, mut waiting } = Dependencies::of(program);
    let mut live = LiveBytes::new(program);
    let count = waiting.len();
    let mut is_done = vec![false; count];
    let entry = |live: &LiveBytes, i: usize| Reverse((live.growth(i), i));
    let mut ready: BinaryHeap<_> = (0..count).filter(|i| waiting[*i] == 0).map(|i| entry(&live, i)).collect();
    let mut order = Vec::with_capacity(count);
    while let Some(Reverse((growth, best))) = ready.pop() {
        // An entry is out of date if the launch was looked at again since.
        if is_done[best] || growth != live.growth(best) {
            continue;
        }
        is_done[best] = true;
        order.push(best);
        for changed in live.run(best) {
            if waiting[changed] == 0 && !is_done[changed] {
                ready.push(entry(&live, changed));
            }
        }
        for next in &followers[best] {
            waiting[*next] -= 1;
            if waiting[*next] == 0 {
                ready.push(entry(&live, *next));
            }
        }
    }
    order
}

/// Which buffers are live as launches run, and how many launches will still touch each.
struct LiveBytes {
    bytes: Vec<i64>,
    /// Launches that touch each buffer; an output has one more user, the end.
    users: Vec<Vec<usize>>,
    users_left: Vec<usize>,
    live: Vec<bool>,
    is_done: Vec<bool>,
    /// Buffers of each launch, each once.
    touched: Vec<Vec<usize>>,
}

impl LiveBytes {
    fn new(program: &Program) -> LiveBytes {
        let bounds = program.upper_bounds();
        let most = i64::MAX / (program.buffers.len() as i64 + 1);
        let size = |bytes: Option<u64>| bytes.and_then(|b| i64::try_from(b).ok()).unwrap_or(most).min(most);
        let bytes = program.buffers.iter().map(|b| size(b.ty.bytes(&bounds))).collect();
        let touched: Vec<Vec<usize>> = program.launches.iter().map(touched).collect();
        let mut users = vec![Vec::new(); program.buffers.len()];
        for (at, buffers) in touched.iter().enumerate() {
            buffers.iter().for_each(|b| users[*b].push(at));
        }
        let mut users_left: Vec<usize> = users.iter().map(Vec::len).collect();
        program.outputs.iter().for_each(|(_, id)| users_left[id.0 as usize] += 1);
        let (live, is_done) = (vec![false; program.buffers.len()], vec![false; program.launches.len()]);
        LiveBytes { bytes, users, users_left, live, is_done, touched }
    }

    /// Bytes that running a launch adds to the live set, net of what it frees.
    fn growth(&self, launch: usize) -> i64 {
        let of = |b: &usize| {
            let added = if self.live[*b] { 0 } else { self.bytes[*b] };
            let freed = if self.users_left[*b] == 1 { self.bytes[*b] } else { 0 };
            added - freed
        };
        self.touched[launch].iter().map(of).sum()
    }

    /// Runs a launch; gives the launches whose growth that may have changed.
    fn run(&mut self, launch: usize) -> Vec<usize> {
        self.is_done[launch] = true;
        let mut changed = Vec::new();
        for b in &self.touched[launch] {
            let was_live = self.live[*b];
            self.users_left[*b] -= 1;
            self.live[*b] = self.users_left[*b] > 0;
            if !was_live || self.users_left[*b] == 1 {
                changed.extend(self.users[*b].iter().filter(|user| !self.is_done[**user]));
            }
        }
        changed
    }
}

/// The buffers of a launch, each once.
fn touched(launch: &Launch) -> Vec<usize> {
    let buffer = |arg: &Arg| if let Arg::Buffer(id, _) = arg { Some(id.0 as usize) } else { None };
    let mut buffers: Vec<usize> = launch.args.iter().filter_map(|(_, arg)| buffer(arg)).collect();
    buffers.sort_unstable();
    buffers.dedup();
    buffers
}
