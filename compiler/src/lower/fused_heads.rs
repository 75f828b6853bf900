//! Products whose rows are heads: queries, keys and values of a layer with norms, rotary embedding and the cache. One launch each.

use ir::graph::{Graph, Node};
use ir::op::Op;
use ir::program::{Access, Arg};
use ir::types::{DType, Dim};

use super::source::Source;
use super::{Context, LowerError, Lowering, count, size};
use crate::target::Target;

/// `qkv`, and `project_heads`, which is its part without keys and values.
pub struct Heads;

impl Lowering for Heads {
    fn name(&self) -> &'static str {
        "heads"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        matches!(node.op(), Some(Op::Qkv | Op::ProjectHeads))
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let operands = if c.node().op() == Some(Op::Qkv) { Operands::of_qkv(c)? } else { Operands::of_heads(c) };
        let (w, source, out) = (c.operand_type(1).clone(), Source::of(c, 0), c.node().ty.shape.clone());
        let frequencies = operands.frequencies.map(|i| c.operand_type(i).shape.clone()).unwrap_or_default();
        let table = operands.table.map_or(Arg::Null, |i| c.read_optional(i));
        let tables = if frequencies.len() == 2 { frequencies[0] } else { Dim::Const(1) };
        let pairs = frequencies.last().copied().unwrap_or(Dim::Const(0));
        let read = |c: &Context, i: Option<usize>| i.map_or(Arg::Null, |i| c.read_optional(i));
        let args = vec![
            ("x", source.x),
            ("wq", c.read(1)),
            ("wk", read(c, operands.keys_and_values.map(|kv| kv[0]))),
            ("wv", read(c, operands.keys_and_values.map(|kv| kv[1]))),
            ("norm_weight", source.norm_weight),
            ("norm_bias", source.norm_bias),
            ("squares", c.read_optional(operands.squares)),
            ("bq", c.read_optional(operands.bias)),
            ("bk", read(c, operands.keys_and_values.map(|kv| kv[2]))),
            ("bv", read(c, operands.keys_and_values.map(|kv| kv[3]))),
            ("q_norm", c.read_optional(operands.norm)),
            ("k_norm", read(c, operands.keys_and_values.map(|kv| kv[4]))),
            ("positions", read(c, operands.positions)),
            ("sequences", read(c, operands.sequences)),
            ("page_table", read(c, operands.page_table)),
            ("inv_freq", read(c, operands.frequencies)),
            ("table", table),
            ("out", c.result()),
            ("kv", operands.kv),
            ("tokens", size(out[0])),
            ("cols", size(w.shape[1])),
            ("heads", size(out[1])),
            ("kv_heads", c.int("kv_heads")),
            ("head_dim", size(out[2])),
            ("pairs", size(pairs)),
            ("tables", size(tables)),
            ("interleaved", c.flag("interleaved")),
            ("page_table_stride", operands.page_table.map_or(count(0), |i| size(c.operand_type(i).shape[1]))),
            ("norm", source.norm),
            ("eps", c.float("eps")),
            ("norm_eps", source.norm_eps),
            ("head_eps", c.float("norm_eps")),
            ("scale", c.float("scale")),
        ];
        c.launch("qkv", &format!("{}.{}.{}", w.dtype, source.form, operands.cache), args)
    }

    fn carries_out(&self, inline: Op) -> bool {
        matches!(inline, Op::InlineNorm | Op::InlineQuantize)
    }
}

/// Which operand is what; `None` where the op has none, or it was left out.
struct Operands {
    squares: usize,
    bias: usize,
    norm: usize,
    positions: Option<usize>,
    sequences: Option<usize>,
    page_table: Option<usize>,
    frequencies: Option<usize>,
    table: Option<usize>,
    /// Matrices of keys and values, their biases, the norm of keys.
    keys_and_values: Option<[usize; 5]>,
    kv: Arg,
    cache: DType,
}

impl Operands {
    fn of_heads(c: &Context) -> Operands {
        let turns = c.has(6);
        Operands {
            squares: 3,
            bias: 2,
            norm: 4,
            positions: turns.then_some(5),
            sequences: None,
            page_table: None,
            frequencies: turns.then_some(6),
            table: turns.then_some(7),
            keys_and_values: None,
            kv: Arg::Null,
            cache: DType::F32,
        }
    }

    fn of_qkv(c: &Context) -> Result<Operands, LowerError> {
        let Arg::State(state, _) = c.read(4) else {
            return Err(c.error("the cache must be a state of the graph"));
        };
        let turns = c.has(14);
        let [wq, wk, wv] = [1, 2, 3].map(|i| c.operand_type(i).dtype);
        if wk != wq || wv != wq {
            return Err(
                c.error(format!("its matrices must have one format, not {wq}, {wk} and {wv}: leave them apart"))
            );
        }
        Ok(Operands {
            squares: 8,
            bias: 9,
            norm: 12,
            positions: Some(5),
            sequences: Some(6),
            page_table: Some(7),
            frequencies: turns.then_some(14),
            table: turns.then_some(15),
            keys_and_values: Some([2, 3, 10, 11, 13]),
            kv: Arg::State(state, Access::Update),
            cache: c.operand_type(4).dtype,
        })
    }
}
