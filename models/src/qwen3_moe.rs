//! Qwen3-MoE: Qwen3's layers with a mixture in place of the feed-forward block, in all layers or in some.

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Hyperparameters, Mixture, MixtureFields, either};
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static QWEN3_MOE: Family = Family {
    name: "qwen3_moe",
    model_types: &["qwen3_moe"],
    architectures: &["qwen3moe"],
    names: &[],
    configure,
    layer: pre_norm_layer,
};

/// Qwen3's attention and Qwen's mixture. GGUF files do not say that factors are renormalised, as they are in all of these models.
fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    crate::qwen3::configure(hyper, checkpoint)?;
    let mut mixture = read_mixture(hyper, checkpoint)?;
    mixture.renormalise = match either::config(checkpoint) {
        Some(fields) => fields.bool_or("norm_topk_prob", false)?,
        None => true,
    };
    hyper.mixture = Some(mixture);
    Ok(())
}

/// The mixture of Qwen's models: which layers have one is said by a step and a list of exceptions.
pub fn read_mixture(hyper: &Hyperparameters, checkpoint: &Checkpoint) -> Result<Mixture, ModelError> {
    let names = MixtureFields { experts: "num_experts", width: "moe_intermediate_size" };
    let mut mixture = Mixture::read(hyper, checkpoint, names)?;
    let Some(fields) = either::config(checkpoint) else { return Ok(mixture) };
    let step = fields.opt_size("decoder_sparse_step")?.unwrap_or(1);
    let dense = fields.token_ids("mlp_only_layers")?;
    for (layer, sparse) in mixture.layers.iter_mut().enumerate() {
        *sparse = (layer as u64 + 1).is_multiple_of(step) && !dense.contains(&(layer as u32));
    }
    Ok(mixture)
}
