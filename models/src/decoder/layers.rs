//! Orders of blocks and norms in a layer.

use ir::graph::ValueId;

use super::Decoder;
use crate::ModelError;
use crate::names::Role;

/// A layer of Llama's shape: each block reads the norm of the residual stream and is added to it.
pub fn pre_norm_layer(d: &mut Decoder, layer: usize, x: ValueId) -> Result<ValueId, ModelError> {
    let normed = d.norm(x, Role::AttentionNorm, layer)?;
    let attended = d.attention(normed, layer)?;
    let x = d.residual(x, attended, layer)?;
    let normed = d.norm(x, Role::FeedForwardNorm, layer)?;
    let fed = d.feed_forward(normed, layer)?;
    d.residual(x, fed, layer)
}

/// A layer of Gemma's shape: what a block gives is normalised too before it is added.
pub fn sandwich_norm_layer(d: &mut Decoder, layer: usize, x: ValueId) -> Result<ValueId, ModelError> {
    let normed = d.norm(x, Role::AttentionNorm, layer)?;
    let attended = d.attention(normed, layer)?;
    let attended = d.norm(attended, Role::PostAttentionNorm, layer)?;
    let x = d.residual(x, attended, layer)?;
    let normed = d.norm(x, Role::FeedForwardNorm, layer)?;
    let fed = d.feed_forward(normed, layer)?;
    let fed = d.norm(fed, Role::PostFeedForwardNorm, layer)?;
    d.residual(x, fed, layer)
}
