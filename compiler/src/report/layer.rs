//! One decoder layer of a graph as boxes and arrows: its ops, what comes in from other layers, and what goes out.
//!
//! Views, further results and states after an update are names, not work: arrows pass through them. Weights stand inside the box that
//! reads them.

use std::collections::{BTreeMap, BTreeSet};

use ir::graph::{Graph, Node, NodeKind, ValueId};
use ir::op::Op;
use ir::text::print_node;
use ir::types::{Dim, TensorType};

use crate::cost::layer_of;

/// What a box stands for, which is its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value of another layer.
    Outside,
    /// Products with weights.
    Product,
    /// Attention and the cache.
    Attention,
    /// Selection of experts.
    Routing,
    /// Anything else that is a launch.
    Rows,
    /// Carried out by the launches that read it.
    Inline,
}

/// One box.
#[derive(Clone, Debug)]
pub struct LayerBox {
    /// What it stands for.
    pub kind: Kind,
    /// The op, or the place a value comes from.
    pub title: String,
    /// The label and the weights.
    pub lines: Vec<String>,
    /// The node as the text form has it.
    pub text: String,
}

/// A layer's boxes and arrows.
#[derive(Clone, Debug, Default)]
pub struct LayerGraph {
    /// Boxes, each after those that lead to it.
    pub boxes: Vec<LayerBox>,
    /// From, to, and the type of the value.
    pub edges: Vec<(usize, usize, String)>,
}

impl LayerGraph {
    /// Launches: boxes of this layer that are not inline.
    pub fn launches(&self) -> usize {
        self.boxes.iter().filter(|b| !matches!(b.kind, Kind::Outside | Kind::Inline)).count()
    }
}

/// The layer in the middle of a graph: the first ones are not always like the rest.
pub fn middle_layer(graph: &Graph) -> Option<u64> {
    let layers: BTreeSet<u64> =
        graph.nodes.iter().filter(|n| n.op().is_some()).filter_map(|n| layer_of(&n.name)).collect();
    layers.iter().nth(layers.len() / 2).copied()
}

/// The ops of a layer.
pub fn layer_graph(graph: &Graph, layer: u64) -> LayerGraph {
    let layers = layers(graph);
    let mut drawn = LayerGraph::default();
    let mut boxes: BTreeMap<ValueId, usize> = BTreeMap::new();
    let members: Vec<ValueId> =
        graph.values().filter(|(v, n)| is_work(n) && layers[v.index()] == Some(layer)).map(|(v, _)| v).collect();
    for value in &members {
        for source in graph.node(*value).given().filter_map(|o| source(graph, o)) {
            if !members.contains(&source) {
                boxes.entry(source).or_insert_with(|| push(&mut drawn, outside(graph, source)));
            }
        }
    }
    for value in &members {
        let to = push(&mut drawn, member(graph, *value));
        boxes.insert(*value, to);
        let mut seen = BTreeSet::new();
        for operand in graph.node(*value).given() {
            let Some(from) = source(graph, operand).and_then(|s| boxes.get(&s).copied()) else { continue };
            if from != to && seen.insert(from) {
                drawn.edges.push((from, to, type_text(&graph.node(operand).ty, graph)));
            }
        }
    }
    drawn
}

fn push(drawn: &mut LayerGraph, new: LayerBox) -> usize {
    drawn.boxes.push(new);
    drawn.boxes.len() - 1
}

/// The layer of each node: its label's; of names that of what they name, of ops that others carry out that of their first reader.
fn layers(graph: &Graph) -> Vec<Option<u64>> {
    let mut layers: Vec<Option<u64>> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let inherited = || node.given().filter_map(|o| *layers.get(o.index())?).max();
        let named = layer_of(&node.name).filter(|_| node.op().is_some());
        let inherits = node.name.is_empty() && node.op().is_some() && !is_work(node);
        layers.push(named.or_else(|| if inherits { inherited() } else { None }));
    }
    for (value, node) in graph.values().collect::<Vec<_>>().into_iter().rev() {
        for operand in node.given().filter(|o| graph.node(*o).op().is_some_and(Op::is_inline)) {
            layers[operand.index()] = layers[value.index()];
        }
    }
    layers
}

/// Whether an op is more than another name of its operand.
fn is_work(node: &Node) -> bool {
    node.op().is_some_and(|op| !op.is_view() && !matches!(op, Op::Part | Op::After))
}

