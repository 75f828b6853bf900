//! Qwen2 and Qwen2.5: Llama's layers with biases on the query, key and value projections.

use ir::graph::ValueId;

use crate::ModelError;
use crate::decoder::{AttentionStyle, Decoder};
use crate::hyperparameters::Hyperparameters;
use crate::llama::layer_with;
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static QWEN2: Family =
    Family { name: "qwen2", model_types: &["qwen2"], architectures: &["qwen2"], configure, layer };

/// Biases on q, k and v, nowhere else, whatever the configuration says.
fn configure(hyper: &mut Hyperparameters, _: &Checkpoint) -> Result<(), ModelError> {
    hyper.qkv_bias = Some(true);
    hyper.output_bias = Some(false);
    hyper.feed_forward_bias = Some(false);
    Ok(())
}

fn layer(d: &mut Decoder, layer: usize, x: ValueId) -> Result<ValueId, ModelError> {
    layer_with(d, layer, x, AttentionStyle::default())
}
