//! The tokenizer of a model: `tokenizer.json` in, ids and text out.
//!
//! A thin layer over the `tokenizers` crate that adds what serving needs: errors that name the file, ids outside the
//! vocabulary as errors (the crate drops them silently), a leaner loader that survives malformed files (see `load`), and
//! exact streamed decoding ([`DecodeStream`]). Truncation and padding settings of the file are ignored, as
//! Hugging Face does unless a call asks for them: they are meant for training batches.

use std::path::Path;
use std::sync::Arc;

use super::detokenize::{DecodePlan, DecodeStream, Shown};
use super::load;

/// A tokenizer that cannot be loaded or was given something it does not know.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file cannot be read.
    #[error("cannot read tokenizer {file}: {source}")]
    Read {
        /// Path as given.
        file: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not a valid `tokenizer.json`.
    #[error("tokenizer {file} is invalid: {detail}")]
    Invalid {
        /// Path or other origin.
        file: String,
        /// What is wrong, with line and column where the JSON is.
        detail: String,
    },
    /// An id without a token.
    #[error("token {id} does not exist; the vocabulary has {vocabulary} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// The text cannot be encoded, for example because of a character without token in a model without `unk`.
    #[error("cannot encode the text: {detail}")]
    Encode {
        /// The library's message.
        detail: String,
    },
    /// The decoder failed.
    #[error("cannot decode the tokens: {detail}")]
    Decode {
        /// The library's message.
        detail: String,
    },
}

