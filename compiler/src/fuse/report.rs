//! What fusion did, for people and tests.

use std::collections::BTreeMap;
use std::fmt;

use super::saturate::LimitHit;

/// What was done with bodies that are equal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BodyReport {
    /// The label of the first node of the first of them.
    pub first: String,
    /// How many there are.
    pub copies: usize,
    /// Nodes of one.
    pub nodes: usize,
    /// Terms of the e-graph.
    pub terms: usize,
    /// Rounds of all rules.
    pub rounds: usize,
    /// The limit that ended a saturation before all was found.
    pub limit: Option<LimitHit>,
    /// How often each rule found something new, in any form that was tried.
    pub fired: BTreeMap<String, usize>,
    /// The rules that changed rounding in the form that was taken, and how often each did.
    pub rounded_by: Vec<(&'static str, usize)>,
    /// What a step costs, one number a bucket, in the price's unit (seconds).
    pub seconds: Vec<f64>,
}

/// What fusion did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FuseReport {
    /// One entry for each kind of body, in order of first appearance.
    pub bodies: Vec<BodyReport>,
}

impl FuseReport {
    /// One line for each limit that was hit: rules were left that might have found more.
    pub fn limits(&self) -> Vec<String> {
        let hit = |b: &BodyReport| {
            b.limit.map(|limit| format!("fusion of the {} bodies from {:?} on {limit}", b.copies, b.first))
        };
        self.bodies.iter().filter_map(hit).collect()
    }

    /// The names of all rules that found something.
    pub fn rules(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.bodies.iter().flat_map(|b| b.fired.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl fmt::Display for LimitHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitHit::Nodes(n) => write!(f, "ended at {n} nodes of the e-graph; the result is right but may be slower"),
            LimitHit::Rounds(n) => write!(f, "ended after {n} rounds of rules; the result is right but may be slower"),
        }
    }
}

impl fmt::Display for FuseReport {
    /// One line a kind of body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in &self.bodies {
            let names: Vec<&str> = b.rounded_by.iter().map(|(name, _)| *name).collect();
            let rounding = if names.is_empty() { "none".to_string() } else { names.join(", ") };
            writeln!(
                f,
                "{} bodies of {} nodes from {:?}: {} terms in {} rounds; rules that change rounding: {rounding}",
                b.copies, b.nodes, b.first, b.terms, b.rounds
            )?;
        }
        self.limits().iter().try_for_each(|line| writeln!(f, "warning: {line}"))
    }
}
