//! Where a launch of products finds its rows: an operand, or what lies behind inline operands that the launch carries out.

use ir::op::Op;
use ir::program::Arg;

use super::{Context, count};

/// Rows, and what becomes of them before they are multiplied.
pub struct Source {
    /// The rows in memory.
    pub x: Arg,
    /// What the kernels' variants call them: `f32`, `q8x32`, or `f32.block`, `f32.row` and `f32.half` where the launch rounds them.
    pub form: String,
    /// The norm's number in parameter structs: 0 none, 1 rms, 2 layer, 3 scale.
    pub norm: Arg,
    /// The norm's weights, or null.
    pub norm_weight: Arg,
    /// The layer norm's bias, or null.
    pub norm_bias: Arg,
    /// The norm's epsilon, or 0.
    pub norm_eps: Arg,
}

impl Source {
    /// The rows behind operand `i`.
    pub fn of(c: &Context, i: usize) -> Source {
        let mut value = c.operand(i);
        let mut form = c.definition(value).ty.dtype.name().to_string();
        if c.definition(value).op() == Some(Op::InlineQuantize) {
            form = format!("f32.{}", c.definition(value).word("granularity").unwrap_or_default());
            value = c.definition(value).operands()[0];
        }
        let node = c.definition(value);
        if node.op() != Some(Op::InlineNorm) {
            let (x, norm_eps) = (c.read_value(value), Arg::Float(0.0));
            return Source { x, form, norm: count(0), norm_weight: Arg::Null, norm_bias: Arg::Null, norm_eps };
        }
        Source {
            x: c.read_value(node.operands()[0]),
            form,
            norm: norm_number(node.word("kind")),
            norm_weight: c.read_value(node.operands()[1]),
            norm_bias: node.operand(2).map_or(Arg::Null, |bias| c.read_value(bias)),
            norm_eps: Arg::Float(node.float("eps").unwrap_or(0.0) as f32),
        }
    }

    /// Whether the launch normalises the rows.
    pub fn is_normalised(&self) -> bool {
        self.norm != count(0)
    }
}

/// The number that parameter structs give a kind of norm.
pub fn norm_number(kind: Option<&str>) -> Arg {
    count(match kind {
        Some("rms") => 1,
        Some("layer") => 2,
        Some("scale") => 3,
        _ => 0,
    })
}
