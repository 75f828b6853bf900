//! Styles of attention: norms of queries and keys, sinks, and attention over a compressed cache.

use super::Hyperparameters;
use crate::ModelError;
use crate::rope::{RopeScaling, yarn_attention_factor};
use crate::source::{Checkpoint, Metadata};

/// What queries and keys are normalised by before the rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// They are not.
    None,
    /// Each head by itself.
    Head,
    /// The whole projection.
    Projection,
}

/// What is particular about a family's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionStyle {
    /// What scores are multiplied by.
    pub scale: f64,
    /// The bound scores are softly capped to, 0 for none.
    pub softcap: f64,
    /// Norms of queries and keys.
    pub query_key_norm: QueryKeyNorm,
    /// Whether each head has one more score that takes its share of the softmax and has no value.
    pub sinks: bool,
    /// Whether what is given to the output projection is normalised.
    pub sub_norm: bool,
}

impl AttentionStyle {
    /// Scores divided by the root of the head dimension, nothing else.
    pub fn plain(head_dim: u64) -> AttentionStyle {
        let scale = 1.0 / (head_dim as f64).sqrt();
        AttentionStyle { scale, softcap: 0.0, query_key_norm: QueryKeyNorm::None, sinks: false, sub_norm: false }
    }
}

/// Shape of the cache: `[pages, planes, heads, 16, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvGeometry {
    /// Heads of the cache.
    pub heads: u64,
    /// Elements of one entry.
    pub head_dim: u64,
    /// 2 for keys and values, 1 where the value is a part of the key.
    pub planes: u64,
}

/// Multi-head latent attention (DeepSeek-V2, 2024, section 2.1) in absorbed form: the cache holds, for all heads, one latent vector
/// and one rotary key a token, and queries are brought to the latent space instead of keys out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentAttention {
    /// Width the queries are compressed to; `None` if they are not.
    pub query_rank: Option<u64>,
    /// Width of the latent vector.
    pub rank: u64,
    /// Dimensions of a head's key that come from the latent vector.
    pub key_dim: u64,
    /// Dimensions of the rotary key.
    pub rotary_dim: u64,
    /// Dimensions of a head's value.
    pub value_dim: u64,
}

impl LatentAttention {
    /// Reads the sizes and sets what follows from them: cache, score scale and an interleaved rotary embedding.
    ///
    /// # Errors
    /// If a field is missing or out of range.
    pub fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
        let latent = LatentAttention::read(checkpoint)?;
        hyper.rope = hyper.rope_of(checkpoint, latent.rotary_dim)?;
        hyper.rope.interleaved = true;
        if let (Metadata::Gguf(_), RopeScaling::Yarn { attention_factor, .. }) =
            (checkpoint.metadata(), &mut hyper.rope.scaling)
        {
            // Converters give one mscale for cos, sin and scores, so that the ratio of the first two to the last is 1.
            *attention_factor = Some(1.0);
        }
        let mscale = yarn_mscale(hyper, checkpoint)?;
        hyper.attention.scale = mscale * mscale / ((latent.key_dim + latent.rotary_dim) as f64).sqrt();
        hyper.head_dim = latent.key_dim + latent.rotary_dim;
        hyper.kv = KvGeometry { heads: 1, head_dim: latent.rank + latent.rotary_dim, planes: 1 };
        hyper.latent = Some(latent);
        Ok(())
    }

    fn read(checkpoint: &Checkpoint) -> Result<LatentAttention, ModelError> {
        match checkpoint.metadata() {
            Metadata::HuggingFace(config) => {
                let fields = config.fields();
                Ok(LatentAttention {
                    query_rank: fields.opt_size("q_lora_rank")?,
                    rank: fields.size("kv_lora_rank")?,
                    key_dim: fields.size("qk_nope_head_dim")?,
                    rotary_dim: fields.size("qk_rope_head_dim")?,
                    value_dim: fields.size("v_head_dim")?,
                })
            }
            Metadata::Gguf(metadata) => {
                let key = |name: &str| super::gguf::key(metadata, name);
                let rotary_dim = metadata.size(&key("rope.dimension_count")?)?;
                let mla = |name: &str| metadata.opt_size(&key(&format!("attention.{name}_length_mla"))?);
                let length = |name: &str| metadata.size(&key(&format!("attention.{name}_length"))?);
                let head_dim = mla("key")?.map_or_else(|| length("key"), Ok)?;
                let key_dim = head_dim.checked_sub(rotary_dim).filter(|d| *d > 0);
                let too_small = || format!("fewer than the {head_dim} dimensions of a key");
                Ok(LatentAttention {
                    query_rank: metadata.opt_size(&key("attention.q_lora_rank")?)?,
                    rank: metadata.size(&key("attention.kv_lora_rank")?)?,
                    key_dim: key_dim
                        .ok_or(key("rope.dimension_count")?)
                        .map_err(|field| metadata.wrong(&field, too_small()))?,
                    rotary_dim,
                    value_dim: mla("value")?.map_or_else(|| length("value"), Ok)?,
                })
            }
        }
    }
}

/// YaRN's correction of the scores, whose square multiplies them: 1 unless `mscale_all_dim` is given.
fn yarn_mscale(hyper: &Hyperparameters, checkpoint: &Checkpoint) -> Result<f64, ModelError> {
    let RopeScaling::Yarn { factor, .. } = hyper.rope.scaling else { return Ok(1.0) };
    let positive = 0.0..=f64::MAX;
    let weight = match checkpoint.metadata() {
        Metadata::HuggingFace(config) => {
            let fields = config.fields();
            let parameters = fields.opt_object("rope_parameters")?;
            let scaling = parameters.map_or_else(|| fields.opt_object("rope_scaling"), |p| Ok(Some(p)))?;
            scaling.map_or(Ok(None), |s| s.opt_f64("mscale_all_dim", positive))?
        }
        // Converters store a tenth of it.
        Metadata::Gguf(metadata) => metadata
            .opt_f64(&super::gguf::key(metadata, "rope.scaling.yarn_log_multiplier")?, positive)?
            .map(|tenth| tenth * 10.0),
    };
    Ok(yarn_attention_factor(factor, weight.unwrap_or(0.0)))
}
