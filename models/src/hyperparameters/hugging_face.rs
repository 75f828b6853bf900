//! Hyperparameters from config.json.
//!
//! It exists in two dialects for the rotary embedding (transformers 4: `rope_theta` and `rope_scaling`; transformers 5:
//! `rope_parameters`); both give one [`Rope`].

use super::{Activation, AttentionStyle, Hyperparameters, KvGeometry, Multipliers, NormKind};
use crate::ModelError;
use crate::config::Fields;
use crate::rope::{Rope, RopeScaling, longrope_attention_factor, yarn_attention_factor};

pub(super) fn read(fields: &Fields) -> Result<Hyperparameters, ModelError> {
    let heads = fields.size("num_attention_heads")?;
    let kv_heads = fields.opt_size("num_key_value_heads")?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        return Err(fields.wrong("num_key_value_heads", format!("a divisor of num_attention_heads {heads}")));
    }
    let head_dim = head_dim(fields, heads)?;
    let layers = fields.u64("num_hidden_layers", 1..=4096)? as usize;
    let max_context = fields.opt_size("max_position_embeddings")?.unwrap_or(2048);
    let rope = rope(fields, head_dim, max_context)?;
    Ok(Hyperparameters {
        hidden: fields.size("hidden_size")?,
        layers,
        heads,
        kv_heads,
        head_dim,
        feed_forward: fields.size("intermediate_size")?,
        vocabulary: fields.size("vocab_size")?,
        max_context,
        norm_eps: fields.opt_f64("rms_norm_eps", 0.0..=1.0)?.unwrap_or(1e-6),
        norm: NormKind::Rms,
        norm_offset: 0.0,
        rope_switch: rope_switch(fields, &rope)?,
        rope,
        local_rope: None,
        windows: windows(fields, layers)?,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        qkv_bias: Some(fields.bool_or("attention_bias", false)?),
        output_bias: Some(fields.bool_or("attention_bias", false)?),
        feed_forward_bias: Some(fields.bool_or("mlp_bias", false)?),
        head_bias: false,
        activation: activation(fields)?,
        feed_forward_sub_norm: false,
        rounds_activations: quantised_by_bitnet(fields)?,
        multipliers: Multipliers::default(),
        attention: AttentionStyle::plain(head_dim),
        latent: None,
        mixture: None,
        kv: KvGeometry { heads: kv_heads, head_dim, planes: 2 },
    })
}

/// `head_dim`, or an equal share of the hidden size. Families of latent attention have no one head dimension.
fn head_dim(fields: &Fields, heads: u64) -> Result<u64, ModelError> {
    let given =
        fields.opt_size("qk_rope_head_dim")?.map_or_else(|| fields.opt_size("head_dim"), |dim| Ok(Some(dim)))?;
    match (given, fields.size("hidden_size")?) {
        (Some(given), _) => Ok(given),
        (None, hidden) if hidden % heads == 0 => Ok(hidden / heads),
        (None, hidden) => {
            Err(fields.wrong("num_attention_heads", format!("a divisor of hidden_size {hidden}, or head_dim")))
        }
    }
}

/// BitNet's layers round what they are given, whatever family they stand in.
fn quantised_by_bitnet(fields: &Fields) -> Result<bool, ModelError> {
    let quantisation = fields.opt_object("quantization_config")?;
    let method = quantisation.map_or(Ok(None), |q| q.opt_str("quant_method"))?;
    Ok(method == Some("bitnet"))
}

/// Gemma's configurations have both fields; `hidden_activation` is the one that counts.
fn activation(fields: &Fields) -> Result<Activation, ModelError> {
    let field = if fields.has("hidden_activation") { "hidden_activation" } else { "hidden_act" };
    match fields.opt_str(field)?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::Gelu),
        "relu2" => Ok(Activation::Relu2),
        _ => Err(fields.wrong(field, "one of silu, gelu_pytorch_tanh, gelu, relu2")),
    }
}

