//! Granite-MoE: a mixture in every layer, and multipliers on embeddings, scores, residual branches and logits.

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Hyperparameters, Mixture, MixtureFields, either};
use crate::names::Role;
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static GRANITEMOE: Family = Family {
    name: "granitemoe",
    model_types: &["granitemoe"],
    architectures: &["granitemoe"],
    names: &[
        (Role::Router, "model.layers.{}.block_sparse_moe.router.layer", "blk.{}.ffn_gate_inp"),
        (Role::ExpertGateUp, "model.layers.{}.block_sparse_moe.input_linear", "blk.{}.ffn_gate_up_exps"),
        (Role::ExpertDown, "model.layers.{}.block_sparse_moe.output_linear", "blk.{}.ffn_down_exps"),
    ],
    configure,
    layer: pre_norm_layer,
};

/// Llama's converter writes the GGUF files, so rotary pairs are neighbours there.
fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    hyper.rope.interleaved = either::config(checkpoint).is_none();
    let multiplier = |field, key| either::positive(checkpoint, field, key);
    hyper.multipliers.embedding = multiplier("embedding_multiplier", "embedding_scale")?.unwrap_or(1.0);
    hyper.multipliers.residual = multiplier("residual_multiplier", "residual_scale")?.unwrap_or(1.0);
    hyper.multipliers.logits = 1.0 / multiplier("logits_scaling", "logit_scale")?.unwrap_or(1.0);
    // Left out, the field means 1 in transformers, and the usual scale in GGUF.
    let unnamed = if either::config(checkpoint).is_some() { 1.0 } else { hyper.attention.scale };
    hyper.attention.scale = multiplier("attention_multiplier", "attention.scale")?.unwrap_or(unnamed);
    let fields = MixtureFields { experts: "num_local_experts", width: "intermediate_size" };
    hyper.mixture = Some(Mixture::read(hyper, checkpoint, fields)?);
    Ok(())
}
