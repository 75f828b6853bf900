//! The shared builder of decoder-only families: declares weights, checks their shapes and emits the ops of one step.
//!
//! A family's file says which blocks a layer has and in what order; what a block is stands here once.

use std::collections::HashMap;

use ir::graph::{Graph, ValueId};
use ir::op::{Attr, Op, PAGE_TOKENS};
use ir::types::{DType, Dim, SymbolId, TensorType};

use crate::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::import::ImportOptions;
use crate::names::{Role, Spelling};
use crate::source::{Checkpoint, Metadata};

/// Builds a graph over a checkpoint.
pub struct Decoder<'a> {
    /// Sizes and constants.
    pub hyper: Hyperparameters,
    checkpoint: &'a Checkpoint,
    graph: Graph,
    weights: HashMap<String, ValueId>,
    step: Step,
    kv_dtype: DType,
}

/// The step's metadata and what every layer shares.
#[derive(Clone, Copy)]
struct Step {
    ids: ValueId,
    positions: ValueId,
    sequences: ValueId,
    page_table: ValueId,
    logit_rows: ValueId,
    inv_freq: Option<ValueId>,
    pages: SymbolId,
}

/// What is particular about a family's attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionStyle {
    /// Each query and key head is normalised before the rotary embedding.
    pub head_norms: bool,
}

