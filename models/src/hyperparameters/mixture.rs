//! The mixture of experts: how many, how they are chosen and weighed.

use super::{Hyperparameters, gguf};
use crate::ModelError;
use crate::config::Fields;
use crate::source::gguf::GgufMetadata;
use crate::source::{Checkpoint, Metadata};

/// How router logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
    /// One expert after the other, weighed against those near it (Phi-3.5-MoE).
    SparseMixer,
}

impl Scoring {
    /// The op's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Scoring::Softmax => "softmax",
            Scoring::Sigmoid => "sigmoid",
            Scoring::SparseMixer => "sparsemixer",
        }
    }
}

/// An expert that every token uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpert {
    /// Its feed-forward width.
    pub width: u64,
    /// Whether its result is multiplied by the sigmoid of a projection of the input.
    pub gated: bool,
}

/// A mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// Experts of a layer.
    pub experts: u64,
    /// Experts a token uses.
    pub selected: u64,
    /// Feed-forward width of an expert.
    pub width: u64,
    /// How logits become scores.
    pub scoring: Scoring,
    /// Groups of neighbouring experts, 1 for none.
    pub groups: u64,
    /// Groups that take part.
    pub top_groups: u64,
    /// Whether the factors of the selected experts are made to sum to one.
    pub renormalise: bool,
    /// What the factors are multiplied by.
    pub scale: f64,
    /// The nearness of [`Scoring::SparseMixer`].
    pub jitter: f64,
    /// Whether a stored bias is added to scores for the selection.
    pub correction: bool,
    /// Whether router and experts have biases.
    pub bias: bool,
    /// The expert that every token uses.
    pub shared: Option<SharedExpert>,
    /// Whether fused gate and up rows alternate (gate, up, gate, …) instead of forming halves.
    pub alternating: bool,
    /// Whether float experts are stored `[in, out]`.
    pub transposed: bool,
    /// Which layers have a mixture; the others are dense.
    pub layers: Vec<bool>,
}

/// Where config.json holds the sizes of a mixture; GGUF keys are the same in all families.
#[derive(Clone, Copy, Debug)]
pub struct MixtureFields {
    /// Number of experts.
    pub experts: &'static str,
    /// Feed-forward width of an expert.
    pub width: &'static str,
}

impl Mixture {
    /// Reads sizes; every layer a mixture (GGUF: where it has a router), plain softmax routing, factors that sum to one.
    ///
    /// # Errors
    /// If a field is missing or out of range, or more experts are to be chosen than there are.
    pub fn read(hyper: &Hyperparameters, checkpoint: &Checkpoint, names: MixtureFields) -> Result<Mixture, ModelError> {
        let [experts, selected, width] = match checkpoint.metadata() {
            Metadata::HuggingFace(config) => sizes_from_hugging_face(&config.fields(), names)?,
            Metadata::Gguf(metadata) => sizes_from_gguf(metadata, hyper)?,
        };
        let layers = (0..hyper.layers).map(|layer| match checkpoint.metadata() {
            Metadata::HuggingFace(_) => true,
            Metadata::Gguf(_) => checkpoint.find(&format!("blk.{layer}.ffn_gate_inp.weight")).is_some(),
        });
        Ok(Mixture {
            experts,
            selected,
            width,
            scoring: Scoring::Softmax,
            groups: 1,
            top_groups: 1,
            renormalise: true,
            scale: 1.0,
            jitter: 0.0,
            correction: false,
            bias: false,
            shared: None,
            alternating: false,
            transposed: false,
            layers: layers.collect(),
        })
    }

    /// Reads the groups that experts are chosen from, by two Hugging Face fields or the GGUF keys.
    ///
    /// # Errors
    /// If the groups do not divide the experts, or leave fewer than are to be chosen.
    pub fn read_groups(&mut self, checkpoint: &Checkpoint, groups: &str, top_groups: &str) -> Result<(), ModelError> {
        let (n, top, wrong): (_, _, Box<dyn Fn(bool, String) -> ModelError>) = match checkpoint.metadata() {
            Metadata::HuggingFace(config) => {
                let fields = config.fields();
                let (n, top) = (fields.opt_size(groups)?, fields.opt_size(top_groups)?);
                let field = |of_top| if of_top { top_groups } else { groups };
                (n, top, Box::new(move |of_top, expected| fields.wrong(field(of_top), expected)))
            }
            Metadata::Gguf(metadata) => {
                let (groups, top) =
                    (gguf::key(metadata, "expert_group_count")?, gguf::key(metadata, "expert_group_used_count")?);
                let values = (metadata.opt_size(&groups)?, metadata.opt_size(&top)?);
                (values.0, values.1, Box::new(move |of_top, e| metadata.wrong(if of_top { &top } else { &groups }, e)))
            }
        };
        let (n, top) = (n.unwrap_or(1), top.unwrap_or(1));
        if !self.experts.is_multiple_of(n) {
            return Err(wrong(false, format!("a divisor of the {} experts", self.experts)));
        }
        if self.scoring == Scoring::Sigmoid && n > 1 && self.experts / n < 2 {
            return Err(wrong(false, format!("groups of two or more of the {} experts", self.experts)));
        }
        if top > n || self.experts / n * top < self.selected {
            let selected = self.selected;
            return Err(wrong(true, format!("at most {n} groups that together have {selected} experts or more")));
        }
        (self.groups, self.top_groups) = (n, top);
        Ok(())
    }
}

fn sizes_from_hugging_face(fields: &Fields, names: MixtureFields) -> Result<[u64; 3], ModelError> {
    let experts = fields.u64(names.experts, 1..=1 << 16)?;
    let selected = fields.size("num_experts_per_tok")?;
    if selected > experts {
        return Err(fields.wrong("num_experts_per_tok", format!("at most {}, {experts}", names.experts)));
    }
    Ok([experts, selected, fields.size(names.width)?])
}

fn sizes_from_gguf(metadata: &GgufMetadata, hyper: &Hyperparameters) -> Result<[u64; 3], ModelError> {
    let key = |name: &str| gguf::key(metadata, name);
    let experts = metadata.u64(&key("expert_count")?, 1..=1 << 16)?;
    let selected = metadata.size(&key("expert_used_count")?)?;
    if selected > experts {
        return Err(metadata.wrong(&key("expert_used_count")?, format!("at most the {experts} experts")));
    }
    let width = metadata.opt_size(&key("expert_feed_forward_length")?)?.unwrap_or(hyper.feed_forward);
    Ok([experts, selected, width])
}
