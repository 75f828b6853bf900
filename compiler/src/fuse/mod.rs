//! Fusion: ops that one launch can carry out become one, found by rules on an e-graph (egg; Willsey et al., POPL 2021) and chosen
//! by what the launches cost on the target.
//!
//! A graph is cut into bodies ([`bodies`]), of which equal ones are worked on once. Rules ([`rules`]) come in two kinds. Those that
//! change rounding decide the bits of a model's results, which must not depend on a step's size: they are tried on the body's
//! term, and the form of least cost over all buckets is taken for all. On that form the exact rules are saturated ([`saturate`]);
//! each bucket then takes what costs least there ([`choose`], [`extract`]), which it may, since both sides of these give the
//! same bits.

pub mod bodies;
mod choose;
pub mod conditions;
mod emit;
pub mod explain;
pub mod extract;
mod labels;
pub mod language;
pub mod price;
mod report;
pub mod rule;
pub mod rules;
pub mod saturate;
pub mod typing;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use egg::Id;
use ir::graph::{Graph, GraphError, ValueId};

use crate::cost::TargetSpec;
use crate::lower::Registry;
use crate::target::Target;
use bodies::{Body, BodyKey};
use choose::{Chosen, Prices, choose};
use emit::{Emitter, Source};
use price::{Price, Roofline};
use saturate::{Compiled, Form, Limits, Saturated, rewrite, saturate};

pub use report::{BodyReport, FuseReport};

/// How much is fused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fusion {
    /// Nothing: each op is a launch of its own.
    Off,
    /// What leaves all bits as they are.
    Exact,
    /// Also what rounds elsewhere.
    Full,
}

impl FromStr for Fusion {
    type Err = String;

    fn from_str(text: &str) -> Result<Fusion, String> {
        match text {
            "off" => Ok(Fusion::Off),
            "exact" => Ok(Fusion::Exact),
            "full" => Ok(Fusion::Full),
            other => Err(format!("unknown fusion {other:?}; there are: off, exact, full")),
        }
    }
}

impl fmt::Display for Fusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fusion::Off => "off",
            Fusion::Exact => "exact",
            Fusion::Full => "full",
        })
    }
}

/// What fusion is told.
#[derive(Clone, Copy)]
pub struct FuseOptions<'a> {
    /// How much is fused.
    pub fusion: Fusion,
    /// The target's rates.
    pub spec: &'a TargetSpec,
    /// What is compiled for.
    pub target: Target,
    /// The lowerings there are: what none carries out is not made.
    pub registry: &'a Registry,
}

/// Why a graph could not be fused.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// A rule cannot be read: a mistake in the table.
    #[error(transparent)]
    Rule(#[from] rule::BadRule),
    /// A rule made an op that cannot be.
    #[error("fusion made an op that cannot be: {0}")]
    Graph(#[from] GraphError),
    /// A node has an attribute that is not of its op.
    #[error("node {node} ({op}): attribute {attribute} is none that the op table knows")]
    Attribute {
        /// The node.
        node: ValueId,
        /// Its op.
        op: &'static str,
        /// The attribute.
        attribute: String,
    },
    /// The graphs of buckets must be the graph that is fused, but for the ranges of symbols.
    #[error("bucket {0:?} is not the graph that is fused with other ranges of its symbols")]
    Bucket(String),
    /// There is no such node to explain.
    #[error("the fused graph has no node {node:?}; {hint}")]
    NoNode {
        /// What was asked for.
        node: String,
        /// Labels that are alike, or how to name a node.
        hint: String,
    },
}

/// What fusion gave.
#[derive(Debug)]
pub struct Fused {
    /// One graph a bucket.
    pub graphs: Vec<Graph>,
    /// What was done.
    pub report: FuseReport,
}

/// Fuses a graph for each of its buckets, which are the graph itself with narrower symbols.
///
/// # Errors
/// [`FuseError`]; of a valid graph only what would be a mistake in a rule.
pub fn fuse(graph: &Graph, buckets: &[Graph], options: &FuseOptions) -> Result<Fused, FuseError> {
    let price = Roofline { registry: options.registry, target: options.target, spec: options.spec };
    fuse_by(graph, buckets, options.fusion, &price, Limits::default())
}

/// As [`fuse`], by any price and within any limits.
///
/// # Errors
/// Those of [`fuse`].
pub fn fuse_by(
    graph: &Graph,
    buckets: &[Graph],
    fusion: Fusion,
    price: &dyn Price,
    limits: Limits,
) -> Result<Fused, FuseError> {
    if fusion == Fusion::Off {
        return Ok(Fused { graphs: buckets.to_vec(), report: FuseReport::default() });
    }
    let plan = Plan::new(graph, buckets, fusion, price, limits)?;
    let graphs = (0..buckets.len()).map(|bucket| Ok(plan.emit(&buckets[bucket], bucket)?.0));
    Ok(Fused { graphs: graphs.collect::<Result<_, FuseError>>()?, report: plan.report() })
}

/// What has been decided for every body and bucket.
struct Plan {
    bodies: Vec<Body>,
    /// Which of the solutions each body has.
    solution_of: Vec<usize>,
    solutions: Vec<Solution>,
}

/// What has been decided for all bodies that are equal.
struct Solution {
    /// The first of them.
    body: usize,
    /// Its term, after rules that change rounding.
    form: Form,
    /// What was chosen, one a bucket.
    chosen: Vec<Chosen>,
    /// What the report says.
    report: BodyReport,
}

impl Plan {
    fn new(
        graph: &Graph,
        buckets: &[Graph],
        fusion: Fusion,
        price: &dyn Price,
        limits: Limits,
    ) -> Result<Plan, FuseError> {
        if let Some(other) = buckets.iter().find(|b| b.nodes != graph.nodes || b.outputs != graph.outputs) {
            return Err(FuseError::Bucket(other.name.clone()));
        }
        let bodies = bodies::cut(graph, &|node| price.stays(graph, node))?;
        let rules = Compiled::new()?;
        let mut prices: Vec<Prices> = buckets.iter().map(|b| Prices::new(price, &b.symbols)).collect();
        let mut known: HashMap<BodyKey, usize> = HashMap::new();
        let mut plan = Plan { bodies: Vec::new(), solution_of: Vec::new(), solutions: Vec::new() };
        for (index, body) in bodies.iter().enumerate() {
            let next = plan.solutions.len();
            let solution = *known.entry(body.key(graph)).or_insert(next);
            if solution == next {
                let solver = Solver { graph, buckets, rules: &rules, limits, body };
                plan.solutions.push(solver.solve(index, fusion, &mut prices));
            }
            plan.solutions[solution].report.copies += 1;
            plan.solution_of.push(solution);
        }
        plan.bodies = bodies;
        Ok(plan)
    }

    /// The fused graph of a bucket, and where its nodes come from.
    fn emit(&self, bucket_graph: &Graph, bucket: usize) -> Result<(Graph, Vec<Option<Source>>), FuseError> {
        let mut emitter = Emitter::new(bucket_graph);
        for (index, (body, solution)) in self.bodies.iter().zip(&self.solution_of).enumerate() {
            emitter.body(index, body, &self.solutions[*solution].chosen[bucket])?;
        }
        Ok(emitter.finish())
    }

    fn report(&self) -> FuseReport {
        FuseReport { bodies: self.solutions.iter().map(|s| s.report.clone()).collect() }
    }
}

/// A form that rounds elsewhere is taken if it is faster by more than costs are good for.
const WORTH_ROUNDING: f64 = 0.999;

/// Decides for one body.
struct Solver<'a> {
    graph: &'a Graph,
    buckets: &'a [Graph],
    rules: &'a Compiled,
    limits: Limits,
    body: &'a Body,
}

