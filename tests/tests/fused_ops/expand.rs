//! Fused ops replaced by their expansions: the graph of separate launches that a fused one must equal bit for bit.

use std::collections::HashMap;

use ir::expand::expansion;
use ir::graph::{Graph, Node, NodeKind, ValueId};
use ir::op::{Attr, Op};
use ir::types::TensorType;

/// The same graph of plain ops alone.
pub fn expanded(graph: &Graph) -> Graph {
    let mut e = Expander {
        from: graph,
        to: Graph { symbols: graph.symbols.clone(), ..Graph::new("chain") },
        places: Vec::new(),
    };
    for (value, node) in graph.values() {
        let place = e.place(value, node);
        e.places.push(place);
    }
    for (name, value) in &graph.outputs {
        let value = e.places[value.index()].results[0];
        e.to.output(name, value);
    }
    e.to
}

/// Where a node's results are in the new graph, and the state it updates.
struct Place {
    results: Vec<ValueId>,
    updated: Option<ValueId>,
}

struct Expander<'a> {
    from: &'a Graph,
    to: Graph,
    places: Vec<Place>,
}

impl Expander<'_> {
    fn at(&self, value: ValueId) -> ValueId {
        if value == ValueId::ABSENT { value } else { self.places[value.index()].results[0] }
    }

    fn place(&mut self, value: ValueId, node: &Node) -> Place {
        let NodeKind::Op { op, operands, attributes } = &node.kind else {
            self.to.nodes.push(node.clone());
            let copied = ValueId(self.to.nodes.len() as u32 - 1);
            return Place { results: vec![copied], updated: None };
        };
        let place = |results| Place { results, updated: None };
        match op {
            Op::Part => place(vec![self.places[operands[0].index()].results[node.int("index").unwrap() as usize]]),
            Op::After => place(vec![self.places[operands[1].index()].updated.unwrap()]),
            op if op.is_fused() || op.is_inline() => self.splice(value, *op, attributes),
            op => {
                let operands: Vec<ValueId> = operands.iter().map(|v| self.at(*v)).collect();
                place(vec![self.add(*op, &operands, attributes)])
            }
        }
    }

    fn add(&mut self, op: Op, operands: &[ValueId], attributes: &[Attr]) -> ValueId {
        let named: Vec<(&str, Attr)> =
            op.def().attributes.iter().map(|a| a.name).zip(attributes.iter().cloned()).collect();
        self.to.op(op, operands, &named, "").unwrap_or_else(|e| panic!("{e}"))
    }

    /// Copies the nodes of an expansion, whose inputs are the operands by number.
    fn splice(&mut self, value: ValueId, op: Op, attributes: &[Attr]) -> Place {
        let node = self.from.node(value);
        let count = node.operands().len();
        let types: Vec<Option<&TensorType>> =
            (0..count).map(|i| node.operand(i).map(|v| &self.from.node(v).ty)).collect();
        let inner = expansion(op, &types, attributes, &self.from.symbols).unwrap_or_else(|e| panic!("{e}"));
        let (mut values, mut updated) = (HashMap::new(), None);
        for (value, inner_node) in inner.values() {
            let new = match &inner_node.kind {
                NodeKind::Op { op, operands, attributes } => {
                    let operands: Vec<ValueId> =
                        operands.iter().map(|v| values.get(v).copied().unwrap_or(ValueId::ABSENT)).collect();
                    let new = self.add(*op, &operands, attributes);
                    updated = if *op == Op::KvAppend { Some(new) } else { updated };
                    new
                }
                _ => self.at(node.operands()[inner_node.name.parse::<usize>().unwrap()]),
            };
            values.insert(value, new);
        }
        Place { results: inner.outputs.iter().map(|(_, v)| values[v]).collect(), updated }
    }
}
