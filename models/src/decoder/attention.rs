//! Attention over a paged cache, with rotary embedding.

use ir::graph::ValueId;
use ir::op::{Attr, Op, PAGE_TOKENS};
use ir::types::{Dim, TensorType};

use super::Decoder;
use crate::ModelError;
use crate::hyperparameters::QueryKeyNorm;
use crate::names::{Role, label};
use crate::rope::Rope;

impl Decoder<'_> {
    /// The attention block over `x[T, hidden]`: grouped queries, or over a latent cache where the model has one.
    pub fn attention(&mut self, x: ValueId, layer: usize) -> Result<ValueId, ModelError> {
        match self.hyper.latent {
            Some(latent) => self.latent_attention(x, layer, latent),
            None => self.grouped_query_attention(x, layer),
        }
    }

    fn grouped_query_attention(&mut self, x: ValueId, layer: usize) -> Result<ValueId, ModelError> {
        let h = &self.hyper;
        let (hidden, heads, kv_heads) = (h.hidden, h.heads, h.kv_heads);
        let (q_width, kv_width) = (heads * h.head_dim, kv_heads * h.head_dim);
        let (bias, style) = (h.qkv_bias, h.attention);
        let q = self.linear(x, Role::Query, layer, q_width, hidden, bias)?;
        let k = self.linear(x, Role::Key, layer, kv_width, hidden, bias)?;
        let v = self.linear(x, Role::Value, layer, kv_width, hidden, bias)?;
        let q = self.query_or_key(q, Role::QueryNorm, layer, heads, style.query_key_norm)?;
        let k = self.query_or_key(k, Role::KeyNorm, layer, kv_heads, style.query_key_norm)?;
        let v = self.split_heads(v, kv_heads)?;
        let (q, k) = (self.rope(q, Role::Query, layer)?, self.rope(k, Role::Key, layer)?);
        let cache = self.append(k, Some(v), layer)?;
        let mixed = self.attend(q, cache, layer, 0)?;
        self.attention_output(mixed, layer, q_width)
    }

    /// A projection seen as heads, normalised as the family does it.
    fn query_or_key(
        &mut self,
        x: ValueId,
        norm: Role,
        layer: usize,
        heads: u64,
        style: QueryKeyNorm,
    ) -> Result<ValueId, ModelError> {
        match style {
            QueryKeyNorm::None => self.split_heads(x, heads),
            QueryKeyNorm::Head => {
                let x = self.split_heads(x, heads)?;
                self.norm(x, norm, layer)
            }
            QueryKeyNorm::Projection => {
                let x = self.norm(x, norm, layer)?;
                self.split_heads(x, heads)
            }
        }
    }

    /// The attention op; `value_dim` is 0 where the cache has a plane of values.
    pub(super) fn attend(
        &mut self,
        q: ValueId,
        cache: ValueId,
        layer: usize,
        value_dim: u64,
    ) -> Result<ValueId, ModelError> {
        let (step, style) = (self.step, self.hyper.attention);
        let window = self.hyper.windows.get(layer).copied().unwrap_or(0);
        let mut operands = vec![q, cache, step.positions, step.sequences, step.page_table];
        if style.sinks {
            operands.push(self.sinks(layer)?);
        }
        let attributes = [
            ("scale", Attr::Float(style.scale)),
            ("window", Attr::Int(window as i64)),
            ("softcap", Attr::Float(style.softcap)),
            ("value_dim", Attr::Int(value_dim as i64)),
        ];
        self.op(Op::Attention, &operands, &attributes, &format!("layers.{layer}.attention"))
    }

    /// One score a head; transformers stores a bare tensor, GGUF a `.weight`.
    fn sinks(&mut self, layer: usize) -> Result<ValueId, ModelError> {
        let bare = self.names.module(Role::Sinks, layer);
        let weight = format!("{bare}.weight");
        let name = if self.checkpoint.find(&weight).is_some() { weight } else { bare };
        self.vector(&name, self.hyper.heads, 0.0)
    }

    /// Heads `[T, heads, value dim]` to the block's result `[T, hidden]`.
    pub(super) fn attention_output(&mut self, mixed: ValueId, layer: usize, width: u64) -> Result<ValueId, ModelError> {
        let (hidden, bias) = (self.hyper.hidden, self.hyper.output_bias);
        let mut mixed = self.op(Op::MergeHeads, &[mixed], &[], "")?;
        if self.hyper.attention.sub_norm {
            mixed = self.norm(mixed, Role::AttentionSubNorm, layer)?;
        }
        self.linear(mixed, Role::AttentionOutput, layer, hidden, width, bias)
    }

    /// The rotary embedding of heads `[T, heads, D]`.
    pub(super) fn rope(&mut self, x: ValueId, role: Role, layer: usize) -> Result<ValueId, ModelError> {
        let windowed = self.hyper.windows.get(layer).is_some_and(|window| *window > 0);
        let (name, rope) = match &self.hyper.local_rope {
            Some(local) if windowed => ("rope.local_inv_freq", local.clone()),
            _ => ("rope.inv_freq", self.hyper.rope.clone()),
        };
        let mut operands = vec![x, self.step.positions, self.frequencies(name, &rope)];
        if let Some(tables) = self.step.rope_tables {
            operands.push(tables);
        }
        let attributes =
            [("interleaved", Attr::Bool(rope.interleaved)), ("scale", Attr::Float(rope.attention_factor()))];
        self.op(Op::Rope, &operands, &attributes, &format!("{}.rope", label(role, layer)))
    }

    /// The frequencies as a constant: a vector, or a row for each side of the original context.
    fn frequencies(&mut self, name: &str, rope: &Rope) -> ValueId {
        if let Some(value) = self.declared.get(name) {
            return *value;
        }
        let mut values = rope.inverse_frequencies();
        let pairs = values.len() as u64;
        let value = match rope.long_inverse_frequencies() {
            Some(long) => {
                values.extend(long);
                self.graph.constant_matrix(name, values, pairs)
            }
            None => self.graph.constant(name, values),
        };
        self.declared.insert(name.into(), value);
        value
    }

    /// Writes keys, and values where the cache has a plane of them; gives the cache after.
    pub(super) fn append(&mut self, k: ValueId, v: Option<ValueId>, layer: usize) -> Result<ValueId, ModelError> {
        let (kv, step) = (self.hyper.kv, self.step);
        let fixed = [kv.planes, kv.heads, PAGE_TOKENS, kv.head_dim].map(Dim::Const);
        let shape: Vec<Dim> = [Dim::Sym(step.pages)].into_iter().chain(fixed).collect();
        let cache = self.graph.state(&format!("kv.{layer}"), TensorType::new(self.options.kv_dtype, shape));
        let mut operands = vec![cache, k, step.positions, step.sequences, step.page_table];
        operands.extend(v);
        self.op(Op::KvAppend, &operands, &[], &format!("layers.{layer}.kv_append"))
    }
}
