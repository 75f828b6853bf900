//! Phi-3, Phi-3.5 and Phi-4 (mini): Llama's layers with fused projections, and LongRoPE in the long-context models.
//!
//! The builder finds fused rows and the two rotary tables by itself.

use crate::decoder::pre_norm_layer;
use crate::registry::Family;

/// The family's entry in the registry.
pub static PHI3: Family = Family {
    name: "phi3",
    model_types: &["phi3"],
    architectures: &["phi3"],
    names: &[],
    configure: |_, _| Ok(()),
    layer: pre_norm_layer,
};
