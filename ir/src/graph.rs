//! The graph: a model's step as SSA over tensors.
//!
//! Nodes stand in one list, each after its operands, so that an index is a name, a walk is a topological order and
//! printing needs no sorting. A graph is only ever extended; passes write a new one.

use std::fmt;

use crate::op::{Attr, Op};
use crate::types::{DType, Dim, Symbol, SymbolId, TensorType};

/// Index of a node, and of the value it defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl ValueId {
    /// Stands for an operand that is left out before others that are not.
    pub const ABSENT: ValueId = ValueId(u32::MAX);

    /// As an index into [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == ValueId::ABSENT { f.write_str("_") } else { write!(f, "%{}", self.0) }
    }
}

/// What defines a value.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// Step metadata given by the engine at each step.
    Input,
    /// A tensor of the checkpoint, by the node's name.
    Weight,
    /// Numbers known at import, f32, row-major.
    Constant(Vec<f32>),
    /// Memory that lives between steps, by the node's name.
    State,
    /// The result of an op.
    Op {
        /// The op.
        op: Op,
        /// Its operands, all defined before; [`ValueId::ABSENT`] for one left out.
        operands: Vec<ValueId>,
        /// Attribute values in the order of the op's table row.
        attributes: Vec<Attr>,
    },
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What defines the value.
    pub kind: NodeKind,
    /// The value's type.
    pub ty: TensorType,
    /// Types of the further results of an op that has several; [`Op::Part`] names them.
    pub more: Vec<TensorType>,
    /// Unique name of an input, weight, constant or state; for an op a label for messages and reports, possibly empty.
    pub name: String,
}

impl Node {
    /// The op, if the node is one.
    pub fn op(&self) -> Option<Op> {
        match &self.kind {
            NodeKind::Op { op, .. } => Some(*op),
            _ => None,
        }
    }

    /// Operand `i`, if it is given.
    pub fn operand(&self, i: usize) -> Option<ValueId> {
        self.operands().get(i).copied().filter(|v| *v != ValueId::ABSENT)
    }

    /// The operands that are given.
    pub fn given(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.operands().iter().copied().filter(|v| *v != ValueId::ABSENT)
    }

    /// The operands, [`ValueId::ABSENT`] for those left out; empty for anything but an op.
    pub fn operands(&self) -> &[ValueId] {
        match &self.kind {
            NodeKind::Op { operands, .. } => operands,
            _ => &[],
        }
    }

    /// The attribute of that name, if the node is an op that has it.
    pub fn attr(&self, name: &str) -> Option<&Attr> {
        let NodeKind::Op { op, attributes, .. } = &self.kind else { return None };
        let index = op.def().attributes.iter().position(|a| a.name == name)?;
        attributes.get(index)
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attr(name).and_then(|a| if let Attr::Int(v) = a { Some(*v) } else { None })
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Option<f64> {
        self.attr(name).and_then(|a| if let Attr::Float(v) = a { Some(*v) } else { None })
    }

    /// A flag attribute.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.attr(name).and_then(|a| if let Attr::Bool(v) = a { Some(*v) } else { None })
    }

    /// A word attribute.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.attr(name).and_then(|a| if let Attr::Str(v) = a { Some(v.as_str()) } else { None })
    }
}

/// A model's step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Name of the family or test.
    pub name: String,
    /// Symbolic dimensions.
    pub symbols: Vec<Symbol>,
    /// Nodes, each after its operands.
    pub nodes: Vec<Node>,
    /// Named results.
    pub outputs: Vec<(String, ValueId)>,
}

/// An op was given operands or attributes it cannot take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} ({op}{label}): {message}")]
pub struct GraphError {
    /// The node that would have been made.
    pub node: ValueId,
    /// The op's name.
    pub op: &'static str,
    /// The label, preceded by a blank, or empty.
    pub label: String,
    /// What is wrong.
    pub message: String,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Declares a symbolic dimension.
    pub fn symbol(&mut self, name: &str, min: u64, max: u64) -> SymbolId {
        self.symbols.push(Symbol { name: name.into(), min, max });
        SymbolId(self.symbols.len() as u32 - 1)
    }

