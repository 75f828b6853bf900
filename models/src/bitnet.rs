//! BitNet b1.58: ternary weights, inputs of every projection rounded to 8 bits, a norm before each output projection.

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Activation, Hyperparameters, either};
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static BITNET: Family = Family {
    name: "bitnet",
    model_types: &["bitnet"],
    architectures: &["bitnet-b1.58", "bitnet"],
    names: &[],
    configure,
    layer: pre_norm_layer,
};

/// Rounding follows from the quantised checkpoint in config.json's dialect; GGUF files hold no others. Converters write two
/// architectures: the older with SiLU, the one of the 2B4T model with squared ReLU.
fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    hyper.attention.sub_norm = true;
    hyper.feed_forward_sub_norm = true;
    if let crate::source::Metadata::Gguf(metadata) = checkpoint.metadata() {
        hyper.rounds_activations = true;
        if metadata.str("general.architecture")? == "bitnet-b1.58" {
            hyper.activation = Activation::Relu2;
        }
    } else if either::config(checkpoint).is_some_and(|fields| !fields.has("hidden_act")) {
        hyper.activation = Activation::Relu2;
    }
    Ok(())
}
