//! Mixtral: Mistral's layers with a mixture in place of the feed-forward block.
//!
//! GGUF files of these models carry the architecture name `llama`; that family reads the mixture by [`configure`].

use crate::ModelError;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Hyperparameters, Mixture, MixtureFields};
use crate::names::{Name, Role};
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static MIXTRAL: Family = Family {
    name: "mixtral",
    model_types: &["mixtral"],
    architectures: &[],
    names: NAMES,
    configure,
    layer: pre_norm_layer,
};

/// The names Mixtral gave its experts, which Phi-3.5-MoE shares.
pub const NAMES: &[Name] = &[
    (Role::Router, "model.layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp"),
    (Role::ExpertGate, "model.layers.{}.block_sparse_moe.experts.{e}.w1", "blk.{}.ffn_gate_exps"),
    (Role::ExpertUp, "model.layers.{}.block_sparse_moe.experts.{e}.w3", "blk.{}.ffn_up_exps"),
    (Role::ExpertDown, "model.layers.{}.block_sparse_moe.experts.{e}.w2", "blk.{}.ffn_down_exps"),
];

/// A mixture in every layer, its factors a softmax over the selected experts.
pub fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    let fields = MixtureFields { experts: "num_local_experts", width: "intermediate_size" };
    hyper.mixture = Some(Mixture::read(hyper, checkpoint, fields)?);
    Ok(())
}
