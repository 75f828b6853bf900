//! Log-probabilities as clients read them: tokens with their text and bytes.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::sample::{LogProb, TokenLogProbs};
use crate::text::Tokenizer;

/// What stands for a probability of 0, whose logarithm JSON cannot write.
const LEAST: f32 = -9999.0;

/// Writes a number with the digits that tell it from other numbers of its type: as an f64, as JSON values hold it, it would have
/// twice as many.
pub(crate) fn shortest<S: Serializer>(number: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    match number.to_string().parse::<f64>() {
        Ok(wide) => serializer.serialize_f64(wide),
        Err(_) => serializer.serialize_f32(*number),
    }
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct TopLogprob {
    /// Its text; bytes that are no UTF-8 by themselves appear as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability; -9999 for a forbidden token.
    #[serde(serialize_with = "shortest")]
    pub logprob: f32,
    /// Its text's bytes.
    pub bytes: Vec<u8>,
}

/// A chosen token with its log-probability and those of the likeliest.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct TokenLogprob {
    /// Its text; bytes that are no UTF-8 by themselves appear as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability; -9999 for a forbidden token.
    #[serde(serialize_with = "shortest")]
    pub logprob: f32,
    /// Its text's bytes.
    pub bytes: Vec<u8>,
    /// The likeliest tokens, in falling order.
    pub top_logprobs: Vec<TopLogprob>,
    /// Where its text begins in the answer's text, in characters.
    #[serde(skip)]
    pub offset: usize,
}

impl TokenLogprob {
    /// The tokens' texts and numbers.
    pub fn new(tokenizer: &Tokenizer, logprobs: &TokenLogProbs) -> TokenLogprob {
        let TopLogprob { token, logprob, bytes } = TopLogprob::new(tokenizer, &logprobs.chosen);
        let top_logprobs = logprobs.top.iter().map(|top| TopLogprob::new(tokenizer, top)).collect();
        TokenLogprob { token, logprob, bytes, top_logprobs, offset: 0 }
    }

    /// A token that is certain, for tests.
    #[cfg(test)]
    pub fn of_text(tokenizer: &Tokenizer, token: u32) -> TokenLogprob {
        let chosen = LogProb { token, logprob: 0.0 };
        TokenLogprob::new(tokenizer, &TokenLogProbs { chosen, rank: 0, top: Vec::new() })
    }
}

impl TopLogprob {
    /// The text of a token by itself.
    pub fn text(tokenizer: &Tokenizer, token: u32) -> String {
        String::from_utf8_lossy(&bytes_of(tokenizer, token)).into_owned()
    }

    fn new(tokenizer: &Tokenizer, entry: &LogProb) -> TopLogprob {
        let bytes = bytes_of(tokenizer, entry.token);
        TopLogprob { token: String::from_utf8_lossy(&bytes).into_owned(), logprob: entry.logprob.max(LEAST), bytes }
    }
}

/// The bytes of a token by itself. A model may have more logits than its tokenizer has tokens; such a token has none.
fn bytes_of(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    let decoded = || tokenizer.decode(&[token], false).map(String::into_bytes).unwrap_or_default();
    tokenizer.token_bytes(token).unwrap_or_else(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::golden;

    #[test]
    fn tokens_of_part_of_a_character_have_their_bytes() {
        for name in golden::WITH_TOKENIZER {
            let tokenizer = golden::tokenizer(name);
            let text = "one 日本 two";
            let tokens = tokenizer.encode(text, false).expect("encodes");
            let all: Vec<u8> = tokens.iter().flat_map(|t| TokenLogprob::of_text(&tokenizer, *t).bytes).collect();
            // SentencePiece writes a space in front of a text.
            let all = String::from_utf8(all).expect("UTF-8");
            assert_eq!(all.trim_start(), text, "{name}");
        }
    }

    #[test]
    fn numbers_are_as_short_in_values_as_in_text() {
        let entry = TopLogprob { token: "a".into(), logprob: -6.153954, bytes: vec![97] };
        let text = serde_json::to_string(&entry).expect("JSON");
        assert_eq!(text, r#"{"token":"a","logprob":-6.153954,"bytes":[97]}"#);
        assert_eq!(serde_json::to_value(&entry).expect("JSON").to_string(), text);
    }

    #[test]
    fn impossible_tokens_can_be_written() {
        let tokenizer = golden::tokenizer("qwen3");
        let entry = TopLogprob::new(&tokenizer, &LogProb { token: 5, logprob: f32::NEG_INFINITY });
        assert_eq!(entry.logprob, LEAST);
        assert_eq!(TopLogprob::new(&tokenizer, &LogProb { token: 1 << 30, logprob: -1.0 }).bytes, [0u8; 0]);
    }
}
