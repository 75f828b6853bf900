//! What a node of the e-graph costs: the seconds of the launches that its lowering emits, in a graph of its own.

use ir::graph::{Graph, Node};
use ir::op::Op;

use crate::cost::{self, TargetSpec};
use crate::lower::{self, Registry};
use crate::target::Target;

/// A measure of graphs.
pub trait Price {
    /// The cost of the one node of a graph that is no operand of another, with the inline operands it carries out; `None` if nothing
    /// can carry it out.
    fn of(&self, graph: &Graph) -> Option<f64>;

    /// Whether a node is a user's own to carry out, so that no rule may take it.
    fn stays(&self, graph: &Graph, node: &Node) -> bool {
        let _ = (graph, node);
        false
    }
}

/// Every op that takes a launch costs a microsecond, whatever it moves: a cost that needs no lowerings.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaunchCount;

impl Price for LaunchCount {
    fn of(&self, graph: &Graph) -> Option<f64> {
        Some(graph.nodes.iter().filter(|n| n.op().is_some_and(takes_launch)).count() as f64 * 1e-6)
    }
}

/// Whether an op is a launch, and not a view of its operand, a name, or a part of those that read it.
pub fn takes_launch(op: Op) -> bool {
    !(op.is_view() || op.is_inline() || matches!(op, Op::Part | Op::After))
}

/// Roofline seconds of the launches on a target.
pub struct Roofline<'a> {
    /// The lowerings there are.
    pub registry: &'a Registry,
    /// What is compiled for.
    pub target: Target,
    /// The target's rates.
    pub spec: &'a TargetSpec,
}

impl Price for Roofline<'_> {
    fn of(&self, graph: &Graph) -> Option<f64> {
        let program = lower::lower(graph, self.registry, self.target).ok()?.program;
        Some(program.launches.iter().map(|launch| cost::launch_cost(&program, launch, self.spec).seconds).sum())
    }

    fn stays(&self, graph: &Graph, node: &Node) -> bool {
        self.registry.is_own(graph, node, self.target)
    }
}
