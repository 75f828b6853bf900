//! The tokenizer of a checkpoint, as the bytes of a `tokenizer.json`.
//!
//! A Hugging Face folder has the file; a GGUF file's metadata is converted. Either is loaded once before it is handed out,
//! so that a broken one is reported when the model is compiled and not when it is served.

mod check;
mod gguf;
mod json;
mod pretokenizer;
mod sentencepiece;

use crate::ModelError;
use crate::config::read_file;
use crate::source::{Checkpoint, Metadata};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tokenizers::Tokenizer;

/// Longest `tokenizer.json` accepted.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// The bytes of the checkpoint's `tokenizer.json`; `None` if it has no tokenizer.
///
/// # Errors
/// If the tokenizer is malformed or of a kind that is not supported.
pub fn tokenizer_json(checkpoint: &Checkpoint) -> Result<Option<Vec<u8>>, ModelError> {
    let (json, file) = match checkpoint.metadata() {
        Metadata::HuggingFace(_) => (from_folder(checkpoint.path())?, checkpoint.path().join("tokenizer.json")),
        Metadata::Gguf(metadata) => (gguf::build(metadata)?, metadata.file().to_path_buf()),
    };
    if let Some(json) = &json {
        load(json, &file)?;
    }
    Ok(json)
}

fn from_folder(folder: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    let file = folder.join("tokenizer.json");
    if file.exists() {
        return read_file(&file, MAX_TOKENIZER_BYTES).map(Some);
    }
    match ["tokenizer.model", "vocab.json", "tekken.json"].into_iter().find(|name| folder.join(name).exists()) {
        None => Ok(None),
        Some(name) => Err(ModelError::Unsupported {
            file: folder.join(name),
            what: "a tokenizer without tokenizer.json".to_owned(),
            instead: "write one with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
                .into(),
        }),
    }
}

/// Loads a `tokenizer.json`; `file` is named in errors.
///
/// # Errors
/// If the library refuses it. It is also asked to encode a text, as some faults show only then. The faults it is known to
/// panic on are found first; should it panic on another, that becomes an error too.
pub fn load(json: &[u8], file: &Path) -> Result<Tokenizer, ModelError> {
    const PROBE: &str = "A b\n1 é";
    check::check(json).map_err(|problem| ModelError::tokenizer(file, problem))?;
    let attempt = || -> tokenizers::Result<Tokenizer> {
        let tokenizer = Tokenizer::from_bytes(json)?;
        tokenizer.encode(PROBE, true)?;
        Ok(tokenizer)
    };
    match catch_unwind(AssertUnwindSafe(attempt)) {
        Ok(loaded) => loaded.map_err(|e| ModelError::tokenizer(file, format!("{e}; download the file again"))),
        Err(_) => Err(ModelError::tokenizer(file, "the file contradicts itself; download it again")),
    }
}
