//! Rules at work: exact ones all together on an e-graph until nothing is left to find, those that change rounding one after the
//! other on the term itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use egg::{EGraph, Id, Language, RecExpr, Rewrite, Runner, SimpleScheduler, StopReason};

use super::language::Term;
use super::rule::{BadRule, Exactness, Rule};
use super::rules::RULES;
use super::typing::{Body as Classes, Typing};

/// Bounds of a saturation. There is none on time: the same input must give the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most nodes of an e-graph.
    pub nodes: usize,
    /// Most rounds of all rules.
    pub rounds: usize,
}

impl Default for Limits {
    /// Some thirty times what the largest body of a known family needs.
    fn default() -> Limits {
        Limits { nodes: 50_000, rounds: 64 }
    }
}

/// A limit that was hit: rules were left that might have found more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitHit {
    /// Nodes of the e-graph.
    Nodes(usize),
    /// Rounds of all rules.
    Rounds(usize),
}

/// The rules as egg runs them.
pub struct Compiled {
    /// All exact rules.
    pub exact: Vec<Rewrite<Term, Typing>>,
    /// Each rule that changes rounding.
    pub rounding: Vec<(&'static Rule, Rewrite<Term, Typing>)>,
}

impl Compiled {
    /// Every rule of the table.
    ///
    /// # Errors
    /// A rule's text cannot be read.
    pub fn new() -> Result<Compiled, BadRule> {
        let (mut exact, mut rounding) = (Vec::new(), Vec::new());
        for rule in RULES {
            match rule.exactness {
                Exactness::Exact => exact.push(rule.compile()?),
                Exactness::Rounding(_) => rounding.push((rule, rule.compile()?)),
            }
        }
        Ok(Compiled { exact, rounding })
    }
}

/// A body's term, and where the values of its nodes stand in it: `None` for one that is not needed any more.
#[derive(Clone, Debug)]
pub struct Form {
    /// The term.
    pub term: RecExpr<Term>,
    /// Where the value of each node of the body stands.
    pub places: Vec<Option<Id>>,
    /// The rules that changed rounding on the way here, and how often each did.
    pub rounded_by: Vec<(&'static Rule, usize)>,
}

/// An e-graph in which rules have found all they can.
pub struct Saturated {
    /// The e-graph.
    pub classes: Classes,
    /// The class of each node of the form's term.
    pub ids: Vec<Id>,
    /// How often each rule found something new.
    pub fired: BTreeMap<String, usize>,
    /// Rounds of all rules.
    pub rounds: usize,
    /// The limit that ended it, if one did.
    pub limit: Option<LimitHit>,
}

/// Runs the rules on a form.
pub fn saturate(
    form: &Form,
    typing: Typing,
    rules: &[Rewrite<Term, Typing>],
    limits: Limits,
    explanations: bool,
) -> Saturated {
    let (classes, ids) = classes_of(&form.term, typing, explanations);
    let runner = Runner::<Term, Typing, ()>::new(Typing::default())
        .with_egraph(classes)
        .with_scheduler(SimpleScheduler)
        .with_node_limit(limits.nodes)
        .with_iter_limit(limits.rounds)
        .with_time_limit(Duration::MAX)
        .run(rules);
    let mut fired = BTreeMap::new();
    for (name, times) in runner.iterations.iter().flat_map(|i| &i.applied) {
        *fired.entry(name.to_string()).or_insert(0) += times;
    }
    let limit = match &runner.stop_reason {
        Some(StopReason::NodeLimit(nodes)) => Some(LimitHit::Nodes(*nodes)),
        Some(StopReason::IterationLimit(rounds)) => Some(LimitHit::Rounds(*rounds)),
        _ => None,
    };
    Saturated { rounds: runner.iterations.len(), classes: runner.egraph, ids, fired, limit }
}

/// An e-graph of a term alone.
fn classes_of(term: &RecExpr<Term>, typing: Typing, explanations: bool) -> (Classes, Vec<Id>) {
    let mut classes = EGraph::new(typing);
    if explanations {
        classes = classes.with_explanations_enabled();
    }
    let mut ids: Vec<Id> = Vec::with_capacity(term.len());
    for node in term.as_ref() {
        let node = node.clone().map_children(|c| ids[usize::from(c)]);
        ids.push(classes.add_uncanonical(node));
    }
    classes.rebuild();
    (classes, ids)
}

/// Applies one rule to a form wherever it finds something; `None` if it does not.
pub fn rewrite(form: &Form, typing: &Typing, rule: &'static Rule, rewrite: &Rewrite<Term, Typing>) -> Option<Form> {
    let (mut classes, ids) = classes_of(&form.term, typing.clone(), false);
    let before: HashSet<Term> =
        form.term.as_ref().iter().map(|t| t.clone().map_children(|c| classes.find(ids[usize::from(c)]))).collect();
    let matches = rewrite.search(&classes);
    let applied = rewrite.apply(&mut classes, &matches).len();
    classes.rebuild();
    if applied == 0 {
        return None;
    }
    let before: HashSet<Term> = before.into_iter().map(|t| t.map_children(|c| classes.find(c))).collect();
    let mut builder = Rewritten { classes: &classes, before, term: RecExpr::default(), done: HashMap::new() };
    let places: Vec<Id> = form.places.iter().flatten().map(|p| builder.build(ids[usize::from(*p)])).collect();
    let mut places = places.into_iter();
    let places = form.places.iter().map(|p| p.and_then(|_| places.next())).collect();
    let mut rounded_by = form.rounded_by.clone();
    rounded_by.push((rule, applied));
    Some(Form { term: builder.term, places, rounded_by })
}

/// A term being read from an e-graph in which some classes have what a rule put there beside what was there before.
struct Rewritten<'a> {
    classes: &'a Classes,
    before: HashSet<Term>,
    term: RecExpr<Term>,
    done: HashMap<Id, Id>,
}

impl Rewritten<'_> {
    fn build(&mut self, class: Id) -> Id {
        let class = self.classes.find(class);
        if let Some(id) = self.done.get(&class) {
            return *id;
        }
        let terms = &self.classes[class].nodes;
        let is_new = |t: &&Term| !self.before.contains(&(*t).clone().map_children(|c| self.classes.find(c)));
        let term = terms.iter().find(is_new).unwrap_or(&terms[0]).clone();
        let term = term.map_children(|c| self.build(c));
        let id = self.term.add(term);
        self.done.insert(class, id);
        id
    }
}
