//! The chat template of a checkpoint and the special tokens it refers to. Rendering is the runtime's.

use crate::ModelError;
use crate::config::{Config, Fields, read_file};
use crate::source::gguf::GgufMetadata;
use crate::source::{Checkpoint, Metadata};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// Longest template file accepted.
const MAX_TEMPLATE_BYTES: u64 = 4 << 20;

/// A chat template with the texts of the tokens it may name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChatTemplate {
    /// Jinja source; `None` where the model has none.
    pub template: Option<String>,
    /// Text of the token that begins a text.
    pub bos_token: Option<String>,
    /// Text of the token that ends a text or turn.
    pub eos_token: Option<String>,
    /// Text of the padding token.
    pub pad_token: Option<String>,
    /// Text of the token for what the vocabulary lacks.
    pub unk_token: Option<String>,
}

impl ChatTemplate {
    /// Extracts it. In a folder `chat_template.jinja` wins over `tokenizer_config.json`, and that over
    /// `special_tokens_map.json`; a GGUF file names tokens by id.
    ///
    /// # Errors
    /// If a file or key has the wrong type, or several templates are given and none is named `default`.
    pub fn read(checkpoint: &Checkpoint) -> Result<ChatTemplate, ModelError> {
        match checkpoint.metadata() {
            Metadata::HuggingFace(_) => from_folder(checkpoint.path()),
            Metadata::Gguf(metadata) => from_gguf(metadata),
        }
    }
}

fn from_folder(folder: &Path) -> Result<ChatTemplate, ModelError> {
    let config = Config::read_if_present(&folder.join("tokenizer_config.json"))?;
    let map = Config::read_if_present(&folder.join("special_tokens_map.json"))?;
    let sources: Vec<Fields<'_>> = [&config, &map].into_iter().flatten().map(Config::fields).collect();
    let token = |name: &str| -> Result<Option<String>, ModelError> {
        for fields in &sources {
            if let Some(text) = token_text(fields, name)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    };
    let template = match template_file(&folder.join("chat_template.jinja"))? {
        Some(text) => Some(text),
        None => config.as_ref().map(|c| template_field(&c.fields())).transpose()?.flatten(),
    };
    Ok(ChatTemplate {
        template,
        bos_token: token("bos_token")?,
        eos_token: token("eos_token")?,
        pad_token: token("pad_token")?,
        unk_token: token("unk_token")?,
    })
}

fn template_file(file: &Path) -> Result<Option<String>, ModelError> {
    if !file.exists() {
        return Ok(None);
    }
    let text = String::from_utf8(read_file(file, MAX_TEMPLATE_BYTES)?);
    text.map(Some).map_err(|e| ModelError::malformed(file, "text", format!("is not valid UTF-8: {}", e.utf8_error())))
}

/// The field `chat_template`: a string, or a list of named ones.
fn template_field(fields: &Fields<'_>) -> Result<Option<String>, ModelError> {
    const FIELD: &str = "chat_template";
    let Some(Value::Array(list)) = fields.get(FIELD) else { return Ok(fields.opt_str(FIELD)?.map(str::to_owned)) };
    let named =
        |item: &Value| Some((item.get("name")?.as_str()?.to_owned(), item.get("template")?.as_str()?.to_owned()));
    let named: Option<Vec<(String, String)>> = list.iter().map(named).collect();
    let mut named = named.ok_or_else(|| fields.wrong(FIELD, "a string or a list of objects with name and template"))?;
    let chosen = if named.len() == 1 { Some(0) } else { named.iter().position(|(name, _)| name == "default") };
    match chosen {
        Some(index) => Ok(Some(named.swap_remove(index).1)),
        None if named.is_empty() => Ok(None),
        None => Err(fields.wrong(FIELD, "one of the templates to be named default")),
    }
}

/// A token given as its text, or as an object with the text under `content`.
fn token_text(fields: &Fields<'_>, name: &str) -> Result<Option<String>, ModelError> {
    let text = match fields.get(name) {
        None => return Ok(None),
        Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
        Some(value) => value.as_str(),
    };
    text.map(|t| Some(t.to_owned())).ok_or_else(|| fields.wrong(name, "a string or an object with the string content"))
}

fn from_gguf(metadata: &GgufMetadata) -> Result<ChatTemplate, ModelError> {
    let tokens = metadata.opt_strings("tokenizer.ggml.tokens")?;
    let token = |name: &str| -> Result<Option<String>, ModelError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let (Some(tokens), Some(id)) = (tokens, metadata.opt_token_id(&key)?) else { return Ok(None) };
        let text = tokens.get(id as usize);
        let expected = || format!("the id of one of {} tokens", tokens.len());
        text.map(|t| Some(t.to_owned())).ok_or_else(|| metadata.wrong(&key, expected()))
    };
    Ok(ChatTemplate {
        template: metadata.opt_str("tokenizer.chat_template")?.map(str::to_owned),
        bos_token: token("bos")?,
        eos_token: token("eos")?,
        pad_token: token("padding")?,
        unk_token: token("unknown")?,
    })
}