/// The window of each layer: `layer_types` where given, else every layer if `sliding_window` is set and used.
fn windows(fields: &Fields, layers: usize) -> Result<Vec<u64>, ModelError> {
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

/// The rotary embedding of heads of `head_dim` dimensions.
pub(super) fn rope(fields: &Fields, head_dim: u64, max_context: u64) -> Result<Rope, ModelError> {
    match fields.opt_object("rope_parameters")? {
        Some(parameters) => rope_in(fields, &parameters, Some(&parameters), head_dim, max_context),
        None => rope_in(fields, fields, fields.opt_object("rope_scaling")?.as_ref(), head_dim, max_context),
    }
}

/// As [`rope`], of the fields of `holder`, or of `config` where that lacks them.
pub(super) fn rope_in(
    config: &Fields,
    holder: &Fields,
    scaled: Option<&Fields>,
    head_dim: u64,
    max_context: u64,
) -> Result<Rope, ModelError> {
    let theta = match holder.opt_f64("rope_theta", 1.0..=f64::MAX)? {
        Some(theta) => theta,
        None => config.opt_f64("rope_theta", 1.0..=f64::MAX)?.unwrap_or(10_000.0),
    };
    let partial = match holder.opt_f64("partial_rotary_factor", 0.0..=1.0)? {
        Some(factor) => factor,
        None => config.opt_f64("partial_rotary_factor", 0.0..=1.0)?.unwrap_or(1.0),
    };
    let dims = (head_dim as f64 * partial) as u64 / 2 * 2;
    let scaling = scaled.map_or(Ok(RopeScaling::None), |s| scaling(config, s, dims / 2, max_context))?;
    Ok(Rope { theta, dims, scaling, interleaved: false, divisors: Vec::new() })
}

fn scaling(config: &Fields, fields: &Fields, pairs: u64, max_context: u64) -> Result<RopeScaling, ModelError> {
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
            attention_factor: yarn_factor(fields, factor()?)?,
            truncate: fields.bool_or("truncate", true)?,
        },
        "longrope" | "su" => longrope(config, fields, pairs, max_context)?,
        _ => return Err(fields.wrong(key, "one of default, linear, dynamic, llama3, yarn, longrope")),
    })
}

/// `attention_factor` where given, else the ratio of the two mscales where both are.
fn yarn_factor(fields: &Fields, factor: f64) -> Result<Option<f64>, ModelError> {
    let positive = f64::MIN_POSITIVE..=f64::MAX;
    if let Some(given) = fields.opt_f64("attention_factor", positive.clone())? {
        return Ok(Some(given));
    }
    let (part, all) = (fields.opt_f64("mscale", positive.clone())?, fields.opt_f64("mscale_all_dim", positive)?);
    Ok(part.zip(all).map(|(part, all)| yarn_attention_factor(factor, part) / yarn_attention_factor(factor, all)))
}

/// Two lists of factors; the original context may stand beside them or at the top level.
fn longrope(config: &Fields, fields: &Fields, pairs: u64, max_context: u64) -> Result<RopeScaling, ModelError> {
    let list = |name: &str| {
        let factors = fields.opt_f64s(name)?.unwrap_or_default();
        let usable = factors.len() as u64 == pairs && factors.iter().all(|f| *f > 0.0);
        if usable { Ok(factors) } else { Err(fields.wrong(name, format!("a list of {pairs} positive numbers"))) }
    };
    let original = longrope_original(config, fields)?.unwrap_or(max_context);
    let factor = match fields.opt_f64("factor", 1.0..=f64::MAX)? {
        Some(factor) => factor,
        None => max_context as f64 / original as f64,
    };
    let positive = f64::MIN_POSITIVE..=f64::MAX;
    let short = fields.opt_f64("short_mscale", positive.clone())?;
    if short != fields.opt_f64("long_mscale", positive.clone())? {
        return Err(
            fields.wrong("long_mscale", "the value of short_mscale; two factors on cos and sin are not supported")
        );
    }
    let given = fields.opt_f64("attention_factor", positive)?.or(short);
    let attention_factor = given.unwrap_or_else(|| longrope_attention_factor(factor, original as f64));
    Ok(RopeScaling::LongRope { short: list("short_factor")?, long: list("long_factor")?, attention_factor })
}

fn longrope_original(config: &Fields, scaling: &Fields) -> Result<Option<u64>, ModelError> {
    const NAME: &str = "original_max_position_embeddings";
    let holder = if scaling.has(NAME) { scaling } else { config };
    holder.opt_u64(NAME, 2..=crate::config::MAX_SIZE)
}

/// The sequence length above which the second list of factors holds.
fn rope_switch(config: &Fields, rope: &Rope) -> Result<Option<u64>, ModelError> {
    if !matches!(rope.scaling, RopeScaling::LongRope { .. }) {
        return Ok(None);
    }
    let parameters = config.opt_object("rope_parameters")?;
    let scaling = parameters.map_or_else(|| config.opt_object("rope_scaling"), |p| Ok(Some(p)))?;
    let original = longrope_original(config, scaling.as_ref().unwrap_or(config))?;
    Ok(Some(original.map_or_else(|| config.size("max_position_embeddings"), Ok)?))
}
