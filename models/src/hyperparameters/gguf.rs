//! Hyperparameters from GGUF metadata.

use super::{Activation, AttentionStyle, Hyperparameters, KvGeometry, Multipliers, NormKind};
use crate::ModelError;
use crate::rope::{Rope, RopeScaling, longrope_attention_factor, yarn_attention_factor};
use crate::source::Checkpoint;
use crate::source::gguf::GgufMetadata;

/// The tensor with which converters express Llama 3.1's scaling.
const DIVISORS: &str = "rope_freqs.weight";

/// The tensors of LongRoPE.
const SHORT_FACTORS: &str = "rope_factors_short.weight";
const LONG_FACTORS: &str = "rope_factors_long.weight";

/// A key of the file's architecture: `name` as `llama.name`.
pub(super) fn key(metadata: &GgufMetadata, name: &str) -> Result<String, ModelError> {
    Ok(format!("{}.{name}", metadata.str("general.architecture")?))
}

pub(super) fn read(metadata: &GgufMetadata, checkpoint: &Checkpoint) -> Result<Hyperparameters, ModelError> {
    let architecture = metadata.str("general.architecture")?;
    let key = |name: &str| format!("{architecture}.{name}");
    let heads = metadata.size(&key("attention.head_count"))?;
    let kv_heads = metadata.opt_size(&key("attention.head_count_kv"))?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        return Err(metadata.wrong(&key("attention.head_count_kv"), format!("a divisor of the head count {heads}")));
    }
    let head_dim = head_dim(metadata, &key, heads)?;
    let layers = metadata.u64(&key("block_count"), 1..=4096)? as usize;
    let max_context = metadata.size(&key("context_length"))?;
    let window = metadata.opt_u64(&key("attention.sliding_window"), 0..=crate::config::MAX_SIZE)?.unwrap_or(0);
    let rope = rope(metadata, checkpoint, head_dim, max_context)?;
    Ok(Hyperparameters {
        hidden: metadata.size(&key("embedding_length"))?,
        layers,
        heads,
        kv_heads,
        head_dim,
        feed_forward: feed_forward(metadata, &key)?,
        vocabulary: checkpoint.tensor("token_embd.weight")?.shape.first().copied().unwrap_or(0),
        max_context,
        norm_eps: norm_eps(metadata, &key)?,
        norm: NormKind::Rms,
        norm_offset: 0.0,
        rope_switch: rope_switch(metadata, &key, &rope, max_context)?,
        rope,
        local_rope: None,
        windows: vec![window; layers],
        tied: checkpoint.find("output.weight").is_none(),
        qkv_bias: None,
        output_bias: None,
        feed_forward_bias: None,
        head_bias: checkpoint.find("output.bias").is_some(),
        activation: Activation::Silu,
        feed_forward_sub_norm: false,
        rounds_activations: false,
        multipliers: Multipliers::default(),
        attention: AttentionStyle::plain(head_dim),
        latent: None,
        mixture: None,
        kv: KvGeometry { heads: kv_heads, head_dim, planes: 2 },
    })
}

/// The key length, or an equal share of the embedding; of latent attention the dimensions that are turned.
fn head_dim(metadata: &GgufMetadata, key: &dyn Fn(&str) -> String, heads: u64) -> Result<u64, ModelError> {
    if metadata.opt_size(&key("attention.kv_lora_rank"))?.is_some() {
        return metadata.size(&key("rope.dimension_count"));
    }
    let hidden = metadata.size(&key("embedding_length"))?;
    let head_dim = match metadata.opt_size(&key("attention.key_length"))? {
        Some(given) => given,
        None if hidden % heads == 0 => hidden / heads,
        None => {
            let expected = format!("a divisor of the embedding length {hidden}");
            return Err(metadata.wrong(&key("attention.head_count"), expected));
        }
    };
    if metadata.opt_size(&key("attention.value_length"))?.is_some_and(|v| v != head_dim) {
        return Err(metadata.wrong(&key("attention.value_length"), format!("the key length {head_dim}")));
    }
    Ok(head_dim)
}

/// The dense width; models that are mixtures in every layer may give the experts' alone.
fn feed_forward(metadata: &GgufMetadata, key: &dyn Fn(&str) -> String) -> Result<u64, ModelError> {
    match metadata.opt_u64(&key("feed_forward_length"), 0..=crate::config::MAX_SIZE)?.filter(|width| *width > 0) {
        Some(width) => Ok(width),
        None if metadata.get(&key("expert_feed_forward_length")).is_some() => {
            metadata.size(&key("expert_feed_forward_length"))
        }
        None => metadata.size(&key("feed_forward_length")),
    }
}

fn norm_eps(metadata: &GgufMetadata, key: &dyn Fn(&str) -> String) -> Result<f64, ModelError> {
    let (rms, layer) = (key("attention.layer_norm_rms_epsilon"), key("attention.layer_norm_epsilon"));
    match metadata.opt_f64(&layer, 0.0..=1.0)? {
        Some(eps) if metadata.get(&rms).is_none() => Ok(eps),
        _ => metadata.f64(&rms, 0.0..=1.0),
    }
}

