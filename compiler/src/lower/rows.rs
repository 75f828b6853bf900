//! Ops that work row by row: embedding, gather, norms, activation rounding, gates.

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

/// `rms_norm` and `layer_norm` over the last dimension; all others are rows.
pub struct Norm;

impl Lowering for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        matches!(node.op(), Some(Op::RmsNorm | Op::LayerNorm))
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let [rows, cols] = rows_and_cols(c);
        let mut args = vec![("x", c.read(0)), ("weight", c.read(1))];
        let centred = c.node().op() == Some(Op::LayerNorm);
        if centred {
            args.push(("bias", c.read_optional(2)));
        }
        args.extend([
            ("out", c.result()),
            ("rows", rows),
            ("cols", cols),
            ("eps", c.float("eps")),
            ("reserved", count(0)),
        ]);
        c.launch(if centred { "layer_norm" } else { "rms_norm" }, "", args)
    }
}

/// `quantize_rows`: one launch, the variant named by what shares a scale.
pub struct QuantizeRows;

impl Lowering for QuantizeRows {
    fn name(&self) -> &'static str {
        "quantize_rows"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::QuantizeRows)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let [rows, cols] = rows_and_cols(c);
        let granularity = c.node().word("granularity").unwrap_or_default().to_string();
        let args = vec![("x", c.read(0)), ("out", c.result()), ("rows", rows), ("cols", cols)];
        c.launch("quantize_rows", &granularity, args)
    }
}

/// `sigmoid_gate`: one launch.
pub struct SigmoidGate;

impl Lowering for SigmoidGate {
    fn name(&self) -> &'static str {
        "sigmoid_gate"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::SigmoidGate)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let [rows, cols] = rows_and_cols(c);
        let args = vec![("x", c.read(0)), ("gate", c.read(1)), ("out", c.result()), ("rows", rows), ("cols", cols)];
        c.may_overwrite(0);
        c.launch("sigmoid_gate", "", args)
    }
}

/// `concat` along the last dimension: one launch.
pub struct Concat;

impl Lowering for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::Concat)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let [rows, _] = rows_and_cols(c);
        let width = |i: usize| c.operand_type(i).shape.last().map_or(count(0), |d| size(*d));
        let (a_cols, b_cols) = (width(0), width(1));
        let args = vec![
            ("a", c.read(0)),
            ("b", c.read(1)),
            ("out", c.result()),
            ("rows", rows),
            ("a_cols", a_cols),
            ("b_cols", b_cols),
            ("reserved", count(0)),
        ];
        c.launch("concat", "", args)
    }
}

/// The result's last dimension, and the product of all before it.
fn rows_and_cols(c: &Context) -> [Arg; 2] {
    let shape = &c.node().ty.shape;
    let (cols, rows) = (shape[shape.len() - 1], shape[..shape.len() - 1].to_vec());
    [Arg::Size(rows), size(cols)]
}
