//! A `tokenizer.json` from the metadata of a GGUF file.
//!
//! Two models are supported: byte-level BPE (`gpt2`), which stores merges, and SentencePiece BPE (`llama`), which stores
//! scores. All tokens go into the model's vocabulary, control and user-defined ones also into `added_tokens`, so ids are
//! those of the file whatever gaps there are.

use super::json::{AddedToken, Bpe, Merges, TokenizerJson, Vocabulary};
use super::pretokenizer::{self, PreTokenizer};
use super::sentencepiece::derive_merges;
use crate::ModelError;
use crate::source::gguf::{GgufMetadata, StringArray};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashMap;

const TOKENS: &str = "tokenizer.ggml.tokens";

/// Token types of GGUF.
mod token_type {
    pub const NORMAL: i64 = 1;
    pub const UNKNOWN: i64 = 2;
    pub const CONTROL: i64 = 3;
    pub const USER_DEFINED: i64 = 4;
}

/// The bytes of a `tokenizer.json`; `None` if the file has no vocabulary.
pub(super) fn build(metadata: &GgufMetadata) -> Result<Option<Vec<u8>>, ModelError> {
    const MODEL: &str = "tokenizer.ggml.model";
    let Some(model) = metadata.opt_str(MODEL)? else { return Ok(None) };
    if model == "no_vocab" || model == "none" {
        return Ok(None);
    }
    let vocabulary = TokenTable::read(metadata)?;
    let file = match model {
        "gpt2" => byte_level(metadata, &vocabulary)?,
        "llama" => sentencepiece(metadata, &vocabulary)?,
        other => {
            return Err(ModelError::UnknownName {
                file: metadata.file().into(),
                what: format!("field {MODEL}: tokenizer model"),
                name: other.to_owned(),
                known: "gpt2, llama".to_owned(),
            });
        }
    };
    let error = |e: serde_json::Error| ModelError::tokenizer(metadata.file(), e.to_string());
    serde_json::to_vec(&file).map(Some).map_err(error)
}

/// The vocabulary's parallel arrays.
struct TokenTable<'a> {
    tokens: &'a StringArray,
    /// Empty where the file has none: all tokens are normal.
    types: Vec<i64>,
}

impl<'a> TokenTable<'a> {
    fn read(metadata: &'a GgufMetadata) -> Result<TokenTable<'a>, ModelError> {
        const TYPES: &str = "tokenizer.ggml.token_type";
        let tokens = metadata.strings(TOKENS)?;
        let types = metadata.opt_integers(TYPES)?.unwrap_or_default();
        if !types.is_empty() && types.len() != tokens.len() {
            return Err(metadata.wrong(TYPES, format!("as many as {TOKENS} has, {}", tokens.len())));
        }
        let table = TokenTable { tokens, types };
        table.check_distinct(metadata)?;
        Ok(table)
    }

    fn check_distinct(&self, metadata: &GgufMetadata) -> Result<(), ModelError> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (id, text) in self.vocabulary().iter().enumerate() {
            if let Some(first) = ids.insert(text, id) {
                let text = self.tokens.get(id).unwrap_or_default();
                let problem = format!("key {TOKENS}: token {text:?} stands there twice, as {first} and {id}");
                return Err(ModelError::tokenizer(metadata.file(), problem));
            }
        }
        Ok(())
    }

    fn vocabulary(&self) -> Vocabulary<'a> {
        Vocabulary(self.tokens)
    }

    fn kind(&self, id: usize) -> i64 {
        self.types.get(id).copied().unwrap_or(token_type::NORMAL)
    }

    fn added_tokens(&self) -> Vec<AddedToken<'a>> {
        let special = |id: usize| match self.kind(id) {
            token_type::CONTROL | token_type::UNKNOWN => Some(true),
            token_type::USER_DEFINED => Some(false),
            _ => None,
        };
        let added = |(id, content): (usize, Cow<'a, str>)| {
            let special = special(id)?;
            let (single_word, lstrip, rstrip, normalized) = (false, false, false, false);
            Some(AddedToken { id, content, single_word, lstrip, rstrip, normalized, special })
        };
        self.vocabulary().iter().enumerate().filter_map(added).collect()
    }

    /// Id and text of the token a key names.
    fn named_by(&self, metadata: &GgufMetadata, key: &str) -> Result<Option<(u32, Cow<'a, str>)>, ModelError> {
        let Some(id) = metadata.opt_token_id(key)? else { return Ok(None) };
        let text = self.vocabulary().text(id as usize);
        let expected = || format!("the id of one of {} tokens", self.tokens.len());
        text.map(|text| Some((id, text))).ok_or_else(|| metadata.wrong(key, expected()))
    }
}

