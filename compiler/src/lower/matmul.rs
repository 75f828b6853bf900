//! Products with weights: one launch, the variant named by the weight's format and the activation's.

use ir::graph::{Graph, Node};
use ir::op::Op;

use super::{Context, LowerError, Lowering, count, size};
use crate::target::Target;

/// `matmul`.
pub struct Matmul;

impl Lowering for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::Matmul)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let (x, w) = (c.operand_type(0).clone(), c.operand_type(1).clone());
        let args = vec![
            ("x", c.read(0)),
            ("w", c.read(1)),
            ("bias", c.read_optional(2)),
            ("out", c.result()),
            ("tokens", size(x.shape[0])),
            ("rows", size(w.shape[0])),
            ("cols", size(w.shape[1])),
            ("reserved", count(0)),
        ];
        c.launch("matmul", &format!("{}.{}", w.dtype, x.dtype), args)
    }
}
