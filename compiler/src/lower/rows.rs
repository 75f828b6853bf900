//! Ops that work row by row: embedding, gather, RMSNorm, activation rounding.

use ir::graph::{Graph, Node};
use ir::op::Op;
use ir::program::Arg;

use super::{Context, LowerError, Lowering, count, size, variant};
use crate::target::Target;

/// `embedding`: one launch.
pub struct Embedding;

impl Lowering for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::Embedding)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let table = c.operand_type(0).clone();
        let tokens = c.node().ty.shape[0];
        let args = vec![
            ("ids", c.read(1)),
            ("table", c.read(0)),
            ("out", c.result()),
            ("tokens", size(tokens)),
            ("rows", size(table.shape[0])),
            ("cols", size(table.shape[1])),
            ("reserved", count(0)),
        ];
        c.launch("embedding", variant(table.dtype), args)
    }
}

/// `gather_rows`: one launch.
pub struct GatherRows;

impl Lowering for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::GatherRows)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let shape = c.node().ty.shape.clone();
        let args = vec![
            ("x", c.read(0)),
            ("rows", c.read(1)),
            ("out", c.result()),
            ("count", size(shape[0])),
            ("cols", size(shape[1])),
        ];
        c.launch("gather_rows", "", args)
    }
}

/// `rms_norm` over the last dimension; all others are rows.
pub struct RmsNorm;

impl Lowering for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::RmsNorm)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let shape = c.node().ty.shape.clone();
        let (cols, rows) = (shape[shape.len() - 1], shape[..shape.len() - 1].to_vec());
        let args = vec![
            ("x", c.read(0)),
            ("weight", c.read(1)),
            ("out", c.result()),
            ("rows", Arg::Size(rows)),
            ("cols", size(cols)),
            ("eps", c.float("eps")),
            ("reserved", count(0)),
        ];
        c.launch("rms_norm", "", args)
    }
}

/// `quantize_rows`: one launch.
pub struct QuantizeRows;

impl Lowering for QuantizeRows {
    fn name(&self) -> &'static str {
        "quantize_rows"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::QuantizeRows)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let shape = c.node().ty.shape.clone();
        let args = vec![("x", c.read(0)), ("out", c.result()), ("rows", size(shape[0])), ("cols", size(shape[1]))];
        c.launch("quantize_rows", "", args)
    }
}
