//! Row by row: partial sums and what is made of them, norms with what follows them. One launch each.

use ir::graph::{Graph, Node};
use ir::op::Op;
use ir::program::Arg;
use ir::types::{DType, Dim};

use super::source::norm_number;
use super::{Context, LowerError, Lowering, count, size, variant};
use crate::target::Target;

/// `cast` to the type there is; any other is for fusion to remove.
pub struct Cast;

impl Lowering for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::Cast)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let (from, to) = (c.operand_type(0).dtype, c.node().ty.dtype);
        if from != to {
            return Err(c.error(format!(
                "no kernel rounds {from} to {to} on its own: let fusion move the cast into a launch (--fuse full), or leave it out"
            )));
        }
        c.result_is_operand(0);
        Ok(())
    }
}

/// `scale_columns`.
pub struct ScaleColumns;

impl Lowering for ScaleColumns {
    fn name(&self) -> &'static str {
        "scale_columns"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::ScaleColumns)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let [rows, cols] = tokens_and_width(c);
        let args = vec![("x", c.read(0)), ("w", c.read(1)), ("out", c.result()), ("rows", rows), ("cols", cols)];
        c.may_overwrite(0);
        c.launch("scale_columns", "", args)
    }
}

/// `square_sums`.
pub struct SquareSums;

impl Lowering for SquareSums {
    fn name(&self) -> &'static str {
        "square_sums"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::SquareSums)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let [rows, cols] = tokens_and_width(c);
        let args = vec![("x", c.read(0)), ("out", c.result()), ("rows", rows), ("cols", cols)];
        c.launch("square_sums", "", args)
    }
}

/// `scale_rows`, with slots or without.
pub struct ScaleRows;

impl Lowering for ScaleRows {
    fn name(&self) -> &'static str {
        "scale_rows"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::ScaleRows)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let shape = c.node().ty.shape.clone();
        let slots = if shape.len() == 3 { shape[1] } else { Dim::Const(1) };
        let args = vec![
            ("y", c.read(0)),
            ("squares", c.read(1)),
            ("bias", c.read_optional(2)),
            ("out", c.result()),
            ("tokens", size(shape[0])),
            ("slots", size(slots)),
            ("cols", size(shape[shape.len() - 1])),
            ("width", c.int("width")),
            ("eps", c.float("eps")),
            ("reserved", count(0)),
        ];
        c.may_overwrite(0);
        c.launch("scale_rows", "", args)
    }
}

/// `column_partials`, the variant named by the router's type.
pub struct ColumnPartials;

impl Lowering for ColumnPartials {
    fn name(&self) -> &'static str {
        "column_partials"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::ColumnPartials)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let [tokens, cols] = tokens_and_width(c);
        let router = c.operand_type(2).clone();
        if !matches!(router.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(
                c.error(format!("a router is f32, f16 or bf16, not {}: keep the product as it was", router.dtype))
            );
        }
        let args = vec![
            ("x", c.read(0)),
            ("norm", c.read(1)),
            ("w", c.read(2)),
            ("out", c.result()),
            ("tokens", tokens),
            ("cols", cols),
            ("experts", size(router.shape[0])),
            ("reserved", count(0)),
        ];
        c.launch("column_partials", variant(router.dtype), args)
    }
}

/// `finish_logits`.
pub struct FinishLogits;

impl Lowering for FinishLogits {
    fn name(&self) -> &'static str {
        "finish_logits"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::FinishLogits)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let shape = c.node().ty.shape.clone();
        let args = vec![
            ("partials", c.read(0)),
            ("squares", c.read(1)),
            ("bias", c.read_optional(2)),
            ("out", c.result()),
            ("tokens", size(shape[0])),
            ("experts", size(shape[1])),
            ("width", c.int("width")),
            ("eps", c.float("eps")),
        ];
        c.launch("finish_logits", "", args)
    }
}

/// `norm_quantize`, the variant named by what shares a scale.
pub struct NormQuantize;

impl Lowering for NormQuantize {
    fn name(&self) -> &'static str {
        "norm_quantize"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::NormQuantize)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let [rows, cols] = tokens_and_width(c);
        let granularity = c.node().word("granularity").unwrap_or_default().to_string();
        let args = vec![
            ("x", c.read(0)),
            ("weight", c.read(1)),
            ("bias", c.read_optional(2)),
            ("out", c.result()),
            ("rows", rows),
            ("cols", cols),
            ("norm", norm_number(c.node().word("kind"))),
            ("eps", c.float("eps")),
        ];
        c.launch("norm_quantize", &granularity, args)
    }
}

/// `norm_add`, in the place of the residual stream or of the branch.
pub struct NormAdd;

impl Lowering for NormAdd {
    fn name(&self) -> &'static str {
        "norm_add"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::NormAdd)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let [rows, cols] = tokens_and_width(c);
        let args = vec![
            ("x", c.read(0)),
            ("weight", c.read(1)),
            ("residual", c.read(2)),
            ("out", c.result()),
            ("squares", c.further_result(1)),
            ("rows", rows),
            ("cols", cols),
            ("eps", c.float("eps")),
            ("factor", c.float("factor")),
        ];
        c.may_overwrite(2);
        c.may_overwrite(0);
        c.launch("norm_add", "", args)
    }
}

/// The last dimension of operand 0, and the product of all before it.
fn tokens_and_width(c: &Context) -> [Arg; 2] {
    let shape = &c.operand_type(0).shape;
    [Arg::Size(shape[..shape.len() - 1].to_vec()), size(shape[shape.len() - 1])]
}