/// The rotary embedding of heads of `head_dim` dimensions.
pub(super) fn rope(
    metadata: &GgufMetadata,
    checkpoint: &Checkpoint,
    head_dim: u64,
    max_context: u64,
) -> Result<Rope, ModelError> {
    let architecture = metadata.str("general.architecture")?;
    let key = |name: &str| format!("{architecture}.{name}");
    let dims = metadata.opt_u64(&key("rope.dimension_count"), 2..=head_dim)?.unwrap_or(head_dim) / 2 * 2;
    let positive = f64::MIN_POSITIVE..=f64::MAX;
    let factor = || metadata.f64(&key("rope.scaling.factor"), 1.0..=f64::MAX);
    let scaling = match metadata.opt_str(&key("rope.scaling.type"))?.unwrap_or("none") {
        _ if checkpoint.find(LONG_FACTORS).is_some() => longrope(metadata, checkpoint, &key, dims / 2, max_context)?,
        "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor()? },
        "yarn" => RopeScaling::Yarn {
            factor: factor()?,
            original: metadata.opt_size(&key("rope.scaling.original_context_length"))?.unwrap_or(max_context) as f64,
            beta_fast: metadata.opt_f64(&key("rope.scaling.yarn_beta_fast"), positive.clone())?.unwrap_or(32.0),
            beta_slow: metadata.opt_f64(&key("rope.scaling.yarn_beta_slow"), positive.clone())?.unwrap_or(1.0),
            attention_factor: metadata
                .opt_f64(&key("rope.scaling.attn_factor"), positive)?
                .map(|f| Ok::<f64, ModelError>(f * yarn_attention_factor(factor()?, 1.0)))
                .transpose()?,
            truncate: true,
        },
        _ => return Err(metadata.wrong(&key("rope.scaling.type"), "one of none, linear, yarn")),
    };
    let theta = metadata.opt_f64(&key("rope.freq_base"), 1.0..=f64::MAX)?.unwrap_or(10_000.0);
    let divisors = match checkpoint.find(DIVISORS) {
        Some(_) => positive_values(checkpoint, DIVISORS, dims / 2)?,
        None => Vec::new(),
    };
    Ok(Rope { theta, dims, scaling, interleaved: false, divisors })
}

/// Two tensors of factors, and the factor on cos and sin where the file gives it.
fn longrope(
    metadata: &GgufMetadata,
    checkpoint: &Checkpoint,
    key: &dyn Fn(&str) -> String,
    pairs: u64,
    max_context: u64,
) -> Result<RopeScaling, ModelError> {
    let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
    let original = original_context(metadata, key)?.unwrap_or(max_context) as f64;
    let given = metadata.opt_f64(&key("rope.scaling.attn_factor"), f64::MIN_POSITIVE..=f64::MAX)?;
    Ok(RopeScaling::LongRope {
        short: wide(positive_values(checkpoint, SHORT_FACTORS, pairs)?),
        long: wide(positive_values(checkpoint, LONG_FACTORS, pairs)?),
        attention_factor: given.unwrap_or_else(|| longrope_attention_factor(max_context as f64 / original, original)),
    })
}

fn original_context(metadata: &GgufMetadata, key: &dyn Fn(&str) -> String) -> Result<Option<u64>, ModelError> {
    metadata.opt_u64(&key("rope.scaling.original_context_length"), 2..=crate::config::MAX_SIZE)
}

/// The sequence length above which the second list of factors holds.
fn rope_switch(
    metadata: &GgufMetadata,
    key: &dyn Fn(&str) -> String,
    rope: &Rope,
    max_context: u64,
) -> Result<Option<u64>, ModelError> {
    let two = matches!(rope.scaling, RopeScaling::LongRope { .. });
    Ok(if two { Some(original_context(metadata, key)?.unwrap_or(max_context)) } else { None })
}

/// The values of a tensor of positive finite numbers, one a rotary pair.
fn positive_values(checkpoint: &Checkpoint, name: &str, pairs: u64) -> Result<Vec<f32>, ModelError> {
    checkpoint.expect_shape(name, &[pairs])?;
    let mut bytes = Vec::new();
    checkpoint.read(name, &mut bytes)?;
    let mut values = vec![0f32; pairs as usize];
    let read = ir::quant::dequantize(checkpoint.dtype(name)?, &bytes, pairs as usize, &mut values);
    match read.is_ok() && values.iter().all(|v| v.is_finite() && *v > 0.0) {
        true => Ok(values),
        false => Err(ModelError::Tensor {
            file: checkpoint.path().to_path_buf(),
            tensor: name.into(),
            problem: "expected positive finite divisors; the file is damaged, download it again".into(),
        }),
    }
}
