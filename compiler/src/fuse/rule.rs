//! What a rule is, and how it works on an e-graph.
//!
//! A rule is data: text on both sides, names of conditions, a statement, and whether it changes rounding. On top of what egg does
//! itself, a side may be several terms at once (`?a = …, ?b = …`), the right side may have attributes that are worked out
//! from the left's types, and nothing is united with what has another type.

use egg::{
    Applier, EGraph, ENodeOrVar, Id, MultiPattern, Pattern, PatternAst, Rewrite, SearchMatches, Searcher, Subst,
    Symbol, Var,
};

use super::conditions::Match;
use super::language::{Head, Term};
use super::typing::{Body, Typing};

/// What a rule does to the numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Exactness {
    /// Both sides give the same bits: the same operations in the same order.
    Exact,
    /// Numbers are rounded elsewhere; the results differ by at most this, relative to the largest.
    Rounding(f64),
}

/// A test of what a rule has found: the function and the variables it is given.
pub type Condition = (fn(&Match, &[&str]) -> bool, &'static [&'static str]);

/// A variable of the right side, the function that gives its value, and the variables that is given.
pub type Let = (&'static str, fn(&Match, &[&str]) -> Option<Head>, &'static [&'static str]);

/// A directed rewrite.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it says, in one sentence.
    pub statement: &'static str,
    /// What it does to the numbers.
    pub exactness: Exactness,
    /// What it finds: one term, or several named ones.
    pub find: &'static str,
    /// What it puts in the place of each.
    pub put: &'static str,
    /// Attributes it works out.
    pub lets: &'static [Let],
    /// What must hold.
    pub conditions: &'static [Condition],
}

/// A rule's text that cannot be read: a mistake in the table of rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule}: {message}")]
pub struct BadRule {
    /// The rule.
    pub rule: &'static str,
    /// What is wrong.
    pub message: String,
}

/// The name of the one term of a side that names none.
const ONLY: &str = "?result";

/// Named terms of one side.
type Side = Vec<(Var, PatternAst<Term>)>;

impl Rule {
    /// What egg runs.
    ///
    /// # Errors
    /// A side cannot be read, or has a variable that nothing gives a value.
    pub fn compile(&'static self) -> Result<Rewrite<Term, Typing>, BadRule> {
        let fail = |message: String| BadRule { rule: self.name, message };
        let (find, put) = (side(self.find).map_err(fail)?, side(self.put).map_err(fail)?);
        let applier = Put { rule: self, find: find.clone(), put };
        self.check(&applier).map_err(fail)?;
        let searcher = Find(match find.as_slice() {
            [(_, pattern)] => Finder::One(Pattern::new(pattern.clone())),
            _ => Finder::Several(MultiPattern::new(find)),
        });
        Rewrite::new(self.name, searcher, applier).map_err(fail)
    }

    /// Every variable of the right side must be given by the left, a `let`, or a term before it.
    fn check(&self, applier: &Put) -> Result<(), String> {
        let variables = |side: &Side| side.iter().flat_map(|(_, p)| variables(p)).collect::<Vec<Var>>();
        let mut known = variables(&applier.find);
        known.extend(applier.find.iter().map(|(v, _)| *v));
        for (name, ..) in self.lets {
            known.push(variable(name)?);
        }
        for (name, pattern) in &applier.put {
            if let Some(unknown) = self::variables(pattern).find(|v| !known.contains(v)) {
                return Err(format!("nothing gives {unknown} a value"));
            }
            known.push(*name);
        }
        Ok(())
    }
}

fn variables(pattern: &PatternAst<Term>) -> impl Iterator<Item = Var> {
    pattern.as_ref().iter().filter_map(|node| if let ENodeOrVar::Var(v) = node { Some(*v) } else { None })
}

fn variable(name: &str) -> Result<Var, String> {
    name.parse().map_err(|_| format!("{name} is no variable"))
}

/// Reads `TERM` or `?a = TERM, ?b = TERM`.
fn side(text: &str) -> Result<Side, String> {
    let pattern = |text: &str| text.trim().parse::<PatternAst<Term>>().map_err(|e| format!("{e} in {text}"));
    if !text.contains('=') {
        return Ok(vec![(variable(ONLY)?, pattern(text)?)]);
    }
    let term = |part: &str| {
        let (name, term) = part.split_once('=').ok_or_else(|| format!("expected ?name = term, found {part}"))?;
        Ok((variable(name.trim())?, pattern(term)?))
    };
    text.split(',').map(term).collect()
}

/// The left side.
struct Find(Finder);

enum Finder {
    One(Pattern<Term>),
    Several(MultiPattern<Term>),
}

impl Searcher<Term, Typing> for Find {
    fn search_with_limit(&self, egraph: &Body, limit: usize) -> Vec<SearchMatches<'_, Term>> {
        match &self.0 {
            Finder::One(pattern) => pattern.search_with_limit(egraph, limit),
            Finder::Several(pattern) => pattern.search_with_limit(egraph, limit),
        }
    }

    fn search_eclass_with_limit(&self, egraph: &Body, class: Id, limit: usize) -> Option<SearchMatches<'_, Term>> {
        match &self.0 {
            Finder::One(pattern) => pattern.search_eclass_with_limit(egraph, class, limit),
            Finder::Several(pattern) => pattern.search_eclass_with_limit(egraph, class, limit),
        }
    }

    fn vars(&self) -> Vec<Var> {
        match &self.0 {
            Finder::One(pattern) => pattern.vars(),
            Finder::Several(pattern) => Searcher::<Term, Typing>::vars(pattern),
        }
    }
}

