//! Qwen3 (dense): Llama's layers with a norm on each query and key head before the rotary embedding.

use ir::graph::ValueId;

use crate::ModelError;
use crate::decoder::{AttentionStyle, Decoder};
use crate::hyperparameters::Hyperparameters;
use crate::llama::layer_with;
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static QWEN3: Family =
    Family { name: "qwen3", model_types: &["qwen3"], architectures: &["qwen3"], configure, layer };

/// The shared fields say it all.
fn configure(_: &mut Hyperparameters, _: &Checkpoint) -> Result<(), ModelError> {
    Ok(())
}

fn layer(d: &mut Decoder, layer: usize, x: ValueId) -> Result<ValueId, ModelError> {
    layer_with(d, layer, x, AttentionStyle { head_norms: true })
}
