//! A graph in bodies: what stands from one attention op to the next.
//!
//! So cut, the queries, keys and values of a layer, the residual stream they come from and the squares of that stuff stand in
//! one body, where rules see them together; and the layers of a model give equal bodies, of which one has to be looked at.

use std::collections::HashMap;
use std::sync::Arc;

use egg::{Id, RecExpr};
use ir::graph::{Graph, Node, NodeKind, ValueId};
use ir::op::Op;
use ir::types::TensorType;

use super::FuseError;
use super::language::{Head, Term, head_of};
use super::typing::Typing;

/// A part of a graph, as a term.
#[derive(Clone, Debug)]
pub struct Body {
    /// Its ops, in the graph's order.
    pub nodes: Vec<ValueId>,
    /// The term; each op of the body stands in it once.
    pub term: RecExpr<Term>,
    /// Where the value of each of [`Body::nodes`] stands in the term.
    pub places: Vec<Id>,
    /// What it reads from outside: inputs, weights, states, values of earlier bodies, in order of first use.
    pub leaves: Vec<ValueId>,
    /// The constants it reads, of which those of equal content are one.
    pub constants: Vec<ValueId>,
    /// The indices in [`Body::nodes`] of the values that are read outside.
    pub outputs: Vec<usize>,
}

/// What makes two bodies equal: the same ops on leaves of the same kinds and types.
#[derive(PartialEq, Eq, Hash)]
pub struct BodyKey {
    term: Vec<Term>,
    leaves: Vec<(u8, TensorType, Vec<TensorType>)>,
    constants: Vec<(TensorType, Vec<u32>)>,
    places: Vec<Id>,
    outputs: Vec<usize>,
}

/// Whether a node with this op is a bundle: it has several results, or updates a state and gives something else.
pub fn is_bundle(op: Op, more: &[TensorType]) -> bool {
    op == Op::Qkv || !more.is_empty()
}

/// Cuts a graph into bodies, first to last; `stays` says which nodes no rule may take.
///
/// # Errors
/// An op has an attribute that the op table does not know.
pub fn cut(graph: &Graph, stays: &dyn Fn(&Node) -> bool) -> Result<Vec<Body>, FuseError> {
    let mut of_node: Vec<usize> = vec![usize::MAX; graph.nodes.len()];
    let mut groups: Vec<Vec<ValueId>> = vec![Vec::new()];
    for (value, node) in graph.values() {
        let Some(op) = node.op() else { continue };
        if op == Op::Attention {
            groups.push(Vec::new());
        }
        // A name of a result stands beside what gives the result.
        let named = match op {
            Op::Part => node.operand(0),
            Op::After => node.operand(1),
            _ => None,
        };
        let body = named.map(|v| of_node[v.index()]).filter(|b| *b < groups.len()).unwrap_or(groups.len() - 1);
        of_node[value.index()] = body;
        groups[body].push(value);
    }
    let is_read_outside = read_outside(graph, &of_node);
    let bodies = groups.into_iter().filter(|nodes| !nodes.is_empty());
    bodies.map(|nodes| Builder::new(graph, stays).build(nodes, &is_read_outside)).collect()
}

/// Of each value, whether another body or an output reads it.
fn read_outside(graph: &Graph, of_node: &[usize]) -> Vec<bool> {
    let mut read = vec![false; graph.nodes.len()];
    for (value, node) in graph.values() {
        for operand in node.given() {
            read[operand.index()] |= of_node[operand.index()] != of_node[value.index()];
        }
    }
    graph.outputs.iter().for_each(|(_, v)| read[v.index()] = true);
    read
}