/// The op that a value comes from, past names of it; `None` for inputs, weights and states.
fn source(graph: &Graph, mut value: ValueId) -> Option<ValueId> {
    loop {
        let node = graph.node(value);
        let op = node.op()?;
        if is_work(node) {
            return Some(value);
        }
        value = node.operand(if op == Op::After { 1 } else { 0 })?;
    }
}

fn outside(graph: &Graph, value: ValueId) -> LayerBox {
    let node = graph.node(value);
    let title = if node.name.is_empty() { node.op().map_or("", |op| op.name()) } else { &node.name };
    LayerBox { kind: Kind::Outside, title: title.into(), lines: vec![], text: print_node(graph, value) }
}

fn member(graph: &Graph, value: ValueId) -> LayerBox {
    let node = graph.node(value);
    let op = node.op();
    let label = node.name.split_once('.').and_then(|(_, rest)| rest.split_once('.')).map_or("", |(_, rest)| rest);
    let mut lines: Vec<String> = if label.is_empty() { vec![] } else { vec![label.to_string()] };
    let weights = node.given().map(|o| graph.node(o)).filter(|n| n.kind == NodeKind::Weight && n.ty.shape.len() > 1);
    lines.extend(weights.map(|w| type_text(&w.ty, graph)));
    LayerBox {
        kind: op.map_or(Kind::Rows, kind),
        title: op.map_or("", |op| op.name()).into(),
        lines,
        text: print_node(graph, value),
    }
}

fn kind(op: Op) -> Kind {
    match op {
        op if op.is_inline() => Kind::Inline,
        Op::Attention | Op::KvAppend => Kind::Attention,
        Op::Router | Op::RouterWeights | Op::Route => Kind::Routing,
        Op::Matmul | Op::HeadMatmul | Op::GroupedMatmul | Op::Project | Op::ProjectHeads | Op::Qkv => Kind::Product,
        Op::GateUp | Op::GroupedGateUp | Op::RoutedGateUp | Op::CombineDown => Kind::Product,
        _ => Kind::Rows,
    }
}

fn type_text(ty: &TensorType, graph: &Graph) -> String {
    let dim = |d: &Dim| match d {
        Dim::Const(n) => n.to_string(),
        Dim::Sym(id) => graph.symbols.get(id.0 as usize).map_or_else(String::new, |s| s.name.clone()),
    };
    let dims: Vec<String> = ty.shape.iter().map(dim).collect();
    format!("{} {}", ty.dtype, dims.join("×"))
}

#[cfg(test)]
mod tests {
    use ir::text::read_graph;

    use super::*;

    #[test]
    fn an_inline_op_belongs_to_its_reader_and_names_are_no_boxes() {
        let text = "graph \"g\" {\n  sym T in 1..=8\n  %0 = input \"x\" : f32[T, 64]\n  %1 = weight \"w\" : f32[64, 64]\n  \
                    %2 = weight \"norm\" : f32[64]\n  %3 = project(%0, %1) {eps = 0.0, factor = 1.0, softcap = 0.0, emit = \"squares\"} \
                    : f32[T, 64], f32[T, 4] \"layers.0.down\"\n  %4 = part(%3) {index = 1} : f32[T, 4]\n  \
                    %5 = inline_norm(%3, %2) {kind = \"scale\", eps = 0.0} : f32[T, 64] \"layers.0.down.norm\"\n  \
                    %6 = project(%5, %1, _, %4) {eps = 0.0, factor = 1.0, softcap = 0.0, emit = \"none\"} : f32[T, 64] \"layers.1.q\"\n  \
                    output \"y\" %6\n}\n";
        let graph = read_graph(text).unwrap();
        let titles = |layer| layer_graph(&graph, layer).boxes.into_iter().map(|b| b.title).collect::<Vec<_>>();
        assert_eq!(titles(0), ["project"]);
        assert_eq!(titles(1), ["layers.0.down", "inline_norm", "project"]);
        let second = layer_graph(&graph, 1);
        let ends: Vec<(usize, usize)> = second.edges.iter().map(|(from, to, _)| (*from, *to)).collect();
        assert_eq!(ends, [(0, 1), (1, 2), (0, 2)]);
        assert_eq!(second.launches(), 1);
        assert_eq!(second.boxes[2].lines, ["q", "f32 64×64"]);
    }
}
