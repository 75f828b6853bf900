//! Qwen2 and Qwen2.5: Llama's layers with biases on the query, key and value projections.

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::Hyperparameters;
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static QWEN2: Family = Family {
    name: "qwen2",
    model_types: &["qwen2"],
    architectures: &["qwen2"],
    names: &[],
    configure,
    layer: pre_norm_layer,
};

/// Biases on q, k and v, nowhere else, whatever the configuration says.
pub fn configure(hyper: &mut Hyperparameters, _: &Checkpoint) -> Result<(), ModelError> {
    hyper.qkv_bias = Some(true);
    hyper.output_bias = Some(false);
    hyper.feed_forward_bias = Some(false);
    Ok(())
}