/// A body being built.
struct Builder<'a> {
    graph: &'a Graph,
    stays: &'a dyn Fn(&Node) -> bool,
    term: RecExpr<Term>,
    known: HashMap<Term, Id>,
    /// Where values stand in the term.
    values: HashMap<ValueId, Id>,
    /// Where bundles stand.
    bundles: HashMap<ValueId, Id>,
    leaves: Vec<ValueId>,
    typing: Typing,
    constants: Vec<ValueId>,
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph, stays: &'a dyn Fn(&Node) -> bool) -> Builder<'a> {
        Builder {
            graph,
            stays,
            term: RecExpr::default(),
            known: HashMap::new(),
            values: HashMap::new(),
            bundles: HashMap::new(),
            leaves: Vec::new(),
            typing: Typing::default(),
            constants: Vec::new(),
        }
    }

    fn build(mut self, nodes: Vec<ValueId>, is_read_outside: &[bool]) -> Result<Body, FuseError> {
        let mut places = Vec::with_capacity(nodes.len());
        for value in &nodes {
            let place = self.node(*value)?;
            self.values.insert(*value, place);
            places.push(place);
        }
        let outputs = (0..nodes.len()).filter(|i| is_read_outside[nodes[*i].index()]).collect();
        Ok(Body { nodes, term: self.term, places, leaves: self.leaves, constants: self.constants, outputs })
    }

    /// Adds a term, once.
    fn add(&mut self, term: Term) -> Id {
        if let Some(id) = self.known.get(&term) {
            return *id;
        }
        let id = self.term.add(term.clone());
        self.known.insert(term, id);
        id
    }

    fn node(&mut self, value: ValueId) -> Result<Id, FuseError> {
        let node = self.graph.node(value);
        let NodeKind::Op { op, attributes, .. } = &node.kind else { return Ok(self.operand(Some(value))) };
        let mut children: Vec<Id> = (0..op.def().operands.len())
            .map(|i| {
                let operand = node.operand(i);
                let names_bundle = matches!((op, i), (Op::Part, 0) | (Op::After, 1));
                let bundle = operand.filter(|_| names_bundle).and_then(|v| self.bundles.get(&v).copied());
                bundle.unwrap_or_else(|| self.operand(operand))
            })
            .collect();
        for attribute in attributes {
            let head = head_of(attribute).ok_or_else(|| FuseError::Attribute {
                node: value,
                op: op.name(),
                attribute: format!("{attribute:?}"),
            })?;
            children.push(self.add(Term::leaf(head)));
        }
        let head = if (self.stays)(node) { Head::Own(*op) } else { Head::Op(*op) };
        let term = Term { head, children: children.into() };
        if !is_bundle(*op, &node.more) {
            return Ok(self.add(term));
        }
        let bundle = self.add(term);
        self.bundles.insert(value, bundle);
        let first = self.add(Term::leaf(Head::Int(0)));
        Ok(self.add(Term::op(Op::Part, [bundle, first])))
    }

    fn operand(&mut self, operand: Option<ValueId>) -> Id {
        let Some(value) = operand else { return self.add(Term::leaf(Head::Absent)) };
        if let Some(id) = self.values.get(&value) {
            return *id;
        }
        let node = self.graph.node(value);
        let head = match &node.kind {
            NodeKind::Constant(values) => {
                let index = self.typing.constant(node.ty.clone(), values.clone());
                if index as usize == self.constants.len() {
                    self.constants.push(value);
                }
                Head::Constant(index)
            }
            _ => {
                self.leaves.push(value);
                Head::Leaf(self.leaves.len() as u32 - 1)
            }
        };
        let id = self.add(Term::leaf(head));
        self.values.insert(value, id);
        id
    }
}

impl Body {
    /// What makes it equal to others of its graph.
    pub fn key(&self, graph: &Graph) -> BodyKey {
        let leaf = |v: &ValueId| {
            let node = graph.node(*v);
            (leaf_kind(node), node.ty.clone(), node.more.clone())
        };
        let constant = |v: &ValueId| {
            let node = graph.node(*v);
            (node.ty.clone(), constant_values(node).iter().map(|v| v.to_bits()).collect())
        };
        BodyKey {
            term: self.term.as_ref().to_vec(),
            leaves: self.leaves.iter().map(leaf).collect(),
            constants: self.constants.iter().map(constant).collect(),
            places: self.places.clone(),
            outputs: self.outputs.clone(),
        }
    }

    /// What an e-graph of the body must know of the graph around it.
    pub fn typing(&self, graph: &Graph) -> Typing {
        let leaves = self.leaves.iter().map(|v| Arc::new(bare(graph.node(*v)))).collect();
        let mut typing = Typing::new(graph.symbols.clone(), leaves);
        for value in &self.constants {
            let node = graph.node(*value);
            typing.constant(node.ty.clone(), constant_values(node).to_vec());
        }
        typing
    }

    /// Where the values read outside stand in the term.
    pub fn roots(&self) -> impl Iterator<Item = Id> + '_ {
        self.outputs.iter().map(|i| self.places[*i])
    }
}

/// A node's kind and type without its name, by which layers differ.
fn bare(node: &Node) -> Node {
    let kind = match node.kind {
        NodeKind::Weight | NodeKind::State => node.kind.clone(),
        _ => NodeKind::Input,
    };
    Node { kind, ty: node.ty.clone(), more: node.more.clone(), name: String::new() }
}

fn leaf_kind(node: &Node) -> u8 {
    match node.kind {
        NodeKind::Weight => 0,
        NodeKind::State => 1,
        _ => 2,
    }
}

fn constant_values(node: &Node) -> &[f32] {
    match &node.kind {
        NodeKind::Constant(values) => values,
        _ => &[],
    }
}
