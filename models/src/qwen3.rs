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

/// Biases only where the configuration asks for them.
fn configure(hyper: &mut Hyperparameters, _: &Checkpoint) -> Result<(), ModelError> {
    hyper.qkv_bias.get_or_insert(false);
    hyper.output_bias.get_or_insert(false);
    hyper.feed_forward_bias = Some(false);
    Ok(())
}

fn layer(d: &mut Decoder, layer: usize, x: ValueId) -> Result<ValueId, ModelError> {
    layer_with(d, layer, x, AttentionStyle { head_norms: true })
}
