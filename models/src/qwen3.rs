//! Qwen3 (dense): Llama's layers with a norm on each query and key head before the rotary embedding.

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Hyperparameters, QueryKeyNorm};
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static QWEN3: Family = Family {
    name: "qwen3",
    model_types: &["qwen3"],
    architectures: &["qwen3"],
    names: &[],
    configure,
    layer: pre_norm_layer,
};

/// Norms on queries and keys, head by head.
pub fn configure(hyper: &mut Hyperparameters, _: &Checkpoint) -> Result<(), ModelError> {
    hyper.attention.query_key_norm = QueryKeyNorm::Head;
    Ok(())
}
