//! Ops on elements: one launch over all of them.

use ir::graph::{Graph, Node};
use ir::op::Op;
use ir::program::Arg;

use super::{Context, LowerError, Lowering, count};
use crate::target::Target;

/// `add`, `mul` and `glu`.
pub struct Pairwise;

/// The kernel's variant for a node.
fn operation(node: &Node) -> Option<String> {
    match node.op()? {
        Op::Add => Some("add".into()),
        Op::Mul => Some("mul".into()),
        Op::Glu => node.word("activation").map(|a| format!("{a}_mul")),
        _ => None,
    }
}

impl Lowering for Pairwise {
    fn name(&self) -> &'static str {
        "pairwise"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        operation(node).is_some()
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let variant = operation(c.node()).unwrap_or_default();
        let elements = c.node().ty.shape.clone();
        let args = vec![
            ("a", c.read(0)),
            ("b", c.read(1)),
            ("out", c.result()),
            ("count", Arg::Size(elements)),
            ("limit", c.float("limit")),
            ("reserved", count(0)),
        ];
        c.may_overwrite(0);
        c.may_overwrite(1);
        c.launch("binary", &variant, args)
    }
}

/// `scale` and `softcap`.
pub struct Unary;

/// The kernel's variant for a node, and the attribute that is its value.
fn unary_operation(node: &Node) -> Option<(&'static str, &'static str)> {
    match node.op()? {
        Op::Scale => Some(("scale", "factor")),
        Op::Softcap => Some(("softcap", "cap")),
        _ => None,
    }
}

impl Lowering for Unary {
    fn name(&self) -> &'static str {
        "unary"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        unary_operation(node).is_some()
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let (variant, value) = unary_operation(c.node()).unwrap_or_default();
        let elements = c.node().ty.shape.clone();
        let args = vec![
            ("x", c.read(0)),
            ("out", c.result()),
            ("count", Arg::Size(elements)),
            ("value", c.float(value)),
            ("reserved", count(0)),
        ];
        c.may_overwrite(0);
        c.launch("unary", variant, args)
    }
}
