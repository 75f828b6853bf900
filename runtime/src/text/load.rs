//! Reading `tokenizer.json` without the library's detour.
//!
//! `tokenizers` reads the model section into a tree of JSON values, copies that tree, and only then builds the maps. BPE
//! models, which nearly all current language models have, are read here straight into the vocabulary map the library
//! keeps, with a peak about a quarter lower and no panic on malformed merges, which the library indexes without bounds;
//! everything else goes the library's way. The price is knowing the file's fields.

use serde::Deserialize;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

/// Entries of the per-thread cache of already split words. The library's 10 000 cost megabytes per thread and pay off
/// only for corpora, not for prompts.
const WORD_CACHE: usize = 1024;

/// A tokenizer and the `decoder` section of its file.
pub(super) struct Loaded {
    pub tokenizer: Tokenizer,
    pub decoder: Value,
}

/// Reads the content of a `tokenizer.json`. The error says what is wrong with it.
pub(super) fn load(bytes: &[u8]) -> Result<Loaded, String> {
    let outline: Outline = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if outline.version.as_deref().is_some_and(|v| v != "1.0") {
        return Err(format!("version is {:?}, only \"1.0\" is known", outline.version.unwrap_or_default()));
    }
    let is_bpe = match outline.model.kind.as_deref() {
        Some(kind) => kind == "BPE",
        // Files from before `type` was written: only BPE has merges.
        None => outline.model.merges.is_some(),
    };
    let mut tokenizer =
        if is_bpe { load_bpe(bytes)? } else { Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())? };
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
    check_added_ids(&tokenizer, &outline.added_tokens)?;
    Ok(Loaded { tokenizer, decoder: outline.decoder })
}

/// The parts that decide how the rest is read.
#[derive(Deserialize)]
struct Outline {
    version: Option<String>,
    model: ModelOutline,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<AddedEntry>,
}