/// A form with what is chosen of it in each bucket.
struct Attempt {
    form: Form,
    saturated: Saturated,
    chosen: Vec<Chosen>,
    /// Seconds a token, summed over the buckets.
    seconds: f64,
}

impl Solver<'_> {
    fn solve(&self, index: usize, fusion: Fusion, prices: &mut [Prices]) -> Solution {
        let mut form = self.original();
        let mut best = self.attempt(form.clone(), prices);
        let (mut limit, mut fired) = (best.saturated.limit, best.saturated.fired.clone());
        let rounding = if fusion == Fusion::Full { self.rules.rounding.as_slice() } else { &[] };
        for (rule, compiled) in rounding {
            let Some(rewritten) = rewrite(&form, &self.body.typing(self.graph), rule, compiled) else { continue };
            form = rewritten;
            let attempt = self.attempt(form.clone(), prices);
            count(&mut fired, form.rounded_by.last().map(|(rule, times)| (rule.name, *times)));
            count(&mut fired, attempt.saturated.fired.iter().map(|(name, times)| (name.as_str(), *times)));
            limit = limit.or(attempt.saturated.limit);
            if attempt.seconds < best.seconds * WORTH_ROUNDING {
                best = attempt;
            }
        }
        let Attempt { form, saturated, chosen, .. } = best;
        let report = BodyReport {
            first: self.graph.node(self.body.nodes[0]).name.clone(),
            copies: 0,
            nodes: self.body.nodes.len(),
            terms: saturated.classes.total_number_of_nodes(),
            rounds: saturated.rounds,
            limit,
            fired,
            rounded_by: form.rounded_by.iter().map(|(rule, times)| (rule.name, *times)).collect(),
            seconds: chosen.iter().map(|c| c.seconds).collect(),
        };
        Solution { body: index, form, chosen, report }
    }

    fn original(&self) -> Form {
        let places = self.body.places.iter().copied().map(Some).collect();
        Form { term: self.body.term.clone(), places, rounded_by: Vec::new() }
    }

    fn attempt(&self, form: Form, prices: &mut [Prices]) -> Attempt {
        let saturated = saturate(&form, self.body.typing(self.graph), &self.rules.exact, self.limits, false);
        let roots: Vec<Id> = self.body.outputs.iter().filter_map(|i| form.places[*i]).collect();
        let chosen: Vec<Chosen> = prices.iter_mut().map(|p| choose(&saturated, &form, &roots, p)).collect();
        let seconds = chosen.iter().zip(self.buckets).map(|(c, b)| c.seconds / tokens(b)).sum();
        Attempt { form, saturated, chosen, seconds }
    }
}

/// Adds counts to those there are.
fn count<'a>(fired: &mut BTreeMap<String, usize>, more: impl IntoIterator<Item = (&'a str, usize)>) {
    for (name, times) in more {
        *fired.entry(name.to_string()).or_insert(0) += times;
    }
}

/// Most tokens of a step.
fn tokens(graph: &Graph) -> f64 {
    graph.symbols.iter().find(|s| s.name == "T").map_or(1.0, |s| s.max.max(1) as f64)
}
