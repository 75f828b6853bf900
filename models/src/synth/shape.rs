//! The weights of a model, from its configuration: names, shapes, distributions.
//!
//! The list is written out by family instead of being taken from the importers: these say which tensors they need, not how
//! a published file stores them, and a list made from them could not show that they ask for a wrong name.

use crate::ModelError;
use crate::config::{Config, Fields};

/// Standard deviation of the logits: the output matrix has this gain, and what it multiplies has root mean square 1.
const LOGIT_STD: f64 = 2.0;

/// Standard deviation of norm weights around their mean, of biases and the like around 0.
const VECTOR_STD: f64 = 0.1;

/// Structure of one weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[n]`.
    Vector(u64),
    /// `[out, in]`, never quantised: embeddings, head, routers, biases of experts.
    Table(u64, u64),
    /// `[out, in]` of a linear layer.
    Linear(u64, u64),
    /// `[experts, in, out]`, or quantised to MXFP4 `[experts, out, in]`.
    Experts(u64, u64, u64),
}

/// Which share of a weight one token is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Use {
    /// All of it.
    Whole,
    /// A row is copied; nothing is multiplied.
    Lookup,
    /// So many experts of so many.
    Routed(u64, u64),
}

/// One weight of a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Weight {
    /// Name in a checkpoint; for a linear layer that of the module, without `.weight`.
    pub name: String,
    pub layout: Layout,
    pub mean: f64,
    pub std: f64,
    pub used: Use,
}

impl Weight {
    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        match self.layout {
            Layout::Vector(n) => n,
            Layout::Table(rows, cols) | Layout::Linear(rows, cols) => rows * cols,
            Layout::Experts(experts, out, input) => experts * out * input,
        }
    }
}

/// Number of parameters of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterCount {
    /// All of them; a table that serves as embedding and output is counted once.
    pub total: u64,
    /// Those that one token is multiplied with: all but the experts it is not routed to and an embedding table that is
    /// only looked up.
    pub active: u64,
    /// Those of an embedding table that is only looked up; some model pages count them as active.
    pub lookup: u64,
}

/// Counts the parameters of a list.
pub(super) fn count(weights: &[Weight]) -> ParameterCount {
    let mut count = ParameterCount { total: 0, active: 0, lookup: 0 };
    for weight in weights {
        let n = weight.parameters();
        count.total += n;
        match weight.used {
            Use::Whole => count.active += n,
            Use::Lookup => count.lookup += n,
            // Exact for every preset: the number of experts divides each matrix.
            Use::Routed(selected, of) => count.active += n * selected / of,
        }
    }
    count
}

/// The weights of the model that `config` describes, in the order of a forward pass.
///
/// # Errors
/// A field that is absent or out of range, or an architecture without a list here.
pub(super) fn weights(config: &Config) -> Result<Vec<Weight>, ModelError> {
    let fields = config.fields();
    let layer = match fields.str("model_type")? {
        "mixtral" => mixtral_layer,
        "llama" => llama_layer,
        "phi3" => phi3_layer,
        "gemma2" => gemma2_layer,
        "qwen3_moe" => qwen3_moe_layer,
        "gpt_oss" => gpt_oss_layer,
        _ => return Err(fields.wrong("model_type", "an architecture with presets")),
    };
    let mut list = List::new(&fields)?;
    list.embeddings();
    for index in 0..fields.size("num_hidden_layers")? {
        list.prefix = format!("model.layers.{index}.");
        layer(&mut list, &fields)?;
    }
    list.prefix.clear();
    list.output();
    Ok(list.weights)
}

/// The list in the making, with the sizes every family has.
struct List {
    prefix: String,
    hidden: u64,
    /// Of all query heads together.
    queries: u64,
    /// Of all key heads together.
    keys: u64,
    heads: u64,
    head_dim: u64,
    ffn: u64,
    vocabulary: u64,
    tied: bool,
    /// Mean of norm weights: 0 where the model adds 1.
    norm_mean: f64,
    weights: Vec<Weight>,
}