impl<'a> Decoder<'a> {
    /// A builder with the step's inputs declared.
    pub fn new(name: &str, checkpoint: &'a Checkpoint, hyper: Hyperparameters, options: &ImportOptions) -> Decoder<'a> {
        let mut graph = Graph::new(name);
        let tokens = graph.symbol("T", 1, options.max_tokens);
        let sequences = graph.symbol("S", 1, options.max_sequences);
        let columns = graph.symbol("P", 1, options.max_model_len.div_ceil(PAGE_TOKENS).max(1));
        let rows = graph.symbol("R", 1, options.max_tokens);
        let pages = graph.symbol("N", 1, 1 << 24);
        let mut input = |name: &str, shape: &[SymbolId]| {
            let shape: Vec<Dim> = shape.iter().map(|s| Dim::Sym(*s)).collect();
            graph.input(name, TensorType::new(DType::I32, shape))
        };
        let step = Step {
            ids: input("ids", &[tokens]),
            positions: input("positions", &[tokens]),
            sequences: input("sequences", &[tokens]),
            page_table: input("page_table", &[sequences, columns]),
            logit_rows: input("logit_rows", &[rows]),
            inv_freq: None,
            pages,
        };
        Decoder { hyper, checkpoint, graph, weights: HashMap::new(), step, kv_dtype: options.kv_dtype }
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph
    }

    /// The embedded tokens of the step, `[T, hidden]`.
    pub fn embed(&mut self) -> Result<ValueId, ModelError> {
        let table = self.embedding_table()?;
        self.op(Op::Embedding, &[table, self.step.ids], &[], "embed")
    }

    /// The final norm and output projection over the rows whose logits are asked for: output `logits[R, vocabulary]`.
    pub fn head(&mut self, x: ValueId) -> Result<(), ModelError> {
        let rows = self.op(Op::GatherRows, &[x, self.step.logit_rows], &[], "logit_rows")?;
        let normed = self.norm(rows, Role::OutputNorm, 0)?;
        let table = if self.hyper.tied {
            self.embedding_table()?
        } else {
            self.matrix(Role::Output, 0, self.hyper.vocabulary, self.hyper.hidden)?
        };
        let logits = self.op(Op::Matmul, &[normed, table], &[], "head")?;
        self.graph.output("logits", logits);
        Ok(())
    }

    fn embedding_table(&mut self) -> Result<ValueId, ModelError> {
        self.matrix(Role::TokenEmbedding, 0, self.hyper.vocabulary, self.hyper.hidden)
    }

    /// RMSNorm over the last dimension with the weight of that role.
    pub fn norm(&mut self, x: ValueId, role: Role, layer: usize) -> Result<ValueId, ModelError> {
        let width = match self.graph.node(x).ty.shape.last() {
            Some(Dim::Const(width)) => *width,
            _ => 0,
        };
        let weight = self.vector(&format!("{}.weight", self.module(role, layer)), width)?;
        let eps = Attr::Float(self.hyper.norm_eps);
        self.op(Op::RmsNorm, &[x, weight], &[("eps", eps)], &label(role, layer))
    }

    /// `x` times the matrix `[rows, cols]` of that role, plus its bias: always, never, or where the checkpoint has one.
    pub fn linear(
        &mut self,
        x: ValueId,
        role: Role,
        layer: usize,
        rows: u64,
        cols: u64,
        bias: Option<bool>,
    ) -> Result<ValueId, ModelError> {
        let matrix = self.matrix(role, layer, rows, cols)?;
        let name = format!("{}.bias", self.module(role, layer));
        let mut operands = vec![x, matrix];
        if bias.unwrap_or_else(|| self.checkpoint.find(&name).is_some()) {
            operands.push(self.vector(&name, rows)?);
        }
        self.op(Op::Matmul, &operands, &[], &label(role, layer))
    }

    /// Grouped-query self-attention with rotary embedding over the paged cache.
    pub fn self_attention(&mut self, x: ValueId, layer: usize, style: AttentionStyle) -> Result<ValueId, ModelError> {
        let h = &self.hyper;
        let (hidden, q_width, kv_width) = (h.hidden, h.heads * h.head_dim, h.kv_heads * h.head_dim);
        let (heads, kv_heads, window) = (h.heads, h.kv_heads, h.windows[layer]);
        let (bias, output_bias) = (h.qkv_bias, h.output_bias);
        let scale = 1.0 / (h.head_dim as f64).sqrt();
        let q = self.linear(x, Role::Query, layer, q_width, hidden, bias)?;
        let k = self.linear(x, Role::Key, layer, kv_width, hidden, bias)?;
        let v = self.linear(x, Role::Value, layer, kv_width, hidden, bias)?;
        let mut q = self.split_heads(q, heads)?;
        let mut k = self.split_heads(k, kv_heads)?;
        let v = self.split_heads(v, kv_heads)?;
        if style.head_norms {
            q = self.norm(q, Role::QueryNorm, layer)?;
            k = self.norm(k, Role::KeyNorm, layer)?;
        }
        let (q, k) = (self.rope(q, Role::Query, layer)?, self.rope(k, Role::Key, layer)?);
        let cache = self.append(k, v, layer)?;
        let step = self.step;
        let operands = [q, cache, step.positions, step.sequences, step.page_table];
        let attributes =
            [("scale", Attr::Float(scale)), ("window", Attr::Int(window as i64)), ("softcap", Attr::Float(0.0))];
        let mixed = self.op(Op::Attention, &operands, &attributes, &format!("layers.{layer}.attention"))?;
        let mixed = self.op(Op::MergeHeads, &[mixed], &[], "")?;
        self.linear(mixed, Role::AttentionOutput, layer, hidden, q_width, output_bias)
    }

    /// `down(silu(gate(x)) · up(x))`.
    pub fn gated_feed_forward(&mut self, x: ValueId, layer: usize) -> Result<ValueId, ModelError> {
        let (hidden, width, bias) = (self.hyper.hidden, self.hyper.feed_forward, self.hyper.feed_forward_bias);
        let gate = self.linear(x, Role::Gate, layer, width, hidden, bias)?;
        let up = self.linear(x, Role::Up, layer, width, hidden, bias)?;
        let activation = [("activation", Attr::Str("silu".into()))];
        let h = self.op(Op::Glu, &[gate, up], &activation, &format!("layers.{layer}.glu"))?;
        self.linear(h, Role::Down, layer, hidden, width, bias)
    }

    /// `a + b`.
    pub fn add(&mut self, a: ValueId, b: ValueId, layer: usize) -> Result<ValueId, ModelError> {
        self.op(Op::Add, &[a, b], &[], &format!("layers.{layer}.residual"))
    }

    fn split_heads(&mut self, x: ValueId, heads: u64) -> Result<ValueId, ModelError> {
        self.op(Op::SplitHeads, &[x], &[("heads", Attr::Int(heads as i64))], "")
    }

    fn rope(&mut self, x: ValueId, role: Role, layer: usize) -> Result<ValueId, ModelError> {
        let inv_freq = match self.step.inv_freq {
            Some(value) => value,
            None => {
                let value = self.graph.constant("rope.inv_freq", self.hyper.rope.inverse_frequencies());
                *self.step.inv_freq.insert(value)
            }
        };
        let attributes = [
            ("interleaved", Attr::Bool(self.hyper.rope.interleaved)),
            ("scale", Attr::Float(self.hyper.rope.attention_factor())),
        ];
        self.op(Op::Rope, &[x, self.step.positions, inv_freq], &attributes, &format!("{}.rope", label(role, layer)))
    }

    fn append(&mut self, k: ValueId, v: ValueId, layer: usize) -> Result<ValueId, ModelError> {
        let dims = [self.hyper.kv_heads, PAGE_TOKENS, self.hyper.head_dim].map(Dim::Const);
        let shape = [Dim::Sym(self.step.pages), Dim::Const(2), dims[0], dims[1], dims[2]];
        let cache = self.graph.state(&format!("kv.{layer}"), TensorType::new(self.kv_dtype, shape));
        let step = self.step;
        let operands = [cache, k, v, step.positions, step.sequences, step.page_table];
        self.op(Op::KvAppend, &operands, &[], &format!("layers.{layer}.kv_append"))
    }

    fn module(&self, role: Role, layer: usize) -> String {
        let spelling = match self.checkpoint.metadata() {
            Metadata::HuggingFace(_) => Spelling::HuggingFace,
            Metadata::Gguf(_) => Spelling::Gguf,
        };
        role.module(spelling, layer)
    }

    /// A matrix in the checkpoint's own format.
    fn matrix(&mut self, role: Role, layer: usize, rows: u64, cols: u64) -> Result<ValueId, ModelError> {
        let name = format!("{}.weight", self.module(role, layer));
        self.weight(&name, &[rows, cols], |dtype| dtype)
    }

    /// A vector, widened to f32.
    fn vector(&mut self, name: &str, len: u64) -> Result<ValueId, ModelError> {
        self.weight(name, &[len], |_| DType::F32)
    }

    /// Declares a weight once, after checking that the checkpoint has it in that shape and in a known type.
    fn weight(&mut self, name: &str, shape: &[u64], stored: fn(DType) -> DType) -> Result<ValueId, ModelError> {
        if let Some(value) = self.weights.get(name) {
            return Ok(*value);
        }
        self.checkpoint.expect_shape(name, shape)?;
        let dtype = self.checkpoint.dtype(name)?;
        let dims: Vec<Dim> = shape.iter().map(|d| Dim::Const(*d)).collect();
        let value = self.graph.weight(name, TensorType::new(stored(dtype), dims));
        self.weights.insert(name.into(), value);
        Ok(value)
    }

    fn op(
        &mut self,
        op: Op,
        operands: &[ValueId],
        attributes: &[(&str, Attr)],
        label: &str,
    ) -> Result<ValueId, ModelError> {
        Ok(self.graph.op(op, operands, attributes, label)?)
    }
}

fn label(role: Role, layer: usize) -> String {
    role.module(Spelling::HuggingFace, layer).trim_start_matches("model.").to_string()
}
