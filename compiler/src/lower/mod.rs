//! Lowering: each op of the graph becomes launches of catalog kernels, through a registry of [`Lowering`]s.
//!
//! The built-in lowerings stand in [`built_in`] and use only what is public here, so that a user's own lowering is on the
//! same footing: it is registered after them and is asked first.

mod attention;
mod elementwise;
mod fused_heads;
mod fused_mixture;
mod fused_products;
mod fused_rows;
mod inline;
mod matmul;
mod mixture;
mod rows;
mod source;

use ir::graph::{Graph, Node, NodeKind, ValueId};
use ir::op::Op;
use ir::program::{Access, Arg, Binding, Buffer, BufferId, Launch, Program};
use ir::types::{DType, Dim, TensorType};

use crate::target::Target;

/// A way to carry out an op on a target.
pub trait Lowering: Send + Sync {
    /// Its name, for messages and reports.
    fn name(&self) -> &'static str;

    /// Whether it takes this node.
    fn accepts(&self, graph: &Graph, node: &Node, target: Target) -> bool;

    /// Emits launches and says where the result is, through [`Context`].
    fn lower(&self, context: &mut Context) -> Result<(), LowerError>;

    /// Whether its launches carry out inline operands ([`Op::is_inline`]), which are computed nowhere else.
    fn carries_out(&self, inline: Op) -> bool {
        let _ = inline;
        false
    }
}

/// A node that cannot be lowered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {value} ({op}{label}): {message}")]
pub struct LowerError {
    /// The node.
    pub value: ValueId,
    /// Its op.
    pub op: &'static str,
    /// Its label, preceded by a blank, or empty.
    pub label: String,
    /// What is wrong and the way out.
    pub message: String,
}

/// The lowerings known to a compilation. The one registered last is asked first.
pub struct Registry {
    lowerings: Vec<Box<dyn Lowering>>,
    /// How many of them, the first, are built in.
    built_in: usize,
}

impl Default for Registry {
    fn default() -> Registry {
        let lowerings = built_in();
        Registry { built_in: lowerings.len(), lowerings }
    }
}

/// Every built-in lowering.
fn built_in() -> Vec<Box<dyn Lowering>> {
    vec![
        Box::new(rows::Embedding),
        Box::new(rows::GatherRows),
        Box::new(rows::Norm),
        Box::new(rows::QuantizeRows),
        Box::new(rows::SigmoidGate),
        Box::new(rows::Concat),
        Box::new(matmul::Matmul),
        Box::new(mixture::Router),
        Box::new(mixture::GroupedMatmul),
        Box::new(mixture::Combine),
        Box::new(mixture::PermuteColumns),
        Box::new(attention::View),
        Box::new(inline::Inline),
        Box::new(inline::Names),
        Box::new(attention::Rope),
        Box::new(attention::KvAppend),
        Box::new(attention::Attention),
        Box::new(elementwise::Pairwise),
        Box::new(elementwise::Unary),
        Box::new(fused_rows::Cast),
        Box::new(fused_rows::ScaleColumns),
        Box::new(fused_rows::SquareSums),
        Box::new(fused_rows::ScaleRows),
        Box::new(fused_rows::ColumnPartials),
        Box::new(fused_rows::FinishLogits),
        Box::new(fused_rows::NormQuantize),
        Box::new(fused_rows::NormAdd),
        Box::new(fused_mixture::CombineAdd),
        Box::new(fused_mixture::CombineDown),
        Box::new(fused_heads::Heads),
        Box::new(fused_products::Project),
        Box::new(fused_products::GateUp),
        Box::new(fused_products::Route),
    ]
}

impl Registry {
    /// Adds a lowering; it takes precedence over those registered before, and fusion leaves the ops it takes as they are.
    pub fn register(&mut self, lowering: Box<dyn Lowering>) {
        self.lowerings.push(lowering);
    }

    /// Whether a registered lowering, none that is built in, takes a node.
    pub fn is_own(&self, graph: &Graph, node: &Node, target: Target) -> bool {
        self.lowerings[self.built_in..].iter().any(|l| l.accepts(graph, node, target))
    }

    fn find(&self, graph: &Graph, node: &Node, target: Target) -> Option<&dyn Lowering> {
        self.lowerings.iter().rev().map(AsRef::as_ref).find(|l| l.accepts(graph, node, target))
    }
}

/// A result a launch may write over an operand that nothing reads afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InPlace {
    /// Index of the launch.
    pub launch: usize,
    /// The buffer written.
    pub result: BufferId,
    /// The buffer read, of the same size.
    pub operand: BufferId,
}