    /// Declares an input.
    pub fn input(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.push(NodeKind::Input, ty, name)
    }

    /// Declares a weight.
    pub fn weight(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.push(NodeKind::Weight, ty, name)
    }

    /// Declares a state.
    pub fn state(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.push(NodeKind::State, ty, name)
    }

    /// A vector known at import.
    pub fn constant(&mut self, name: &str, values: Vec<f32>) -> ValueId {
        let ty = TensorType::new(DType::F32, [Dim::Const(values.len() as u64)]);
        self.push(NodeKind::Constant(values), ty, name)
    }

    /// A matrix of `cols` columns known at import; `values` are whole rows.
    pub fn constant_matrix(&mut self, name: &str, values: Vec<f32>, cols: u64) -> ValueId {
        let rows = (values.len() as u64).checked_div(cols).unwrap_or(0);
        self.push(NodeKind::Constant(values), TensorType::new(DType::F32, [Dim::Const(rows), Dim::Const(cols)]), name)
    }

    /// Adds an op; attributes may come in any order.
    pub fn op(
        &mut self,
        op: Op,
        operands: &[ValueId],
        attributes: &[(&str, Attr)],
        label: &str,
    ) -> Result<ValueId, GraphError> {
        let def = op.def();
        let fail = |message: String| GraphError {
            node: ValueId(self.nodes.len() as u32),
            op: def.name,
            label: if label.is_empty() { String::new() } else { format!(" {label}") },
            message,
        };
        let find = |name: &str| attributes.iter().find(|(n, _)| *n == name).map(|(_, a)| a.clone());
        if let Some((name, _)) = attributes.iter().find(|(n, _)| !def.attributes.iter().any(|d| d.name == *n)) {
            return Err(fail(format!("no attribute is called {name}")));
        }
        let attributes: Option<Vec<Attr>> = def.attributes.iter().map(|d| find(d.name)).collect();
        let attributes = attributes.ok_or_else(|| {
            let names: Vec<_> = def.attributes.iter().map(|d| d.name).collect();
            fail(format!("expected the attributes {}", names.join(", ")))
        })?;
        let nodes = self.operand_nodes(operands).ok_or_else(|| fail("an operand is not defined".into()))?;
        let (ty, more) = def.result_types(&nodes, &attributes).map_err(fail)?;
        let value = self.push(NodeKind::Op { op, operands: operands.to_vec(), attributes }, ty, label);
        self.nodes[value.index()].more = more;
        Ok(value)
    }

    /// The nodes of operands; `None` for one left out, `None` at all if one is not defined.
    pub(crate) fn operand_nodes(&self, operands: &[ValueId]) -> Option<Vec<Option<&Node>>> {
        let node = |v: &ValueId| match *v {
            ValueId::ABSENT => Some(None),
            v => self.nodes.get(v.index()).map(Some),
        };
        operands.iter().map(node).collect()
    }

    /// Names a value as a result.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.outputs.push((name.into(), value));
    }

    /// The node that defines a value.
    pub fn node(&self, value: ValueId) -> &Node {
        &self.nodes[value.index()]
    }

    /// Values in definition order.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (ValueId(i as u32), n))
    }

    /// The symbol of that name.
    pub fn symbol_named(&self, name: &str) -> Option<SymbolId> {
        self.symbols.iter().position(|s| s.name == name).map(|i| SymbolId(i as u32))
    }

    /// Upper bounds of the symbols, in table order: the assignment the memory plan is made for.
    pub fn upper_bounds(&self) -> Vec<u64> {
        self.symbols.iter().map(|s| s.max).collect()
    }

    fn push(&mut self, kind: NodeKind, ty: TensorType, name: &str) -> ValueId {
        self.nodes.push(Node { kind, ty, more: Vec::new(), name: name.into() });
        ValueId(self.nodes.len() as u32 - 1)
    }
}
