//! Mixtures of experts, and products over heads, which share their kernel: one launch each.

use ir::graph::{Graph, Node};
use ir::op::Op;
use ir::types::Dim;

use super::source::Source;
use super::{Context, LowerError, Lowering, count, size};
use crate::target::Target;

/// `router` and `router_weights`: one launch each, the variant named by the scoring.
pub struct Router;

impl Lowering for Router {
    fn name(&self) -> &'static str {
        "router"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        matches!(node.op(), Some(Op::Router | Op::RouterWeights))
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let logits = c.operand_type(0).shape.clone();
        let slots = c.node().ty.shape[1];
        let scoring = c.node().word("scoring").unwrap_or_default().to_string();
        let sizes = [("tokens", size(logits[0])), ("experts", size(logits[1])), ("slots", size(slots))];
        if c.node().op() == Some(Op::Router) {
            let mut args = vec![("logits", c.read(0)), ("bias", c.read_optional(1)), ("out", c.result())];
            args.extend(sizes);
            args.extend([("groups", c.int("groups")), ("top_groups", c.int("top_groups")), ("reserved", count(0))]);
            return c.launch("router", &scoring, args);
        }
        let mut args = vec![("logits", c.read(0)), ("selected", c.read(1)), ("out", c.result())];
        args.extend(sizes);
        args.extend([
            ("renormalise", c.flag("renormalise")),
            ("scale", c.float("scale")),
            ("jitter", c.float("jitter")),
        ]);
        c.launch("router_weights", &scoring, args)
    }
}

/// `grouped_matmul` and `head_matmul`: one launch, the variant named by the weight's format and the activation's.
pub struct GroupedMatmul;

impl Lowering for GroupedMatmul {
    fn name(&self) -> &'static str {
        "grouped_matmul"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        matches!(node.op(), Some(Op::GroupedMatmul | Op::HeadMatmul))
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let (x, w, source) = (c.operand_type(0).clone(), c.operand_type(1).clone(), Source::of(c, 0));
        let shape = c.node().ty.shape.clone();
        let args = vec![
            ("x", source.x),
            ("w", c.read(1)),
            ("experts", c.read_optional(2)),
            ("bias", c.read_optional(3)),
            ("out", c.result()),
            ("tokens", size(shape[0])),
            ("slots", size(shape[1])),
            ("matrices", size(w.shape[0])),
            ("rows", size(w.shape[1])),
            ("cols", size(w.shape[2])),
            ("slots_share_x", count(u64::from(x.shape.len() == 2))),
        ];
        c.launch("grouped_matmul", &format!("{}.{}", w.dtype, source.form), args)
    }

    fn carries_out(&self, inline: Op) -> bool {
        inline == Op::InlineQuantize
    }
}

/// `combine`: one launch.
pub struct Combine;

impl Lowering for Combine {
    fn name(&self) -> &'static str {
        "combine"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::Combine)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let shape = c.operand_type(0).shape.clone();
        let args = vec![
            ("y", c.read(0)),
            ("weights", c.read(1)),
            ("out", c.result()),
            ("tokens", size(shape[0])),
            ("slots", size(shape[1])),
            ("cols", size(shape[2])),
            ("reserved", count(0)),
        ];
        c.launch("combine", "", args)
    }
}

/// `permute_columns`: one launch.
pub struct PermuteColumns;

impl Lowering for PermuteColumns {
    fn name(&self) -> &'static str {
        "permute_columns"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::PermuteColumns)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let (x, index) = (c.operand_type(0).clone(), c.operand_type(1).clone());
        let grouped = c.operand_count() > 2;
        let shape = c.node().ty.shape.clone();
        let slots = if grouped { shape[1] } else { Dim::Const(1) };
        let matrices = if grouped { index.shape[0] } else { Dim::Const(1) };
        let args = vec![
            ("x", c.read(0)),
            ("index", c.read(1)),
            ("experts", c.read_optional(2)),
            ("out", c.result()),
            ("tokens", size(shape[0])),
            ("slots", size(slots)),
            ("matrices", size(matrices)),
            ("cols", size(shape[shape.len() - 1])),
            ("slots_share_x", count(u64::from(grouped && x.shape.len() == 2))),
            ("reserved", count(0)),
        ];
        c.launch("permute_columns", "", args)
    }
}
