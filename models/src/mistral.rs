//! Mistral: Llama's layers with a sliding attention window.
//!
//! GGUF files of these models carry the architecture name `llama` and are read by that family.

use crate::decoder::pre_norm_layer;
use crate::registry::Family;

/// The family's entry in the registry.
pub static MISTRAL: Family = Family {
    name: "mistral",
    model_types: &["mistral"],
    architectures: &[],
    names: &[],
    configure: |_, _| Ok(()),
    layer: pre_norm_layer,
};
