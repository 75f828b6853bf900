//! Gemma 3 (text): Gemma 2's layers with norms on query and key heads in place of soft caps, and a rotary base of their own
//! for the layers with a window, which are five of six.

use crate::ModelError;
use crate::decoder::sandwich_norm_layer;
use crate::hyperparameters::{Hyperparameters, QueryKeyNorm, either};
use crate::registry::Family;
use crate::rope::{Rope, RopeScaling};
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static GEMMA3: Family = Family {
    name: "gemma3",
    model_types: &["gemma3_text"],
    architectures: &["gemma3"],
    names: crate::gemma2::NAMES,
    configure,
    layer: sandwich_norm_layer,
};

/// Layers of the 27B model, the only one whose scores are not scaled by the head dimension. GGUF does not say it.
const LAYERS_27B: usize = 62;

/// Rotary base of layers with a window, where the checkpoint does not give it.
const LOCAL_BASE: f64 = 10_000.0;

fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    crate::gemma2::configure_gemma(hyper, checkpoint, LAYERS_27B)?;
    let step = either::count(checkpoint, "sliding_window_pattern", "attention.sliding_window_pattern")?;
    hyper.set_window_pattern(checkpoint, step.unwrap_or(6).max(1))?;
    hyper.attention.query_key_norm = QueryKeyNorm::Head;
    let cap = |field| either::positive(checkpoint, field, field);
    hyper.attention.softcap = cap("attn_logit_softcapping")?.unwrap_or(0.0);
    hyper.multipliers.logit_softcap = cap("final_logit_softcapping")?.unwrap_or(0.0);
    let theta = either::positive(checkpoint, "rope_local_base_freq", "rope.freq_base_swa")?;
    let (theta, divisors) = (theta.unwrap_or(LOCAL_BASE), Vec::new());
    hyper.local_rope = Some(Rope { theta, scaling: RopeScaling::None, divisors, ..hyper.rope.clone() });
    configure_both_ropes(hyper, checkpoint)
}

/// transformers 5 writes the parameters of both kinds of layers side by side.
fn configure_both_ropes(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    let Some(parameters) = either::config(checkpoint).map_or(Ok(None), |f| f.opt_object("rope_parameters"))? else {
        return Ok(());
    };
    if let Some(full) = parameters.opt_object("full_attention")? {
        hyper.rope = hyper.rope_from(&full)?;
    }
    if let Some(local) = parameters.opt_object("sliding_attention")? {
        hyper.local_rope = Some(hyper.rope_from(&local)?);
    }
    Ok(())
}
