//! Ops without a launch: those that their readers carry out, and names of what another launch gave.

use ir::graph::{Graph, Node};
use ir::op::Op;

use super::{Context, LowerError, Lowering};
use crate::target::Target;

/// `inline_norm`, `inline_quantize`, `inline_logits`: part of the launches that read them.
pub struct Inline;

impl Lowering for Inline {
    fn name(&self) -> &'static str {
        "inline"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op().is_some_and(Op::is_inline)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        c.result_is_inline();
        Ok(())
    }

    fn carries_out(&self, inline: Op) -> bool {
        inline == Op::InlineNorm
    }
}

/// `part`: a further result of a launch; `after`: a state that a launch has updated.
pub struct Names;

impl Lowering for Names {
    fn name(&self) -> &'static str {
        "names"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        matches!(node.op(), Some(Op::Part | Op::After))
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        match c.node().int("index") {
            Some(index) => c.result_is_part(usize::try_from(index).unwrap_or(0)),
            None => c.result_is_operand(0),
        }
        Ok(())
    }
}
