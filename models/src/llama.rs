//! Llama: pre-norm layers of grouped-query attention and a gated feed-forward block.
//!
//! Covers Llama 1 to 3.x and the many models that share its shape (SmolLM2, TinyLlama, Yi, …). GGUF files of this
//! architecture store query and key rows permuted so that rotary pairs are neighbours; with experts they are Mixtral's.

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Hyperparameters, either};
use crate::registry::Family;
use crate::source::{Checkpoint, Metadata};

/// The family's entry in the registry.
pub static LLAMA: Family = Family {
    name: "llama",
    model_types: &["llama"],
    architectures: &["llama"],
    names: &[],
    configure,
    layer: pre_norm_layer,
};

/// GGUF rows are permuted; the configuration's window, if any, is not used by this family.
fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    match checkpoint.metadata() {
        Metadata::Gguf(_) => {
            hyper.rope.interleaved = true;
            if either::count(checkpoint, "", "expert_count")?.is_some_and(|experts| experts > 0) {
                crate::mixtral::configure(hyper, checkpoint)?;
            }
        }
        Metadata::HuggingFace(_) => hyper.windows.fill(0),
    }
    Ok(())
}
