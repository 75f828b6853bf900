//! Hyperparameters that most decoder families share, read from either kind of checkpoint.
//!
//! Hugging Face's config.json exists in two dialects for the rotary embedding (transformers 4: `rope_theta` and
//! `rope_scaling`; transformers 5: `rope_parameters`), GGUF has its own keys; all give this one struct. What only one
//! family has is read by that family.

use crate::ModelError;
use crate::config::Fields;
use crate::rope::{Rope, RopeScaling};
use crate::source::{Checkpoint, Metadata, gguf::GgufMetadata};

/// Sizes and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyperparameters {
    /// Width of the residual stream.
    pub hidden: u64,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Dimensions of a head.
    pub head_dim: u64,
    /// Width of the feed-forward block.
    pub feed_forward: u64,
    /// Rows of the embedding table.
    pub vocabulary: u64,
    /// Longest sequence the model was made for, in tokens.
    pub max_context: u64,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Attention window of each layer, 0 for none.
    pub windows: Vec<u64>,
    /// Whether the output projection is the embedding table.
    pub tied: bool,
    /// Biases on query, key and value projections; `None`: where the checkpoint has them.
    pub qkv_bias: Option<bool>,
    /// Bias on the attention output projection; `None`: where the checkpoint has it.
    pub output_bias: Option<bool>,
    /// Biases in the feed-forward block; `None`: where the checkpoint has them.
    pub feed_forward_bias: Option<bool>,
}

impl Hyperparameters {
    /// Reads the shared fields of a checkpoint.
    pub fn read(checkpoint: &Checkpoint) -> Result<Hyperparameters, ModelError> {
        match checkpoint.metadata() {
            Metadata::HuggingFace(config) => from_hugging_face(&config.fields()),
            Metadata::Gguf(metadata) => from_gguf(metadata, checkpoint),
        }
    }
}

fn from_hugging_face(fields: &Fields) -> Result<Hyperparameters, ModelError> {
    let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
    let head_dim = match fields.opt_size("head_dim")? {
        Some(given) => given,
        None if hidden % heads == 0 => hidden / heads,
        None => return Err(fields.wrong("num_attention_heads", format!("a divisor of hidden_size {hidden}, or head_dim"))),
    };
    let kv_heads = fields.opt_size("num_key_value_heads")?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        return Err(fields.wrong("num_key_value_heads", format!("a divisor of num_attention_heads {heads}")));
    }
    match fields.opt_str("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => {}
        _ => return Err(fields.wrong("hidden_act", "\"silu\"")),
    }
    let layers = fields.u64("num_hidden_layers", 1..=4096)? as usize;
    let max_context = fields.opt_size("max_position_embeddings")?.unwrap_or(2048);
    Ok(Hyperparameters {
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        feed_forward: fields.size("intermediate_size")?,
        vocabulary: fields.size("vocab_size")?,
        max_context,
        norm_eps: fields.opt_f64("rms_norm_eps", 0.0..=1.0)?.unwrap_or(1e-6),
        rope: rope_from_hugging_face(fields, head_dim, max_context)?,
        windows: windows_from_hugging_face(fields, layers)?,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        qkv_bias: fields.opt_bool("attention_bias")?,
        output_bias: fields.opt_bool("attention_bias")?,
        feed_forward_bias: fields.opt_bool("mlp_bias")?,
    })
}

/// The window of each layer: `layer_types` where given, else every layer if `sliding_window` is set and used.
fn windows_from_hugging_face(fields: &Fields, layers: usize) -> Result<Vec<u64>, ModelError> {
    let window = fields.opt_size("sliding_window")?.unwrap_or(0);
    let used = fields.bool_or("use_sliding_window", true)?;
    if let Some(types) = fields.opt_strs("layer_types")? {
        if types.len() != layers {
            return Err(fields.wrong("layer_types", format!("one entry for each of {layers} layers")));
        }
        let unknown = types.iter().any(|t| !matches!(*t, "full_attention" | "sliding_attention"));
        if unknown {
            return Err(fields.wrong("layer_types", "full_attention or sliding_attention"));
        }
        return Ok(types.iter().map(|t| if *t == "sliding_attention" { window } else { 0 }).collect());
    }
    let first = fields.opt_u64("max_window_layers", 0..=4096)?.unwrap_or(0) as usize;
    let first = if fields.has("use_sliding_window") { first } else { 0 };
    Ok((0..layers).map(|l| if used && l >= first { window } else { 0 }).collect())
}

fn rope_from_hugging_face(fields: &Fields, head_dim: u64, max_context: u64) -> Result<Rope, ModelError> {
    let parameters = fields.opt_object("rope_parameters")?;
    let scaling = match &parameters {
        Some(p) => Some(p.clone()),
        None => fields.opt_object("rope_scaling")?,
    };
    let holder = parameters.as_ref().unwrap_or(fields);
    let theta = match holder.opt_f64("rope_theta", 1.0..=f64::MAX)? {
        Some(theta) => theta,
        None => fields.opt_f64("rope_theta", 1.0..=f64::MAX)?.unwrap_or(10_000.0),
    };
    let partial = match holder.opt_f64("partial_rotary_factor", 0.0..=1.0)? {
        Some(factor) => factor,
        None => fields.opt_f64("partial_rotary_factor", 0.0..=1.0)?.unwrap_or(1.0),
    };
    let scaling = scaling.map_or(Ok(RopeScaling::None), |s| scaling_from_hugging_face(&s, max_context))?;
    let dims = (head_dim as f64 * partial) as u64 / 2 * 2;
    Ok(Rope { theta, dims, scaling, interleaved: false, divisors: Vec::new() })
}

fn scaling_from_hugging_face(fields: &Fields, max_context: u64) -> Result<RopeScaling, ModelError> {
    let key = if fields.has("rope_type") { "rope_type" } else { "type" };
    let factor = || fields.f64("factor", 1.0..=f64::MAX);
    let positive = f64::MIN_POSITIVE..=f64::MAX;
    Ok(match fields.opt_str(key)?.unwrap_or("default") {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor()? },
        "llama3" => RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: fields.f64("low_freq_factor", positive.clone())?,
            high_freq_factor: fields.f64("high_freq_factor", positive)?,
            original: fields.size("original_max_position_embeddings")? as f64,
        },
        "yarn" => RopeScaling::Yarn {
            factor: factor()?,
            original: fields.opt_size("original_max_position_embeddings")?.unwrap_or(max_context) as f64,
            beta_fast: fields.opt_f64("beta_fast", positive.clone())?.unwrap_or(32.0),
            beta_slow: fields.opt_f64("beta_slow", positive.clone())?.unwrap_or(1.0),
            attention_factor: yarn_factor_from_hugging_face(fields, factor()?)?,
            truncate: fields.bool_or("truncate", true)?,
        },
        _ => return Err(fields.wrong(key, "one of default, linear, llama3, yarn")),
    })
}

/// `attention_factor` where given, else the ratio of the two mscales where both are.
fn yarn_factor_from_hugging_face(fields: &Fields, factor: f64) -> Result<Option<f64>, ModelError> {
    let positive = f64::MIN_POSITIVE..=f64::MAX;
    if let Some(given) = fields.opt_f64("attention_factor", positive.clone())? {
        return Ok(Some(given));
    }
    let (part, all) = (fields.opt_f64("mscale", positive.clone())?, fields.opt_f64("mscale_all_dim", positive)?);
    let scaled = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    Ok(part.zip(all).map(|(part, all)| scaled(part) / scaled(all)))
}
