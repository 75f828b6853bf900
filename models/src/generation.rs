//! What a checkpoint says about generating: where to stop, and how to sample by default.

use crate::ModelError;
use crate::config::{Config, Fields};
use crate::source::gguf::GgufMetadata;
use crate::source::{Checkpoint, Metadata};
use serde::Serialize;
use std::path::Path;

/// Texts of control tokens that end a turn. A GGUF file names at most three of them by id, so further ones are found by
/// their text, as llama.cpp does.
const END_OF_TURN_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "<｜end▁of▁sentence｜>",
];

/// Defaults for generation. Absent settings are `None`: the caller's own defaults hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GenerationConfig {
    /// Tokens that end the text, each once, the principal one first.
    pub eos_token_ids: Vec<u32>,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Token that pads a batch.
    pub pad_token_id: Option<u32>,
    /// Whether to sample at all, or take the likeliest token.
    pub do_sample: Option<bool>,
    /// Divisor of the logits, not negative.
    pub temperature: Option<f64>,
    /// Number of likeliest tokens to keep; 0 keeps all.
    pub top_k: Option<u64>,
    /// Probability mass to keep, 0 to 1.
    pub top_p: Option<f64>,
    /// Least probability to keep, relative to the likeliest token's.
    pub min_p: Option<f64>,
    /// Divisor of the logits of tokens that have appeared, positive.
    pub repetition_penalty: Option<f64>,
}

impl GenerationConfig {
    /// Reads `generation_config.json`, falling back to `config.json` for token ids; or a GGUF file's metadata.
    ///
    /// # Errors
    /// If a field has the wrong type or is out of range.
    pub fn read(checkpoint: &Checkpoint) -> Result<GenerationConfig, ModelError> {
        match checkpoint.metadata() {
            Metadata::HuggingFace(config) => from_folder(checkpoint.path(), config),
            Metadata::Gguf(metadata) => from_gguf(metadata),
        }
    }
}

fn from_folder(folder: &Path, config: &Config) -> Result<GenerationConfig, ModelError> {
    let own = Config::read_if_present(&folder.join("generation_config.json"))?;
    let mut out = match &own {
        Some(own) => from_fields(&own.fields())?,
        None => GenerationConfig::default(),
    };
    // Multimodal configurations keep the language model's fields one level down.
    let outer = config.fields();
    for fields in [Some(outer.clone()), outer.opt_object("text_config")?].into_iter().flatten() {
        if out.eos_token_ids.is_empty() {
            out.eos_token_ids = fields.token_ids("eos_token_id")?;
        }
        out.bos_token_id = out.bos_token_id.or(fields.token_ids("bos_token_id")?.first().copied());
        out.pad_token_id = out.pad_token_id.or(fields.token_ids("pad_token_id")?.first().copied());
    }
    keep_first_of_each(&mut out.eos_token_ids);
    Ok(out)
}

fn from_fields(fields: &Fields<'_>) -> Result<GenerationConfig, ModelError> {
    Ok(GenerationConfig {
        eos_token_ids: fields.token_ids("eos_token_id")?,
        bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
        pad_token_id: fields.token_ids("pad_token_id")?.first().copied(),
        do_sample: fields.opt_bool("do_sample")?,
        temperature: fields.opt_f64("temperature", 0.0..=f64::MAX)?,
        top_k: fields.opt_u64("top_k", 0..=u64::MAX)?,
        top_p: fields.opt_f64("top_p", 0.0..=1.0)?,
        min_p: fields.opt_f64("min_p", 0.0..=1.0)?,
        repetition_penalty: fields.opt_f64("repetition_penalty", f64::MIN_POSITIVE..=f64::MAX)?,
    })
}

fn from_gguf(metadata: &GgufMetadata) -> Result<GenerationConfig, ModelError> {
    let mut eos_token_ids = Vec::new();
    for key in ["eos", "eot", "eom"] {
        eos_token_ids.extend(metadata.opt_token_id(&format!("tokenizer.ggml.{key}_token_id"))?);
    }
    eos_token_ids.extend(end_of_turn_ids(metadata)?);
    keep_first_of_each(&mut eos_token_ids);
    Ok(GenerationConfig {
        eos_token_ids,
        bos_token_id: metadata.opt_token_id("tokenizer.ggml.bos_token_id")?,
        pad_token_id: metadata.opt_token_id("tokenizer.ggml.padding_token_id")?,
        do_sample: None,
        temperature: metadata.opt_f64("general.sampling.temp", 0.0..=f64::MAX)?,
        top_k: metadata.opt_u64("general.sampling.top_k", 0..=u64::MAX)?,
        top_p: metadata.opt_f64("general.sampling.top_p", 0.0..=1.0)?,
        min_p: metadata.opt_f64("general.sampling.min_p", 0.0..=1.0)?,
        repetition_penalty: metadata.opt_f64("general.sampling.penalty_repeat", f64::MIN_POSITIVE..=f64::MAX)?,
    })
}

/// Ids of the tokens with one of [`END_OF_TURN_TEXTS`], unless they are marked as ordinary text.
fn end_of_turn_ids(metadata: &GgufMetadata) -> Result<Vec<u32>, ModelError> {
    const NORMAL: i64 = 1;
    let Some(tokens) = metadata.opt_strings("tokenizer.ggml.tokens")? else { return Ok(Vec::new()) };
    let types = metadata.opt_integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let ends = |(id, text): &(usize, &str)| types.get(*id) != Some(&NORMAL) && END_OF_TURN_TEXTS.contains(text);
    Ok(tokens.iter().enumerate().filter(ends).filter_map(|(id, _)| u32::try_from(id).ok()).collect())
}

fn keep_first_of_each(ids: &mut Vec<u32>) {
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|&id| seen.insert(id));
}