#[derive(Deserialize)]
struct ModelOutline {
    #[serde(rename = "type")]
    kind: Option<String>,
    merges: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct AddedEntry {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

/// The library numbers added tokens itself; a file that disagrees would silently shift all of them.
fn check_added_ids(tokenizer: &Tokenizer, entries: &[AddedEntry]) -> Result<(), String> {
    for AddedEntry { id, token } in entries {
        if token.content.is_empty() {
            continue;
        }
        let got = tokenizer.token_to_id(&token.content);
        if got != Some(*id) {
            return Err(format!(
                "added_tokens gives {:?} the id {id}, but after the vocabulary it would be {}",
                token.content,
                got.map_or("none".to_owned(), |id| id.to_string()),
            ));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct BpeFile {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    #[serde(default)]
    added_tokens: Vec<AddedEntry>,
    model: BpeModel,
}

#[derive(Deserialize)]
struct BpeModel {
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    vocab: Vocab,
    merges: Vec<Merge>,
}

fn load_bpe(bytes: &[u8]) -> Result<Tokenizer, String> {
    let file: BpeFile = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let mut tokenizer = Tokenizer::new(file.model.build()?);
    tokenizer.with_normalizer(file.normalizer).map_err(|e| e.to_string())?;
    tokenizer.with_pre_tokenizer(file.pre_tokenizer);
    tokenizer.with_post_processor(file.post_processor);
    tokenizer.with_decoder(file.decoder);
    tokenizer.add_tokens(file.added_tokens.into_iter().map(|entry| entry.token)).map_err(|e| e.to_string())?;
    Ok(tokenizer)
}

impl BpeModel {
    fn build(self) -> Result<BPE, String> {
        self.check_merges()?;
        let merges = self.merges.into_iter().map(|merge| (merge.left, merge.right)).collect();
        let mut builder = BPE::builder()
            .cache_capacity(WORD_CACHE)
            .fuse_unk(self.fuse_unk.unwrap_or(false))
            .byte_fallback(self.byte_fallback.unwrap_or(false))
            .ignore_merges(self.ignore_merges.unwrap_or(false))
            .vocab_and_merges(self.vocab, merges);
        if let Some(dropout) = self.dropout {
            builder = builder.dropout(dropout);
        }
        if let Some(unk) = self.unk_token {
            builder = builder.unk_token(unk);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map_err(|e| e.to_string())
    }

    /// The library slices by these lengths unchecked.
    fn check_merges(&self) -> Result<(), String> {
        let prefix = self.continuing_subword_prefix.as_deref().map_or(0, str::len);
        let mut merged = String::new();
        for (rank, Merge { left, right }) in self.merges.iter().enumerate() {
            let tail = right.get(prefix..).ok_or_else(|| {
                format!("merge {rank}, {left:?} with {right:?}: the right part is shorter than the subword prefix")
            })?;
            merged.clear();
            merged.push_str(left);
            merged.push_str(tail);
            if let Some(missing) = [left, right, &merged].into_iter().find(|t| !self.vocab.contains_key(t.as_str())) {
                return Err(format!("merge {rank}, {left:?} with {right:?}: {missing:?} is not in the vocabulary"));
            }
        }
        Ok(())
    }
}

/// One merge rule: `["a", "b"]`, or `"a b"` in older files.
struct Merge {
    left: String,
    right: String,
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a merge, as two strings or as one with a space between")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
        match text.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok(Merge { left: left.to_owned(), right: right.to_owned() }),
            _ => Err(E::custom(format!("merge {text:?} does not hold exactly one space"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Merge, A::Error> {
        let missing = |n| serde::de::Error::invalid_length(n, &"two strings");
        let left = parts.next_element()?.ok_or_else(|| missing(0))?;
        let right = parts.next_element()?.ok_or_else(|| missing(1))?;
        if parts.next_element::<IgnoredAny>()?.is_some() {
            return Err(missing(3));
        }
        Ok(Merge { left, right })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn small_file() -> Value {
        json!({
            "version": "1.0",
            "added_tokens": [{"id": 3, "content": "<e>", "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": false, "special": true}],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        })
    }

    fn detail(change: impl Fn(&mut Value)) -> String {
        let mut file = small_file();
        change(&mut file);
        load(file.to_string().as_bytes()).err().expect("must be rejected")
    }

    #[test]
    fn both_spellings_of_merges_and_files_without_type_load() {
        let mut legacy = small_file();
        legacy["model"]["merges"] = json!(["a b"]);
        let mut untyped = small_file();
        untyped["model"].as_object_mut().expect("object").remove("type");
        for file in [small_file(), legacy, untyped] {
            let tokenizer = load(file.to_string().as_bytes()).expect("valid").tokenizer;
            assert_eq!(tokenizer.encode_fast("aab<e>", false).expect("encodes").get_ids(), [0, 2, 3]);
        }
    }

    #[test]
    fn other_models_load_through_the_library() {
        let mut file = small_file();
        file["model"] = json!({"type": "WordLevel", "vocab": {"a": 0, "b": 1, "u": 2}, "unk_token": "u"});
        let tokenizer = load(file.to_string().as_bytes()).expect("valid").tokenizer;
        assert_eq!(tokenizer.encode_fast("b", false).expect("encodes").get_ids(), [1]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let merges = |merges: Value| detail(|f| f["model"]["merges"] = merges.clone());
        assert_eq!(merges(json!([["b", "a"]])), "merge 0, \"b\" with \"a\": \"ba\" is not in the vocabulary");
        assert_eq!(merges(json!([["a", "c"]])), "merge 0, \"a\" with \"c\": \"c\" is not in the vocabulary");
        assert!(merges(json!(["ab"])).contains("does not hold exactly one space"));
        assert!(merges(json!([["a"]])).contains("two strings"));
        assert!(merges(json!([["a", "b", "c"]])).contains("two strings"));
        assert!(detail(|f| f["version"] = json!("2.0")).contains("only \"1.0\" is known"));
        assert!(detail(|f| f["model"]["dropout"] = json!(2.0)).to_lowercase().contains("dropout"));
        let prefixed = detail(|f| f["model"]["continuing_subword_prefix"] = json!("##"));
        assert!(prefixed.contains("shorter than the subword prefix"), "{prefixed}");
        let shifted = detail(|f| f["added_tokens"][0]["id"] = json!(7));
        assert_eq!(shifted, "added_tokens gives \"<e>\" the id 7, but after the vocabulary it would be 3");
    }
}