fn byte_level<'a>(metadata: &'a GgufMetadata, table: &TokenTable<'a>) -> Result<TokenizerJson<'a>, ModelError> {
    const PRE: &str = "tokenizer.ggml.pre";
    let name = metadata.opt_str(PRE)?.unwrap_or("default");
    let rule = pretokenizer::find(name).ok_or_else(|| ModelError::UnknownName {
        file: metadata.file().into(),
        what: format!("field {PRE}: pre-tokenizer"),
        name: name.to_owned(),
        known: pretokenizer::known_names(),
    })?;
    Ok(TokenizerJson {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: table.added_tokens(),
        normalizer: rule.nfc.then(|| json!({"type": "NFC"})),
        pre_tokenizer: Some(pre_tokenizer_json(rule)),
        post_processor: post_processor(metadata, table, rule.add_bos)?,
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: Bpe {
            r#type: "BPE",
            dropout: (),
            unk_token: None,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: rule.ignore_merges,
            vocab: table.vocabulary(),
            merges: Merges::Text(metadata.strings("tokenizer.ggml.merges")?),
        },
    })
}

/// A rule as the `pre_tokenizer` field.
pub(super) fn pre_tokenizer_json(rule: &PreTokenizer) -> Value {
    let split =
        |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let mut steps: Vec<Value> = rule.splits.iter().map(split).collect();
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    json!({"type": "Sequence", "pretokenizers": steps})
}

fn sentencepiece<'a>(metadata: &'a GgufMetadata, table: &TokenTable<'a>) -> Result<TokenizerJson<'a>, ModelError> {
    let space_prefix = metadata.opt_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = table.named_by(metadata, "tokenizer.ggml.unknown_token_id")?.map(|(_, text)| text);
    let fallback = || (0..table.tokens.len()).find(|&id| table.kind(id) == token_type::UNKNOWN);
    Ok(TokenizerJson {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: table.added_tokens(),
        normalizer: Some(space_normalizer(space_prefix)),
        pre_tokenizer: None,
        post_processor: post_processor(metadata, table, true)?,
        decoder: space_decoder(space_prefix),
        model: Bpe {
            r#type: "BPE",
            dropout: (),
            unk_token: unknown.or_else(|| table.vocabulary().text(fallback()?)),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab: table.vocabulary(),
            merges: Merges::Ids(scored_merges(metadata, table)?, table.vocabulary()),
        },
    })
}

/// Merges between the pieces that can come from text: control and byte tokens cannot.
fn scored_merges(metadata: &GgufMetadata, table: &TokenTable<'_>) -> Result<Vec<(u32, u32)>, ModelError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let expected = || format!("as many numbers as {TOKENS} has, {}", table.tokens.len());
    let scores = metadata.opt_f32s(SCORES)?.filter(|s| s.len() == table.tokens.len());
    let scores = scores.ok_or_else(|| metadata.wrong(SCORES, expected()))?;
    let from_text = |id: &usize| matches!(table.kind(*id), token_type::NORMAL | token_type::USER_DEFINED);
    let ids = (0..table.tokens.len()).filter(from_text);
    let pieces: Vec<(u32, &str, f32)> =
        ids.filter_map(|id| Some((u32::try_from(id).ok()?, table.tokens.get(id)?, scores[id]))).collect();
    Ok(derive_merges(&pieces))
}

/// The mark that SentencePiece writes for a space.
const SPACE_MARK: &str = "\u{2581}";

fn space_normalizer(prefix: bool) -> Value {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK});
    match prefix {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE_MARK}, replace]}),
        false => replace,
    }
}

fn space_decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// The template that adds BOS in front and EOS behind, as far as the file wants them.
fn post_processor(
    metadata: &GgufMetadata,
    table: &TokenTable<'_>,
    bos_default: bool,
) -> Result<Option<Value>, ModelError> {
    let bos = added_around(metadata, table, "bos", bos_default)?;
    let eos = added_around(metadata, table, "eos", false)?;
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let mut special_tokens = serde_json::Map::new();
    for (id, text) in [&bos, &eos].into_iter().flatten() {
        special_tokens.insert(text.to_string(), json!({"id": text, "ids": [id], "tokens": [text]}));
    }
    let segment = |sequence: &str, type_id: u32| -> Vec<Value> {
        let special = |(_, text): &(u32, Cow<'_, str>)| json!({"SpecialToken": {"id": text, "type_id": type_id}});
        let text = json!({"Sequence": {"id": sequence, "type_id": type_id}});
        bos.iter().map(special).chain([text]).chain(eos.iter().map(special)).collect()
    };
    let pair = [segment("A", 0), segment("B", 1)].concat();
    Ok(Some(json!({
        "type": "TemplateProcessing",
        "single": segment("A", 0),
        "pair": pair,
        "special_tokens": special_tokens,
    })))
}

/// The token to add, if the file (or else the model's kind) wants it added.
fn added_around<'a>(
    metadata: &GgufMetadata,
    table: &TokenTable<'a>,
    name: &str,
    default: bool,
) -> Result<Option<(u32, Cow<'a, str>)>, ModelError> {
    let asked = metadata.opt_bool(&format!("tokenizer.ggml.add_{name}_token"))?;
    if !asked.unwrap_or(default) {
        return Ok(None);
    }
    let key = format!("tokenizer.ggml.{name}_token_id");
    let token = table.named_by(metadata, &key)?;
    match (&token, asked) {
        (None, Some(true)) => Err(metadata.wrong(&key, format!("a token id, as add_{name}_token is true"))),
        _ => Ok(token),
    }
}
