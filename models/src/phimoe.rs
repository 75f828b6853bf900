//! Phi-3.5-MoE: LayerNorm, biases on attention and head, and a router that picks one expert after the other.

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Hyperparameters, Mixture, MixtureFields, NormKind, Scoring, either};
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static PHIMOE: Family = Family {
    name: "phimoe",
    model_types: &["phimoe"],
    architectures: &["phimoe"],
    names: crate::mixtral::NAMES,
    configure,
    layer: pre_norm_layer,
};

/// How near an expert's score must be to take part in the softmax, where the checkpoint does not say.
const JITTER: f64 = 0.01;

fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    hyper.norm = NormKind::Layer;
    let fields = MixtureFields { experts: "num_local_experts", width: "intermediate_size" };
    let mut mixture = Mixture::read(hyper, checkpoint, fields)?;
    mixture.scoring = Scoring::SparseMixer;
    mixture.renormalise = false;
    mixture.jitter = JITTER;
    if let Some(fields) = either::config(checkpoint) {
        hyper.head_bias = fields.bool_or("lm_head_bias", false)?;
        mixture.jitter = fields.opt_f64("router_jitter_noise", 0.0..=1.0)?.unwrap_or(JITTER);
        if mixture.selected > 2 {
            return Err(fields.wrong("num_experts_per_tok", "1 or 2, which this router is made for"));
        }
    }
    hyper.mixture = Some(mixture);
    Ok(())
}