/// The right side.
struct Put {
    rule: &'static Rule,
    find: Side,
    put: Side,
}

impl Applier<Term, Typing> for Put {
    fn apply_one(
        &self,
        egraph: &mut Body,
        class: Id,
        subst: &Subst,
        _: Option<&PatternAst<Term>>,
        name: Symbol,
    ) -> Vec<Id> {
        let Some(mut subst) = self.extended(egraph, class, subst) else { return Vec::new() };
        let mut changed = Vec::new();
        for (target, pattern) in &self.put {
            let result = instantiate(egraph, pattern, &subst);
            let found = self.find.iter().find(|(v, _)| v == target);
            if let Some((_, found)) = found {
                let found = instantiate(egraph, found, &subst);
                if egraph[found].data.value == egraph[result].data.value && egraph.union_trusted(found, result, name) {
                    changed.push(egraph.find(result));
                }
            }
            subst.insert(*target, result);
        }
        changed
    }
}

impl Put {
    /// The values of all variables, if the conditions hold.
    fn extended(&self, egraph: &mut Body, class: Id, subst: &Subst) -> Option<Subst> {
        let mut subst = subst.clone();
        if let [(only, _)] = self.find.as_slice() {
            subst.insert(*only, class);
        }
        let found = Match { egraph, subst: &subst };
        if !self.rule.conditions.iter().all(|(holds, of)| holds(&found, of)) {
            return None;
        }
        let values: Option<Vec<(Var, Head)>> =
            self.rule.lets.iter().map(|(name, value, of)| Some((variable(name).ok()?, value(&found, of)?))).collect();
        for (name, head) in values? {
            let id = egraph.add(Term::leaf(head));
            subst.insert(name, id);
        }
        Some(subst)
    }
}

/// Adds a pattern's term; where explanations are on, the id given stands for exactly this term.
fn instantiate(egraph: &mut EGraph<Term, Typing>, pattern: &PatternAst<Term>, subst: &Subst) -> Id {
    let mut ids: Vec<Id> = Vec::with_capacity(pattern.as_ref().len());
    for node in pattern.as_ref() {
        ids.push(match node {
            ENodeOrVar::Var(v) => subst[*v],
            ENodeOrVar::ENode(term) => {
                let children: Box<[Id]> = term.children.iter().map(|c| ids[usize::from(*c)]).collect();
                egraph.add_uncanonical(Term { head: term.head, children })
            }
        });
    }
    ids.last().copied().unwrap_or_else(|| Id::from(0))
}
