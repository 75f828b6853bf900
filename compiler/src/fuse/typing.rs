//! What the e-graph knows of each class: the type of its values, an attribute's value, constants.
//!
//! Types come from the op table, so that a rule cannot make an op that the verifier would refuse: its result has no type and is
//! never united with what it would stand for.

use std::collections::HashMap;
use std::sync::Arc;

use egg::{Analysis, DidMerge, EGraph, Id};
use ir::graph::{Graph, Node, NodeKind, ValueId};
use ir::interp::{Interpreter, Tensor};
use ir::op::{Attr, Op};
use ir::types::{DType, Dim, Symbol, TensorType};

use super::language::{Head, Term, attr_of};

/// The e-graph of a body.
pub type Body = EGraph<Term, Typing>;

/// What a class holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor, or a bundle of several; only the types of the node mean anything.
    Tensor(Arc<Node>),
    /// An attribute.
    Attr(Attr),
    /// An operand left out.
    Absent,
    /// An op that cannot be.
    Impossible,
}

/// What is known of a class.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What it holds.
    pub value: Value,
    /// The index of its numbers in [`Typing::constants`], if they are known.
    pub constant: Option<u32>,
}

/// The analysis, with what it needs of the body.
#[derive(Clone, Debug, Default)]
pub struct Typing {
    /// Symbols of the graph.
    pub symbols: Vec<Symbol>,
    /// The nodes that stand outside the body.
    pub leaves: Vec<Arc<Node>>,
    /// Constants, those that folding gave among them.
    pub constants: Vec<(TensorType, Vec<f32>)>,
    /// Where a constant stands already, by type and bits.
    known: HashMap<(TensorType, Vec<u32>), u32>,
}

impl Typing {
    /// Knows the symbols and the nodes outside; no constant yet.
    pub fn new(symbols: Vec<Symbol>, leaves: Vec<Arc<Node>>) -> Typing {
        Typing { symbols, leaves, ..Typing::default() }
    }

    /// The index of a constant, which is added if it is new.
    pub fn constant(&mut self, ty: TensorType, values: Vec<f32>) -> u32 {
        let bits = values.iter().map(|v| v.to_bits()).collect();
        let next = self.constants.len() as u32;
        *self.known.entry((ty.clone(), bits)).or_insert_with(|| {
            self.constants.push((ty, values));
            next
        })
    }
}

/// A node of which only the types count.
fn typed(ty: TensorType, more: Vec<TensorType>) -> Value {
    Value::Tensor(Arc::new(Node { kind: NodeKind::Input, ty, more, name: String::new() }))
}

impl Facts {
    fn of(value: Value) -> Facts {
        Facts { value, constant: None }
    }

    /// The type of the value, or of a bundle's first result.
    pub fn ty(&self) -> Option<&TensorType> {
        match &self.value {
            Value::Tensor(node) => Some(&node.ty),
            _ => None,
        }
    }

    /// The attribute, if it is one.
    pub fn attr(&self) -> Option<&Attr> {
        match &self.value {
            Value::Attr(attr) => Some(attr),
            _ => None,
        }
    }
}

impl Analysis<Term> for Typing {
    type Data = Facts;

    fn make(egraph: &mut Body, term: &Term, _: Id) -> Facts {
        let typing = &egraph.analysis;
        match term.head {
            Head::Own(op) => Facts::of(op_value(egraph, op, term)),
            Head::Op(op) => Facts { value: op_value(egraph, op, term), constant: fold(egraph, op, term) },
            Head::Leaf(i) => Facts::of(Value::Tensor(typing.leaves[i as usize].clone())),
            Head::Constant(i) => {
                let value = typed(typing.constants[i as usize].0.clone(), Vec::new());
                Facts { value, constant: Some(i) }
            }
            Head::Absent => Facts::of(Value::Absent),
            head => Facts::of(attr_of(head).map_or(Value::Impossible, Value::Attr)),
        }
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        let gains = a.constant.is_none() && b.constant.is_some();
        let lacks = a.constant.is_some() && b.constant.is_none();
        a.constant = a.constant.or(b.constant);
        DidMerge(gains, lacks)
    }

    fn modify(egraph: &mut Body, id: Id) {
        if let Some(constant) = egraph[id].data.constant {
            let folded = egraph.add_uncanonical(Term::leaf(Head::Constant(constant)));
            egraph.union_trusted(id, folded, "constant-folding");
        }
    }
}

/// The type of an op's result by the op table.
fn op_value(egraph: &Body, op: Op, term: &Term) -> Value {
    let facts = |id: &Id| &egraph[*id].data.value;
    if op == Op::Part && *facts(&term.children[1]) == Value::Attr(Attr::Int(0)) {
        return match facts(&term.children[0]) {
            Value::Tensor(bundle) => typed(bundle.ty.clone(), Vec::new()),
            _ => Value::Impossible,
        };
    }
    let operands: Vec<_> = term.operands().iter().map(facts).collect();
    if operands.iter().any(|v| matches!(v, Value::Impossible | Value::Attr(_))) {
        return Value::Impossible;
    }
    let given = operands.iter().rposition(|v| **v != Value::Absent).map_or(0, |last| last + 1);
    let nodes: Vec<Option<&Node>> =
        operands[..given].iter().map(|v| if let Value::Tensor(node) = v { Some(&**node) } else { None }).collect();
    let attributes: Vec<Attr> = term.attributes().iter().filter_map(|a| egraph[*a].data.attr().cloned()).collect();
    match op.def().result_types(&nodes, &attributes) {
        Ok((ty, more)) => typed(ty, more),
        Err(_) => Value::Impossible,
    }
}

/// The numbers of an op on constants, of those ops that round once, as a kernel does.
fn fold(egraph: &mut Body, op: Op, term: &Term) -> Option<u32> {
    if !matches!(op, Op::Add | Op::Mul | Op::Scale | Op::Cast) {
        return None;
    }
    let constants: Option<Vec<u32>> = term.operands().iter().map(|o| egraph[*o].data.constant).collect();
    let attributes: Option<Vec<Attr>> = term.attributes().iter().map(|a| egraph[*a].data.attr().cloned()).collect();
    let (ty, values) = evaluate(&egraph.analysis, op, &constants?, &attributes?)?;
    Some(egraph.analysis.constant(ty, values))
}

/// One op on constants, by the interpreter.
fn evaluate(typing: &Typing, op: Op, constants: &[u32], attributes: &[Attr]) -> Option<(TensorType, Vec<f32>)> {
    let mut graph = Graph::new("fold");
    let mut operands = Vec::new();
    for constant in constants {
        let (ty, values) = typing.constants.get(*constant as usize)?;
        let node =
            Node { kind: NodeKind::Constant(values.clone()), ty: ty.clone(), more: Vec::new(), name: String::new() };
        graph.nodes.push(node);
        operands.push(ValueId(graph.nodes.len() as u32 - 1));
    }
    let named: Vec<_> = op.def().attributes.iter().map(|a| a.name).zip(attributes.iter().cloned()).collect();
    let result = graph.op(op, &operands, &named, "").ok()?;
    let ty = graph.node(result).ty.clone();
    if ty.dtype != DType::F32 || ty.shape.iter().any(|d| matches!(d, Dim::Sym(_))) {
        return None;
    }
    graph.output("folded", result);
    match Interpreter::new(&graph, HashMap::new()).step(&[], &HashMap::new()).ok()?.remove("folded") {
        Some(Tensor::Real(values)) if values.iter().all(|v| v.is_finite()) => Some((ty, values)),
        _ => None,
    }
}
