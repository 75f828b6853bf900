//! Mistral: Llama's layers with a sliding attention window.
//!
//! GGUF files of these models carry the architecture name `llama` and are read by that family.

use ir::graph::ValueId;

use crate::ModelError;
use crate::decoder::{AttentionStyle, Decoder};
use crate::hyperparameters::Hyperparameters;
use crate::llama::layer_with;
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static MISTRAL: Family =
    Family { name: "mistral", model_types: &["mistral"], architectures: &[], configure, layer };

/// The shared fields say it all.
fn configure(_: &mut Hyperparameters, _: &Checkpoint) -> Result<(), ModelError> {
    Ok(())
}

fn layer(d: &mut Decoder, layer: usize, x: ValueId) -> Result<ValueId, ModelError> {
    layer_with(d, layer, x, AttentionStyle::default())
}
