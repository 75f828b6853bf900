//! The families: one entry each. Adding a family is its file and one line here.

use ir::graph::ValueId;

use crate::ModelError;
use crate::decoder::Decoder;
use crate::hyperparameters::Hyperparameters;
use crate::names::Name;
use crate::source::{Checkpoint, Metadata};

/// How a family of models is recognised and built.
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Values of `model_type` in config.json.
    pub model_types: &'static [&'static str],
    /// Values of `general.architecture` in GGUF files.
    pub architectures: &'static [&'static str],
    /// Names of tensors in which it differs from most families.
    pub names: &'static [Name],
    /// Adjusts the shared hyperparameters to the family's conventions.
    pub configure: fn(&mut Hyperparameters, &Checkpoint) -> Result<(), ModelError>,
    /// Emits one layer over the residual stream `[T, hidden]`.
    pub layer: fn(&mut Decoder, usize, ValueId) -> Result<ValueId, ModelError>,
}

/// Every family.
pub static FAMILIES: &[&Family] = &[
    &crate::llama::LLAMA,
    &crate::mistral::MISTRAL,
    &crate::qwen2::QWEN2,
    &crate::qwen3::QWEN3,
    &crate::mixtral::MIXTRAL,
    &crate::qwen2_moe::QWEN2_MOE,
    &crate::qwen3_moe::QWEN3_MOE,
    &crate::olmoe::OLMOE,
    &crate::granitemoe::GRANITEMOE,
    &crate::phimoe::PHIMOE,
    &crate::deepseek::DEEPSEEK,
    &crate::gpt_oss::GPT_OSS,
    &crate::phi3::PHI3,
    &crate::gemma2::GEMMA2,
    &crate::gemma3::GEMMA3,
    &crate::bitnet::BITNET,
];

/// The family of a checkpoint.
pub fn family_of(checkpoint: &Checkpoint) -> Result<&'static Family, ModelError> {
    type Spellings = fn(&Family) -> &'static [&'static str];
    let (file, field, name, spellings): (_, _, _, Spellings) = match checkpoint.metadata() {
        Metadata::HuggingFace(c) => (c.file(), "model_type", c.fields().str("model_type")?, |f| f.model_types),
        Metadata::Gguf(m) => {
            let key = "general.architecture";
            (m.file(), key, m.str(key)?, |f| f.architectures)
        }
    };
    FAMILIES.iter().copied().find(|f| spellings(f).contains(&name)).ok_or_else(|| ModelError::UnknownName {
        file: file.to_path_buf(),
        what: format!("field {field}: architecture"),
        name: name.into(),
        known: FAMILIES.iter().flat_map(|f| spellings(f)).copied().collect::<Vec<_>>().join(", "),
    })
}
