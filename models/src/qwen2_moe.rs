//! Qwen2-MoE: Qwen2's layers with a mixture and, beside it, an expert that every token uses, weighed by a gate of its own.

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Hyperparameters, SharedExpert, either};
use crate::names::Role;
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static QWEN2_MOE: Family = Family {
    name: "qwen2_moe",
    model_types: &["qwen2_moe"],
    architectures: &["qwen2moe"],
    names: &[
        (Role::SharedGate, "model.layers.{}.mlp.shared_expert.gate_proj", "blk.{}.ffn_gate_shexp"),
        (Role::SharedUp, "model.layers.{}.mlp.shared_expert.up_proj", "blk.{}.ffn_up_shexp"),
        (Role::SharedDown, "model.layers.{}.mlp.shared_expert.down_proj", "blk.{}.ffn_down_shexp"),
    ],
    configure,
    layer: pre_norm_layer,
};

/// Qwen2's biases; factors are the softmax over all experts, not made to sum to one.
fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    crate::qwen2::configure(hyper, checkpoint)?;
    let mut mixture = crate::qwen3_moe::read_mixture(hyper, checkpoint)?;
    mixture.renormalise = match either::config(checkpoint) {
        Some(fields) => {
            hyper.qkv_bias = Some(fields.bool_or("qkv_bias", true)?);
            fields.bool_or("norm_topk_prob", false)?
        }
        None => false,
    };
    let width = either::count(checkpoint, "shared_expert_intermediate_size", "expert_shared_feed_forward_length")?;
    mixture.shared = width.filter(|w| *w > 0).map(|width| SharedExpert { width, gated: true });
    hyper.mixture = Some(mixture);
    Ok(())
}
