//! gpt-oss: attention with sinks and alternating windows, a mixture with biases and a bounded activation.

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Activation, Hyperparameters, Mixture, MixtureFields, either};
use crate::names::Role;
use crate::registry::Family;
use crate::rope::RopeScaling;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static GPT_OSS: Family = Family {
    name: "gpt_oss",
    model_types: &["gpt_oss"],
    architectures: &["gpt-oss"],
    names: &[
        (Role::FeedForwardNorm, "model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
        (Role::Router, "model.layers.{}.mlp.router", "blk.{}.ffn_gate_inp"),
        (Role::ExpertDown, "model.layers.{}.mlp.experts.down_proj", "blk.{}.ffn_down_exps"),
    ],
    configure,
    layer: pre_norm_layer,
};

/// The bound of the activation where the checkpoint does not give it.
const LIMIT: f64 = 7.0;

/// Factors are a softmax over the selected experts. Gate and up rows alternate in config.json's dialect, whose float experts are stored
/// `[in, out]`; converters to GGUF take them apart.
fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    hyper.attention.sinks = true;
    hyper.set_window_pattern(checkpoint, 2)?;
    let limit =
        either::config(checkpoint).map_or(Ok(None), |f| f.opt_f64("swiglu_limit", f64::MIN_POSITIVE..=f64::MAX))?;
    hyper.activation = Activation::ClampedSwiglu(limit.unwrap_or(LIMIT));
    let fields = MixtureFields { experts: "num_local_experts", width: "intermediate_size" };
    let mut mixture = Mixture::read(hyper, checkpoint, fields)?;
    mixture.bias = true;
    mixture.alternating = true;
    mixture.transposed = true;
    hyper.mixture = Some(mixture);
    if let (None, RopeScaling::Yarn { truncate, .. }) = (either::config(checkpoint), &mut hyper.rope.scaling) {
        *truncate = false;
    }
    Ok(())
}
