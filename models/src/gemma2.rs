//! Gemma 2: four norms a layer, soft caps on scores and logits, windows on every other layer.

use crate::ModelError;
use crate::decoder::sandwich_norm_layer;
use crate::hyperparameters::{Activation, Hyperparameters, either};
use crate::names::{Name, Role};
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static GEMMA2: Family = Family {
    name: "gemma2",
    model_types: &["gemma2"],
    architectures: &["gemma2"],
    names: NAMES,
    configure,
    layer: sandwich_norm_layer,
};

/// The norm before the feed-forward block has another name than Llama's.
pub const NAMES: &[Name] = &[(Role::FeedForwardNorm, "model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm")];

/// Layers of the 27B model, the only one whose scores are not scaled by the head dimension. GGUF does not say it.
const LAYERS_27B: usize = 46;

fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    configure_gemma(hyper, checkpoint, LAYERS_27B)?;
    hyper.set_window_pattern(checkpoint, 2)?;
    let cap = |field, key| either::positive(checkpoint, field, key);
    hyper.attention.softcap = cap("attn_logit_softcapping", "attn_logit_softcapping")?.unwrap_or(0.0);
    hyper.multipliers.logit_softcap = cap("final_logit_softcapping", "final_logit_softcapping")?.unwrap_or(0.0);
    Ok(())
}

/// What Gemma 2 and 3 share: norms by 1 + weight (GGUF stores the sum), embeddings times the root of the width, tanh-GELU, scores
/// scaled by a number of its own, the embedding table as output projection.
pub fn configure_gemma(
    hyper: &mut Hyperparameters,
    checkpoint: &Checkpoint,
    wide_layers: usize,
) -> Result<(), ModelError> {
    hyper.multipliers.embedding = (hyper.hidden as f64).sqrt();
    hyper.activation = Activation::GeluTanh;
    match either::config(checkpoint) {
        Some(fields) => {
            hyper.norm_offset = 1.0;
            hyper.tied = fields.bool_or("tie_word_embeddings", true)?;
            let scalar = fields.f64("query_pre_attn_scalar", f64::MIN_POSITIVE..=f64::MAX)?;
            hyper.attention.scale = 1.0 / scalar.sqrt();
        }
        None if hyper.layers == wide_layers => {
            hyper.attention.scale = 1.0 / (hyper.hidden as f64 / hyper.heads as f64).sqrt();
        }
        None => {}
    }
    Ok(())
}