/// A lowered graph: a program whose buffers have no place yet.
#[derive(Debug)]
pub struct Lowered {
    /// Launches in graph order; every offset is 0.
    pub program: Program,
    /// What the planner may put in one place.
    pub in_place: Vec<InPlace>,
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Buffer(BufferId),
    Input(u32),
    Weight(u32),
    State(u32),
    /// Nowhere: what reads it carries it out.
    Inline,
}

/// Lowers a graph for a target.
pub fn lower(graph: &Graph, registry: &Registry, target: Target) -> Result<Lowered, LowerError> {
    let mut program = Program { name: graph.name.clone(), symbols: graph.symbols.clone(), ..Program::default() };
    let mut places: Vec<Vec<Place>> = Vec::with_capacity(graph.nodes.len());
    let mut in_place = Vec::new();
    for (value, node) in graph.values() {
        let binding = Binding { name: node.name.clone(), ty: node.ty.clone() };
        let place = match &node.kind {
            NodeKind::Input => vec![bind(&mut program.inputs, binding, Place::Input)],
            NodeKind::Weight | NodeKind::Constant(_) => vec![bind(&mut program.weights, binding, Place::Weight)],
            NodeKind::State => vec![bind(&mut program.states, binding, Place::State)],
            NodeKind::Op { .. } => {
                let mut context = Context {
                    graph,
                    value,
                    node,
                    program: &mut program,
                    places: &places,
                    in_place: &mut in_place,
                    results: vec![None; node.more.len() + 1],
                };
                let lowering = registry
                    .find(graph, node, target)
                    .ok_or_else(|| context.error(format!("no lowering takes it on target {target}; register one")))?;
                context.check_inline(lowering)?;
                lowering.lower(&mut context)?;
                let results: Option<Vec<Place>> = context.results.iter().copied().collect();
                results.ok_or_else(|| context.error(format!("the lowering {} gave no result", lowering.name())))?
            }
        };
        places.push(place);
    }
    for (name, value) in &graph.outputs {
        match places[value.index()][0] {
            Place::Buffer(id) => program.outputs.push((name.clone(), id)),
            _ => {
                return Err(LowerError {
                    value: *value,
                    op: graph.node(*value).op().map_or("no op", |o| o.name()),
                    label: format!(" {}", graph.node(*value).name),
                    message: format!("output {name:?} must be computed in the step"),
                });
            }
        }
    }
    Ok(Lowered { program, in_place })
}

fn bind(bindings: &mut Vec<Binding>, binding: Binding, place: fn(u32) -> Place) -> Place {
    bindings.push(binding);
    place(bindings.len() as u32 - 1)
}

/// What a lowering sees of its node, and its means to emit.
pub struct Context<'a> {
    graph: &'a Graph,
    value: ValueId,
    node: &'a Node,
    program: &'a mut Program,
    /// Where the results of the values before are.
    places: &'a [Vec<Place>],
    in_place: &'a mut Vec<InPlace>,
    results: Vec<Option<Place>>,
}

