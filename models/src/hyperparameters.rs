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
    /// Biases on query, key and value projections; `None` (GGUF does not say): where the checkpoint has them.
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
        None => {
            return Err(fields.wrong("num_attention_heads", format!("a divisor of hidden_size {hidden}, or head_dim")));
        }
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
        qkv_bias: Some(fields.bool_or("attention_bias", false)?),
        output_bias: Some(fields.bool_or("attention_bias", false)?),
        feed_forward_bias: Some(fields.bool_or("mlp_bias", false)?),
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
        // Dynamic NTK differs only past the trained context, which a sequence here never exceeds.
        "default" | "dynamic" => RopeScaling::None,
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
        _ => return Err(fields.wrong(key, "one of default, linear, dynamic, llama3, yarn")),
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

fn from_gguf(metadata: &GgufMetadata, checkpoint: &Checkpoint) -> Result<Hyperparameters, ModelError> {
    let architecture = metadata.str("general.architecture")?;
    let key = |name: &str| format!("{architecture}.{name}");
    let (hidden, heads) = (metadata.size(&key("embedding_length"))?, metadata.size(&key("attention.head_count"))?);
    let head_dim = match metadata.opt_size(&key("attention.key_length"))? {
        Some(given) => given,
        None if hidden % heads == 0 => hidden / heads,
        None => {
            return Err(
                metadata.wrong(&key("attention.head_count"), format!("a divisor of the embedding length {hidden}"))
            );
        }
    };
    if metadata.opt_size(&key("attention.value_length"))?.is_some_and(|v| v != head_dim) {
        return Err(metadata.wrong(&key("attention.value_length"), format!("the key length {head_dim}")));
    }
    let kv_heads = metadata.opt_size(&key("attention.head_count_kv"))?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        return Err(metadata.wrong(&key("attention.head_count_kv"), format!("a divisor of the head count {heads}")));
    }
    let layers = metadata.u64(&key("block_count"), 1..=4096)? as usize;
    let max_context = metadata.size(&key("context_length"))?;
    let window = metadata.opt_u64(&key("attention.sliding_window"), 0..=crate::config::MAX_SIZE)?.unwrap_or(0);
    Ok(Hyperparameters {
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        feed_forward: metadata.size(&key("feed_forward_length"))?,
        vocabulary: checkpoint.tensor("token_embd.weight")?.shape.first().copied().unwrap_or(0),
        max_context,
        norm_eps: metadata.f64(&key("attention.layer_norm_rms_epsilon"), 0.0..=1.0)?,
        rope: rope_from_gguf(metadata, checkpoint, &key, head_dim, max_context)?,
        windows: vec![window; layers],
        tied: checkpoint.find("output.weight").is_none(),
        qkv_bias: None,
        output_bias: None,
        feed_forward_bias: None,
    })
}

fn rope_from_gguf(
    metadata: &GgufMetadata,
    checkpoint: &Checkpoint,
    key: &dyn Fn(&str) -> String,
    head_dim: u64,
    max_context: u64,
) -> Result<Rope, ModelError> {
    let positive = f64::MIN_POSITIVE..=f64::MAX;
    let factor = || metadata.f64(&key("rope.scaling.factor"), 1.0..=f64::MAX);
    let scaling = match metadata.opt_str(&key("rope.scaling.type"))?.unwrap_or("none") {
        "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor()? },
        "yarn" => RopeScaling::Yarn {
            factor: factor()?,
            original: metadata.opt_size(&key("rope.scaling.original_context_length"))?.unwrap_or(max_context) as f64,
            beta_fast: metadata.opt_f64(&key("rope.scaling.yarn_beta_fast"), positive.clone())?.unwrap_or(32.0),
            beta_slow: metadata.opt_f64(&key("rope.scaling.yarn_beta_slow"), positive.clone())?.unwrap_or(1.0),
            attention_factor: metadata
                .opt_f64(&key("rope.scaling.attn_factor"), positive)?
                .map(|f| Ok::<f64, ModelError>(f * crate::rope::yarn_attention_factor(factor()?)))
                .transpose()?,
            truncate: true,
        },
        _ => return Err(metadata.wrong(&key("rope.scaling.type"), "one of none, linear, yarn")),
    };
    let dims = metadata.opt_u64(&key("rope.dimension_count"), 2..=head_dim)?.unwrap_or(head_dim) / 2 * 2;
    let theta = metadata.opt_f64(&key("rope.freq_base"), 1.0..=f64::MAX)?.unwrap_or(10_000.0);
    let divisors = rope_divisors(checkpoint, dims / 2)?;
    Ok(Rope { theta, dims, scaling, interleaved: false, divisors })
}

/// The tensor `rope_freqs.weight`, with which converters express Llama 3.1's scaling.
fn rope_divisors(checkpoint: &Checkpoint, pairs: u64) -> Result<Vec<f32>, ModelError> {
    const NAME: &str = "rope_freqs.weight";
    if checkpoint.find(NAME).is_none() {
        return Ok(Vec::new());
    }
    checkpoint.expect_shape(NAME, &[pairs])?;
    let mut bytes = Vec::new();
    checkpoint.read(NAME, &mut bytes)?;
    let mut values = vec![0f32; pairs as usize];
    let read = ir::quant::dequantize(checkpoint.dtype(NAME)?, &bytes, pairs as usize, &mut values);
    match read.is_ok() && values.iter().all(|v| v.is_finite() && *v > 0.0) {
        true => Ok(values),
        false => Err(ModelError::Tensor {
            file: checkpoint.path().to_path_buf(),
            tensor: NAME.into(),
            problem: "expected positive finite divisors; the file is damaged, download it again".into(),
        }),
    }
}
