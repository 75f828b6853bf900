//! OLMoE: a mixture in every layer; queries and keys are normalised over the whole projection.

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Hyperparameters, Mixture, MixtureFields, QueryKeyNorm, either};
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static OLMOE: Family = Family {
    name: "olmoe",
    model_types: &["olmoe"],
    architectures: &["olmoe"],
    names: &[],
    configure,
    layer: pre_norm_layer,
};

/// Factors are the softmax over all experts. No published model clips its projections, so a configuration that asks for it is refused.
fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    hyper.attention.query_key_norm = QueryKeyNorm::Projection;
    let fields = MixtureFields { experts: "num_experts", width: "intermediate_size" };
    let mut mixture = Mixture::read(hyper, checkpoint, fields)?;
    mixture.renormalise = false;
    if let Some(fields) = either::config(checkpoint) {
        mixture.renormalise = fields.bool_or("norm_topk_prob", false)?;
        if fields.has("clip_qkv") {
            return Err(fields.wrong("clip_qkv", "null: clipped projections are not supported"));
        }
    }
    hyper.mixture = Some(mixture);
    Ok(())
}