impl List {
    fn new(fields: &Fields<'_>) -> Result<List, ModelError> {
        let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        let head_dim = fields.opt_size("head_dim")?.unwrap_or(hidden / heads);
        Ok(List {
            prefix: String::new(),
            hidden,
            queries: heads * head_dim,
            keys: fields.size("num_key_value_heads")? * head_dim,
            heads,
            head_dim,
            ffn: fields.size("intermediate_size")?,
            vocabulary: fields.size("vocab_size")?,
            tied: fields.get("tie_word_embeddings").and_then(|v| v.as_bool()).unwrap_or(false),
            norm_mean: if fields.str("model_type")? == "gemma2" { 0.0 } else { 1.0 },
            weights: Vec::new(),
        })
    }

    fn push(&mut self, name: &str, layout: Layout, (mean, std): (f64, f64), used: Use) {
        let name = format!("{}{name}", self.prefix);
        self.weights.push(Weight { name, layout, mean, std, used });
    }

    /// A linear layer whose results have the standard deviation of its inputs.
    fn linear(&mut self, name: &str, out: u64, input: u64) {
        self.push(name, Layout::Linear(out, input), (0.0, per_input(1.0, input)), Use::Whole);
    }

    fn norm(&mut self, name: &str, n: u64) {
        self.push(name, Layout::Vector(n), (self.norm_mean, VECTOR_STD), Use::Whole);
    }

    fn bias(&mut self, name: &str, n: u64) {
        self.push(name, Layout::Vector(n), (0.0, VECTOR_STD), Use::Whole);
    }

    fn router(&mut self, name: &str, experts: u64) {
        let hidden = self.hidden;
        self.push(name, Layout::Table(experts, hidden), (0.0, per_input(1.0, hidden)), Use::Whole);
    }

    fn expert(&mut self, name: &str, (out, input): (u64, u64), routed: Use) {
        self.push(name, Layout::Linear(out, input), (0.0, per_input(1.0, input)), routed);
    }

    /// A table that is also the output has the output's scale, else its rows have root mean square 1.
    fn embeddings(&mut self) {
        let (std, used) = match self.tied {
            true => (per_input(LOGIT_STD, self.hidden), Use::Whole),
            false => (1.0, Use::Lookup),
        };
        self.push("model.embed_tokens.weight", Layout::Table(self.vocabulary, self.hidden), (0.0, std), used);
    }

    fn output(&mut self) {
        self.norm("model.norm.weight", self.hidden);
        if !self.tied {
            let std = per_input(LOGIT_STD, self.hidden);
            self.push("lm_head.weight", Layout::Table(self.vocabulary, self.hidden), (0.0, std), Use::Whole);
        }
    }

    /// The four separate projections.
    fn attention(&mut self) {
        let (hidden, queries, keys) = (self.hidden, self.queries, self.keys);
        self.linear("self_attn.q_proj", queries, hidden);
        self.linear("self_attn.k_proj", keys, hidden);
        self.linear("self_attn.v_proj", keys, hidden);
        self.linear("self_attn.o_proj", hidden, queries);
    }

    fn gated_mlp(&mut self) {
        let (hidden, ffn) = (self.hidden, self.ffn);
        self.linear("mlp.gate_proj", ffn, hidden);
        self.linear("mlp.up_proj", ffn, hidden);
        self.linear("mlp.down_proj", hidden, ffn);
    }

    fn two_norms(&mut self) {
        self.norm("input_layernorm.weight", self.hidden);
        self.norm("post_attention_layernorm.weight", self.hidden);
    }
}

/// The standard deviation of a weight with so many inputs.
fn per_input(gain: f64, inputs: u64) -> f64 {
    gain / (inputs as f64).sqrt()
}