impl Context<'_> {
    /// The node being lowered.
    pub fn node(&self) -> &Node {
        self.node
    }

    /// Number of operands, with those left out before the last.
    pub fn operand_count(&self) -> usize {
        self.node.operands().len()
    }

    /// Whether operand `i` is given.
    pub fn has(&self, i: usize) -> bool {
        self.node.operand(i).is_some()
    }

    /// Operand `i`, which the op table says is given.
    pub fn operand(&self, i: usize) -> ValueId {
        self.node.operands()[i]
    }

    /// The node that defines a value: to see through inline operands.
    pub fn definition(&self, value: ValueId) -> &Node {
        self.graph.node(value)
    }

    /// Type of an operand.
    pub fn operand_type(&self, i: usize) -> &TensorType {
        &self.graph.node(self.operand(i)).ty
    }

    /// An operand as something a launch reads.
    pub fn read(&self, i: usize) -> Arg {
        self.read_value(self.operand(i))
    }

    /// A value as something a launch reads: an operand, or an operand of one that is inline.
    pub fn read_value(&self, value: ValueId) -> Arg {
        match self.places[value.index()][0] {
            Place::Buffer(id) => Arg::Buffer(id, Access::Read),
            Place::Input(i) => Arg::Input(i),
            Place::Weight(i) => Arg::Weight(i),
            Place::State(i) => Arg::State(i, Access::Read),
            Place::Inline => Arg::Null,
        }
    }

    /// Operand `i`, or null where it was left out.
    pub fn read_optional(&self, i: usize) -> Arg {
        self.node.operand(i).map_or(Arg::Null, |v| self.read_value(v))
    }

    /// A new buffer of the node's type that holds its result.
    pub fn result(&mut self) -> Arg {
        self.new_result(0, self.node.ty.clone())
    }

    /// A new buffer for further result `index` (from 1), or null if the node has no such result.
    pub fn further_result(&mut self, index: usize) -> Arg {
        match self.node.more.get(index - 1) {
            Some(ty) => self.new_result(index, ty.clone()),
            None => Arg::Null,
        }
    }

    fn new_result(&mut self, index: usize, ty: TensorType) -> Arg {
        let id = self.buffer(ty);
        self.results[index] = Some(Place::Buffer(id));
        Arg::Buffer(id, Access::Write)
    }

    /// A buffer for something between two launches of this node.
    pub fn buffer(&mut self, ty: TensorType) -> BufferId {
        self.program.buffers.push(Buffer { ty, offset: 0 });
        BufferId(self.program.buffers.len() as u32 - 1)
    }

    /// The result is an operand's memory, unchanged or updated in place.
    pub fn result_is_operand(&mut self, i: usize) {
        self.results[0] = Some(self.places[self.operand(i).index()][0]);
    }

    /// The result is further result `index` of operand 0.
    pub fn result_is_part(&mut self, index: usize) {
        self.results[0] = self.places[self.operand(0).index()].get(index).copied();
    }

    /// The result is computed by the launches that read it.
    pub fn result_is_inline(&mut self) {
        self.results[0] = Some(Place::Inline);
    }

    /// Refuses inline operands that the lowering does not carry out.
    fn check_inline(&self, lowering: &dyn Lowering) -> Result<(), LowerError> {
        for value in self.node.given().filter(|v| self.places[v.index()][0] == Place::Inline) {
            let op = self.graph.node(value).op();
            if !op.is_some_and(|op| lowering.carries_out(op)) {
                let op = op.map_or("", |op| op.name());
                return Err(self.error(format!("operand {value} ({op}) is inline, which this op cannot carry out")));
            }
        }
        Ok(())
    }

    /// Allows the next launch to write the result over operand `i` if nothing else reads that.
    pub fn may_overwrite(&mut self, i: usize) {
        let Some(operand) = self.node.operand(i) else { return };
        let operand = self.places[operand.index()][0];
        if let (Some(Place::Buffer(result)), Place::Buffer(operand)) = (self.results[0], operand) {
            self.in_place.push(InPlace { launch: self.program.launches.len(), result, operand });
        }
    }

    /// Emits a launch. The kernel, its variant and its fields must be in the catalog.
    pub fn launch(&mut self, kernel: &str, variant: &str, args: Vec<(&str, Arg)>) -> Result<(), LowerError> {
        let info = kernels::catalog::lookup(kernel)
            .ok_or_else(|| self.error(format!("the catalog has no kernel {kernel}")))?;
        if !info.has_variant(variant) {
            return Err(self.error(format!("kernel {kernel} has no variant {variant:?}")));
        }
        let expected: Vec<&str> = info.fields.iter().map(|f| f.name).collect();
        let given: Vec<&str> = args.iter().map(|(n, _)| *n).collect();
        if expected != given {
            return Err(self.error(format!(
                "kernel {kernel} takes ({}), not ({})",
                expected.join(", "),
                given.join(", ")
            )));
        }
        self.program.launches.push(Launch {
            kernel: kernel.into(),
            variant: variant.into(),
            args: args.into_iter().map(|(n, a)| (n.to_string(), a)).collect(),
            label: self.node.name.clone(),
        });
        Ok(())
    }

    /// An error at this node.
    pub fn error(&self, message: impl Into<String>) -> LowerError {
        LowerError {
            value: self.value,
            op: self.node.op().map_or("", |o| o.name()),
            label: if self.node.name.is_empty() { String::new() } else { format!(" {}", self.node.name) },
            message: message.into(),
        }
    }

    /// A float attribute, which the op table guarantees.
    pub fn float(&self, name: &str) -> Arg {
        Arg::Float(self.node.float(name).unwrap_or(0.0) as f32)
    }

    /// An integer attribute, which the op table guarantees.
    pub fn int(&self, name: &str) -> Arg {
        count(self.node.int(name).map_or(0, i64::unsigned_abs))
    }

    /// A flag attribute as 0 or 1.
    pub fn flag(&self, name: &str) -> Arg {
        count(u64::from(self.node.flag(name).unwrap_or(false)))
    }
}

/// A dimension as a count.
pub fn size(dim: Dim) -> Arg {
    Arg::Size(vec![dim])
}

/// A number as a count.
pub fn count(n: u64) -> Arg {
    Arg::Size(vec![Dim::Const(n)])
}

/// The name a dtype has in kernel variants.
pub fn variant(dtype: DType) -> &'static str {
    dtype.name()
}
