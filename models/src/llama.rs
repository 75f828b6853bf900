//! Llama: pre-norm layers of grouped-query attention and a gated feed-forward block.
//!
//! Covers Llama 1 to 3.x and the many models that share its shape (SmolLM2, TinyLlama, Yi, …). GGUF files of this
//! architecture store query and key rows permuted so that rotary pairs are neighbours.

use ir::graph::ValueId;

use crate::ModelError;
use crate::decoder::{AttentionStyle, Decoder};
use crate::hyperparameters::Hyperparameters;
use crate::names::Role;
use crate::registry::Family;
use crate::source::{Checkpoint, Metadata};

/// The family's entry in the registry.
pub static LLAMA: Family =
    Family { name: "llama", model_types: &["llama"], architectures: &["llama"], configure, layer: pre_norm_layer };

/// GGUF rows are permuted; the configuration's window, if any, is not used by this family.
fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    match checkpoint.metadata() {
        Metadata::Gguf(_) => hyper.rope.interleaved = true,
        Metadata::HuggingFace(_) => hyper.windows.fill(0),
    }
    Ok(())
}

fn pre_norm_layer(d: &mut Decoder, layer: usize, x: ValueId) -> Result<ValueId, ModelError> {
    layer_with(d, layer, x, AttentionStyle::default())
}

/// A layer of Llama's shape: each block reads the norm of the residual stream and is added to it.
pub fn layer_with(d: &mut Decoder, layer: usize, x: ValueId, style: AttentionStyle) -> Result<ValueId, ModelError> {
    let normed = d.norm(x, Role::AttentionNorm, layer)?;
    let attended = d.self_attention(normed, layer, style)?;
    let x = d.add(x, attended, layer)?;
    let normed = d.norm(x, Role::FeedForwardNorm, layer)?;
    let fed = d.gated_feed_forward(normed, layer)?;
    d.add(x, fed, layer)
}
