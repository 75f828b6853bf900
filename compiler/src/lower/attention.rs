//! Heads: views, rotary embedding, the paged cache and attention over it.

use ir::graph::{Graph, Node};
use ir::op::Op;
use ir::program::{Access, Arg};
use ir::types::Dim;

use super::{Context, LowerError, Lowering, count, size, variant};
use crate::target::Target;

/// Ops that only change the type their operand is seen under: no launch.
pub struct View;

impl Lowering for View {
    fn name(&self) -> &'static str {
        "view"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op().is_some_and(Op::is_view)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        c.result_is_operand(0);
        Ok(())
    }
}

/// `rope`: one launch.
pub struct Rope;

impl Lowering for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::Rope)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let shape = c.node().ty.shape.clone();
        let frequencies = c.operand_type(2).shape.clone();
        let tables = if c.operand_count() > 3 { frequencies[0] } else { Dim::Const(1) };
        let args = vec![
            ("x", c.read(0)),
            ("positions", c.read(1)),
            ("inv_freq", c.read(2)),
            ("table", c.read_optional(3)),
            ("out", c.result()),
            ("tokens", size(shape[0])),
            ("heads", size(shape[1])),
            ("head_dim", size(shape[2])),
            ("pairs", size(frequencies[frequencies.len() - 1])),
            ("tables", size(tables)),
            ("interleaved", c.flag("interleaved")),
            ("scale", c.float("scale")),
            ("reserved", count(0)),
        ];
        c.may_overwrite(0);
        c.launch("rope", "", args)
    }
}

/// `kv_append`: one launch that updates the state.
pub struct KvAppend;

impl Lowering for KvAppend {
    fn name(&self) -> &'static str {
        "kv_append"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::KvAppend)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let (kv, k) = (c.operand_type(0).clone(), c.operand_type(1).clone());
        let Arg::State(state, _) = c.read(0) else {
            return Err(c.error("the cache must be a state of the graph"));
        };
        let args = vec![
            ("k", c.read(1)),
            ("v", c.read_optional(5)),
            ("positions", c.read(2)),
            ("sequences", c.read(3)),
            ("page_table", c.read(4)),
            ("kv", Arg::State(state, Access::Update)),
            ("tokens", size(k.shape[0])),
            ("kv_heads", size(k.shape[1])),
            ("head_dim", size(k.shape[2])),
            ("page_table_stride", size(c.operand_type(4).shape[1])),
        ];
        c.result_is_operand(0);
        c.launch("kv_append", variant(kv.dtype), args)
    }
}

/// `attention`: one launch.
pub struct Attention;

impl Lowering for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn accepts(&self, _: &Graph, node: &Node, _: Target) -> bool {
        node.op() == Some(Op::Attention)
    }

    fn lower(&self, c: &mut Context) -> Result<(), LowerError> {
        let (q, kv) = (c.operand_type(0).clone(), c.operand_type(1).clone());
        let args = vec![
            ("q", c.read(0)),
            ("kv", c.read(1)),
            ("positions", c.read(2)),
            ("sequences", c.read(3)),
            ("page_table", c.read(4)),
            ("sinks", c.read_optional(5)),
            ("out", c.result()),
            ("tokens", size(q.shape[0])),
            ("heads", size(q.shape[1])),
            ("kv_heads", size(kv.shape[2])),
            ("head_dim", size(q.shape[2])),
            ("page_table_stride", size(c.operand_type(4).shape[1])),
            ("window", c.int("window")),
            ("value_dim", c.int("value_dim")),
            ("reserved", count(0)),
            ("scale", c.float("scale")),
            ("softcap", c.float("softcap")),
        ];
        c.launch("attention", variant(kv.dtype), args)
    }
}