fn mixtral_layer(list: &mut List, fields: &Fields<'_>) -> Result<(), ModelError> {
    let (experts, selected) = (fields.size("num_local_experts")?, fields.size("num_experts_per_tok")?);
    let (hidden, ffn, routed) = (list.hidden, list.ffn, Use::Routed(selected, experts));
    list.two_norms();
    list.attention();
    list.router("block_sparse_moe.gate.weight", experts);
    for expert in 0..experts {
        let module = |matrix: &str| format!("block_sparse_moe.experts.{expert}.{matrix}");
        list.expert(&module("w1"), (ffn, hidden), routed);
        list.expert(&module("w2"), (hidden, ffn), routed);
        list.expert(&module("w3"), (ffn, hidden), routed);
    }
    Ok(())
}

fn llama_layer(list: &mut List, _: &Fields<'_>) -> Result<(), ModelError> {
    list.two_norms();
    list.attention();
    list.gated_mlp();
    Ok(())
}

fn phi3_layer(list: &mut List, _: &Fields<'_>) -> Result<(), ModelError> {
    let (hidden, ffn) = (list.hidden, list.ffn);
    list.two_norms();
    list.linear("self_attn.qkv_proj", list.queries + 2 * list.keys, hidden);
    list.linear("self_attn.o_proj", hidden, list.queries);
    list.linear("mlp.gate_up_proj", 2 * ffn, hidden);
    list.linear("mlp.down_proj", hidden, ffn);
    Ok(())
}

fn gemma2_layer(list: &mut List, _: &Fields<'_>) -> Result<(), ModelError> {
    list.two_norms();
    list.norm("pre_feedforward_layernorm.weight", list.hidden);
    list.norm("post_feedforward_layernorm.weight", list.hidden);
    list.attention();
    list.gated_mlp();
    Ok(())
}

fn qwen3_moe_layer(list: &mut List, fields: &Fields<'_>) -> Result<(), ModelError> {
    let (experts, selected) = (fields.size("num_experts")?, fields.size("num_experts_per_tok")?);
    let (hidden, ffn) = (list.hidden, fields.size("moe_intermediate_size")?);
    let routed = Use::Routed(selected, experts);
    list.two_norms();
    list.attention();
    list.norm("self_attn.q_norm.weight", list.head_dim);
    list.norm("self_attn.k_norm.weight", list.head_dim);
    list.router("mlp.gate.weight", experts);
    for expert in 0..experts {
        let module = |matrix: &str| format!("mlp.experts.{expert}.{matrix}");
        list.expert(&module("gate_proj"), (ffn, hidden), routed);
        list.expert(&module("up_proj"), (ffn, hidden), routed);
        list.expert(&module("down_proj"), (hidden, ffn), routed);
    }
    Ok(())
}

/// Only the experts of gpt-oss are ever quantised, so its other matrices are tables here.
fn gpt_oss_layer(list: &mut List, fields: &Fields<'_>) -> Result<(), ModelError> {
    let (experts, selected) = (fields.size("num_local_experts")?, fields.size("num_experts_per_tok")?);
    let (hidden, ffn, routed) = (list.hidden, list.ffn, Use::Routed(selected, experts));
    list.two_norms();
    let (queries, keys) = (list.queries, list.keys);
    for (name, out, input) in [("q", queries, hidden), ("k", keys, hidden), ("v", keys, hidden), ("o", hidden, queries)]
    {
        let module = format!("self_attn.{name}_proj");
        let values = (0.0, per_input(1.0, input));
        list.push(&format!("{module}.weight"), Layout::Table(out, input), values, Use::Whole);
        list.bias(&format!("{module}.bias"), out);
    }
    list.push("self_attn.sinks", Layout::Vector(list.heads), (0.0, 1.0), Use::Whole);
    list.router("mlp.router.weight", experts);
    list.bias("mlp.router.bias", experts);
    for (name, out, input) in [("gate_up_proj", 2 * ffn, hidden), ("down_proj", hidden, ffn)] {
        let module = format!("mlp.experts.{name}");
        list.push(&module, Layout::Experts(experts, out, input), (0.0, per_input(1.0, input)), routed);
        list.push(&format!("{module}_bias"), Layout::Table(experts, out), (0.0, VECTOR_STD), routed);
    }
    Ok(())
}
