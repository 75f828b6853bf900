//! DeepSeek-V2 (also Lite) and V3 (also R1): latent attention, a mixture with shared experts after some dense layers.
//!
//! V2 scores experts by softmax and a group of experts by its best; V3 by sigmoid with a correction for the selection, a group by
//! the sum of its best two.

use crate::ModelError;
use crate::config::Fields;
use crate::decoder::pre_norm_layer;
use crate::hyperparameters::{Hyperparameters, LatentAttention, Mixture, MixtureFields, Scoring, SharedExpert, either};
use crate::registry::Family;
use crate::source::Checkpoint;

/// The family's entry in the registry.
pub static DEEPSEEK: Family = Family {
    name: "deepseek",
    model_types: &["deepseek_v2", "deepseek_v3"],
    architectures: &["deepseek2"],
    names: &[],
    configure,
    layer: pre_norm_layer,
};

fn configure(hyper: &mut Hyperparameters, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    LatentAttention::configure(hyper, checkpoint)?;
    let fields = MixtureFields { experts: "n_routed_experts", width: "moe_intermediate_size" };
    let mut mixture = Mixture::read(hyper, checkpoint, fields)?;
    mixture.scale = either::positive(checkpoint, "routed_scaling_factor", "expert_weights_scale")?.unwrap_or(1.0);
    let shared = either::count(checkpoint, "n_shared_experts", "expert_shared_count")?.unwrap_or(0);
    let width = mixture.width.saturating_mul(shared);
    mixture.shared = (shared > 0).then_some(SharedExpert { width, gated: false });
    let grouped = match either::config(checkpoint) {
        Some(fields) => configure_from_config(&mut mixture, &fields)?,
        None => configure_from_gguf(&mut mixture, checkpoint)?,
    };
    if grouped {
        mixture.read_groups(checkpoint, "n_group", "topk_group")?;
    }
    hyper.mixture = Some(mixture);
    Ok(())
}

/// Gives whether experts are chosen in groups. V2's factors are never renormalised, whatever `norm_topk_prob` says.
fn configure_from_config(mixture: &mut Mixture, fields: &Fields) -> Result<bool, ModelError> {
    let first = fields.opt_u64("first_k_dense_replace", 0..=4096)?.unwrap_or(0) as usize;
    let step = fields.opt_u64("moe_layer_freq", 1..=4096)?.unwrap_or(1) as usize;
    for (layer, sparse) in mixture.layers.iter_mut().enumerate() {
        *sparse = layer >= first && layer % step == 0;
    }
    if fields.str("model_type")? == "deepseek_v3" {
        mixture.scoring = Scoring::Sigmoid;
        mixture.correction = true;
        mixture.renormalise = fields.bool_or("norm_topk_prob", true)?;
        return Ok(true);
    }
    mixture.renormalise = false;
    match fields.opt_str("topk_method")?.unwrap_or("greedy") {
        "greedy" => Ok(false),
        "group_limited_greedy" => Ok(true),
        _ => Err(fields.wrong("topk_method", "greedy or group_limited_greedy")),
    }
}

fn configure_from_gguf(mixture: &mut Mixture, checkpoint: &Checkpoint) -> Result<bool, ModelError> {
    /// The value of the key for sigmoid scores.
    const SIGMOID: u64 = 2;
    if either::count(checkpoint, "", "expert_gating_func")? == Some(SIGMOID) {
        mixture.scoring = Scoring::Sigmoid;
        mixture.correction = checkpoint.tensors().any(|t| t.name.ends_with(".exp_probs_b.bias"));
    }
    mixture.renormalise = either::flag(checkpoint, "", "expert_weights_norm")?.unwrap_or(false);
    Ok(true)
}
