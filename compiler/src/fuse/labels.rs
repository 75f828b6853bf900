//! Labels of fused nodes, so that a report still says what a launch is for and which layer it belongs to.
//!
//! A product is named by the product that it was, several merged by what their names share; anything else by the node whose
//! value it gives, or by what it reads. A name of a result, a view and what another launch carries out have the label of what they
//! are of.

use std::collections::HashMap;

use egg::Id;
use ir::graph::{Graph, ValueId};
use ir::op::Op;

use super::bodies::Body;
use super::choose::Chosen;
use super::language::{Head, Term};
use super::price::takes_launch;

/// What is needed to name the nodes of a chosen term.
pub struct Labels<'a> {
    graph: &'a Graph,
    body: &'a Body,
    chosen: &'a Chosen,
    /// The label of the product that reads each matrix.
    products: HashMap<ValueId, &'a str>,
}

impl<'a> Labels<'a> {
    /// Looks at a body's products.
    pub fn new(graph: &'a Graph, body: &'a Body, chosen: &'a Chosen) -> Labels<'a> {
        let mut products = HashMap::new();
        for node in body.nodes.iter().map(|v| graph.node(*v)) {
            if let (true, Some(w)) = (node.op().is_some_and(is_product), node.operand(1)) {
                products.entry(w).or_insert(node.name.as_str());
            }
        }
        Labels { graph, body, chosen, products }
    }

    /// The label of a node of the chosen term.
    pub fn of(&self, id: Id) -> String {
        let term = &self.chosen.term[id];
        let Some(op) = term.as_op() else { return self.leaf(term) };
        let products = self.products(term);
        let origin = self.chosen.origins[usize::from(id)].iter();
        let mut origin = origin.map(|i| self.graph.node(self.body.nodes[*i]).name.as_str()).filter(|n| !n.is_empty());
        match (products.as_slice(), origin.next()) {
            ([], Some(name)) => name.to_string(),
            ([product], _) => (*product).to_string(),
            ([], _) => {
                let of = if op == Op::After { 1 } else { 0 };
                let operand = term.operands().get(of).map(|o| self.of(*o)).unwrap_or_default();
                if takes_launch(op) { joined(&operand, op.name()) } else { operand }
            }
            (products, _) => joined(shared_path(products), merged_name(op)),
        }
    }

    /// The labels of the products that a fused node stands for.
    fn products(&self, term: &Term) -> Vec<&'a str> {
        let leaf = |operand: &Id| match self.chosen.term[*operand].head {
            Head::Leaf(i) => self.products.get(&self.body.leaves[i as usize]).copied(),
            _ => None,
        };
        let is_product = term.as_op().is_some_and(|op| is_product(op) || is_fused_product(op));
        let operands = if is_product { &term.operands()[1..4.min(term.operands().len())] } else { &[] };
        operands.iter().filter_map(leaf).filter(|label| !label.is_empty()).collect()
    }

    fn leaf(&self, term: &Term) -> String {
        match term.head {
            Head::Leaf(i) => self.graph.node(self.body.leaves[i as usize]).name.clone(),
            _ => String::new(),
        }
    }
}

fn is_product(op: Op) -> bool {
    matches!(op, Op::Matmul | Op::GroupedMatmul | Op::HeadMatmul)
}

fn is_fused_product(op: Op) -> bool {
    use Op::*;
    matches!(op, Project | ProjectHeads | Qkv | GateUp | GroupedGateUp | RoutedGateUp | CombineDown)
}

/// The last part of the name of several products that are one.
fn merged_name(op: Op) -> &'static str {
    match op {
        Op::Qkv => "qkv",
        Op::GateUp | Op::GroupedGateUp | Op::RoutedGateUp => "gate_up",
        other => other.name(),
    }
}

/// `path.name`, or the name alone.
fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

/// The parts that all names begin with, up to a dot.
fn shared_path<'a>(names: &[&'a str]) -> &'a str {
    let Some((first, others)) = names.split_first() else { return "" };
    let shared = |end: &usize| others.iter().all(|o| o.as_bytes().get(..=*end) == first.as_bytes().get(..=*end));
    let ends: Vec<usize> = first.match_indices('.').map(|(i, _)| i).filter(shared).collect();
    ends.last().map_or("", |end| &first[..*end])
}
