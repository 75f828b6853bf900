//! How the experts' results join the residual stream. One launch each.

use ir::graph::{Graph, Node};
use ir::op::Op;

use super::source::Source;
use super::{Context, LowerError, Lowering, size};
use crate::target::Target;

/// `combine_add`, in the place of the residual stream.
pub struct CombineAdd;

impl Lowering for CombineAdd {
    fn name(&self) -> &'static str {
        "combine_add"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::CombineAdd)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let shape = c.operand_type(0).shape.clone();
        let args = vec![
            ("y", c.read(0)),
            ("weights", c.read(1)),
            ("residual", c.read(2)),
            ("out", c.result()),
            ("squares", c.further_result(1)),
            ("tokens", size(shape[0])),
            ("slots", size(shape[1])),
            ("cols", size(shape[2])),
            ("factor", c.float("factor")),
        ];
        c.may_overwrite(2);
        c.launch("combine_add", "", args)
    }
}

/// `combine_down`, in the place of the residual stream; the variant is named by the weights' format and by what becomes of `h`.
pub struct CombineDown;

impl Lowering for CombineDown {
    fn name(&self) -> &'static str {
        "combine_down"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::CombineDown)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let (h, w) = (c.operand_type(0).clone(), c.operand_type(1).clone());
        let source = Source::of(c, 0);
        if source.is_normalised() {
            return Err(c.error("h may be rounded by this launch, but not normalised: norm it in a launch of its own"));
        }
        let args = vec![
            ("h", source.x),
            ("w", c.read(1)),
            ("experts", c.read(2)),
            ("weights", c.read(3)),
            ("bias", c.read_optional(4)),
            ("residual", c.read_optional(5)),
            ("out", c.result()),
            ("squares", c.further_result(1)),
            ("tokens", size(h.shape[0])),
            ("slots", size(h.shape[1])),
            ("matrices", size(w.shape[0])),
            ("rows", size(w.shape[1])),
            ("cols", size(w.shape[2])),
            ("factor", c.float("factor")),
        ];
        c.may_overwrite(5);
        c.launch("combine_down", &format!("{}.{}", w.dtype, source.form), args)
    }

    fn carries_out(&self, inline: Op) -> bool {
        inline == Op::InlineQuantize
    }
}