/// An immutable tokenizer. Clones are cheap and share the vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    plan: DecodePlan,
    vocabulary: usize,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocabulary", &self.inner.vocabulary).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads a `tokenizer.json`.
    ///
    /// # Errors
    /// The file cannot be read or is invalid.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TextError> {
        let file = path.as_ref().display().to_string();
        let bytes = std::fs::read(path).map_err(|source| TextError::Read { file: file.clone(), source })?;
        Self::from_bytes(&bytes, &file)
    }

    /// Loads the content of a `tokenizer.json`; `origin` names it in errors.
    ///
    /// # Errors
    /// The content is invalid.
    pub fn from_bytes(bytes: &[u8], origin: &str) -> Result<Self, TextError> {
        let loaded = load::load(bytes).map_err(|detail| TextError::Invalid { file: origin.to_owned(), detail })?;
        let vocabulary = loaded.tokenizer.get_vocab_size(true);
        let plan = DecodePlan::of(&loaded.decoder);
        Ok(Self { inner: Arc::new(Inner { tokenizer: loaded.tokenizer, plan, vocabulary }) })
    }

    /// Token ids of `text`. Special tokens written out in `text` become their ids; `add_special` adds those the model
    /// wants around every text (such as `<s>` in front). A chat template has written them already.
    ///
    /// # Errors
    /// A character that the model has no token for.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        let encoding = self
            .inner
            .tokenizer
            .encode_fast(text, add_special)
            .map_err(|e| TextError::Encode { detail: e.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`; bytes that are not UTF-8 become U+FFFD. `skip_special` leaves out special tokens.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        for &id in ids {
            self.token(id)?;
        }
        self.inner.tokenizer.decode(ids, skip_special).map_err(|e| TextError::Decode { detail: e.to_string() })
    }

    /// Starts decoding a sequence token by token.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.clone(), Shown::of(skip_special))
    }

    /// As [`Tokenizer::decode_stream`], showing of the special tokens those in `shown` only.
    pub fn decode_stream_showing(&self, shown: Arc<[u32]>) -> DecodeStream {
        DecodeStream::new(self.clone(), Shown::Listed(shown))
    }

    /// The bytes that token `id` adds within a text: those of its spelling for added tokens, one for a byte token, none
    /// for an id without a token. `None` too where the decoder is of a kind that does not work token by token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.inner.plan.bytes_of(&self.id_to_token(id)?)
    }

    /// Whether [`Tokenizer::token_bytes`] knows the bytes of tokens.
    pub fn has_token_bytes(&self) -> bool {
        self.inner.plan != DecodePlan::Whole
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocabulary
    }

    /// Id of the token written exactly `token` (in the vocabulary's own spelling).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.tokenizer.token_to_id(token)
    }

    /// Spelling of token `id` in the vocabulary; not the text it stands for, see [`Tokenizer::decode`].
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.tokenizer.id_to_token(id)
    }

    /// Whether `id` is a special token, left out by `skip_special`.
    pub fn is_special(&self, id: u32) -> bool {
        self.id_to_token(id).is_some_and(|token| self.is_special_token(&token))
    }

    pub(super) fn is_special_token(&self, token: &str) -> bool {
        self.inner.tokenizer.get_added_vocabulary().is_special_token(token)
    }

    pub(super) fn token(&self, id: u32) -> Result<String, TextError> {
        self.id_to_token(id).ok_or(TextError::UnknownToken { id, vocabulary: self.inner.vocabulary })
    }

    pub(super) fn plan(&self) -> &DecodePlan {
        &self.inner.plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::golden;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn golden_encodings_are_exact() {
        for name in golden::WITH_TOKENIZER {
            let (tokenizer, cases) = (golden::tokenizer(name), golden::json(name, "tokenizer_golden.json"));
            assert_eq!(tokenizer.vocab_size() as u64, cases["vocab_size"].as_u64().expect("size"));
            let encode = cases["encode"].as_array().expect("cases");
            assert!(encode.len() > 50);
            for case in encode {
                let text = case["text"].as_str().expect("text");
                let special = case["add_special_tokens"].as_bool().expect("flag");
                let ids = tokenizer.encode(text, special).expect("encodes");
                assert_eq!(ids, golden::ids(&case["ids"]), "{name}: {text:?}");
                for (id, token) in ids.iter().zip(case["tokens"].as_array().expect("tokens")) {
                    assert_eq!(tokenizer.id_to_token(*id).as_deref(), token.as_str());
                    assert_eq!(tokenizer.token_to_id(token.as_str().expect("token")), Some(*id));
                }
            }
        }
    }

    #[test]
    fn golden_decodings_are_exact_at_once_and_streamed() {
        for name in golden::WITH_TOKENIZER {
            let (tokenizer, cases) = (golden::tokenizer(name), golden::json(name, "tokenizer_golden.json"));
            let decode = cases["decode"].as_array().expect("cases");
            assert!(decode.len() > 50);
            for case in decode {
                let (ids, text) = (golden::ids(&case["ids"]), case["text"].as_str().expect("text"));
                let skip = case["skip_special_tokens"].as_bool().expect("flag");
                assert_eq!(tokenizer.decode(&ids, skip).expect("decodes"), text, "{name}: {ids:?}");
                assert_eq!(golden::streamed(&tokenizer, &ids, skip), text, "{name}: {ids:?}");
            }
        }
    }

    #[test]
    fn unknown_ids_are_errors() {
        let tokenizer = golden::tokenizer("mistral");
        for id in [512, u32::MAX] {
            let expected = format!("token {id} does not exist; the vocabulary has 512 tokens");
            assert_eq!(tokenizer.decode(&[5, id], false).expect_err("unknown").to_string(), expected);
            assert_eq!(tokenizer.decode_stream(true).push(id).expect_err("unknown").to_string(), expected);
            assert_eq!(tokenizer.id_to_token(id), None);
        }
        assert_eq!(tokenizer.token_to_id("no such token"), None);
        assert!(tokenizer.is_special(1) && !tokenizer.is_special(300) && !tokenizer.is_special(600));
    }

    #[test]
    fn errors_name_the_file() {
        let error = Tokenizer::from_file("missing/tokenizer.json").expect_err("missing").to_string();
        assert!(error.starts_with("cannot read tokenizer missing/tokenizer.json: "), "{error}");
        let error = Tokenizer::from_bytes(b"{", "m/tokenizer.json").expect_err("cut off").to_string();
        assert!(error.starts_with("tokenizer m/tokenizer.json is invalid: ") && error.contains("line 1"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn cut_or_changed_files_never_panic(cut in 0usize..20_000, at in 0usize..20_000, byte in any::<u8>()) {
            let mut bytes = golden::bytes("mistral", "tokenizer.json");
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = Tokenizer::from_bytes(&bytes, "changed");
            prop_assert!(Tokenizer::from_bytes(&bytes[..cut % (length - 2)], "cut").is_err());
        }

        #[test]
        fn text_survives_encoding(text in "[ -~áß→日😀\n\t]{0,40}") {
            let tokenizer = golden::tokenizer("mistral");
            prop_assume!(!text.contains('<') && !text.contains('\u{2581}'));
            let ids = tokenizer.encode(&text, true).expect("encodes");
            prop_assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), text);
        }
    }

    #[test]
    fn truncation_and_padding_of_the_file_are_ignored() {
        let mut document: Value = serde_json::from_slice(&golden::bytes("mistral", "tokenizer.json")).expect("JSON");
        document["truncation"] =
            serde_json::json!({"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
        let text = document.to_string();
        let tokenizer = Tokenizer::from_bytes(text.as_bytes(), "truncating").expect("valid");
        assert!(tokenizer.encode("one two three four five", false).expect("encodes").len() > 3);
    }
}
