//! A byte-level BPE tokenizer of any vocabulary size.
//!
//! It is not trained: after the 256 bytes come merges in a systematic order (runs of spaces, letters with a leading space,
//! pairs, triples and quadruples of letters, frequent letters first), then three special tokens. Every text can be encoded
//! and comes back as it was; the length of an encoding is nothing to learn from.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::SynthError;

/// Texts of the special tokens, which have the last ids.
pub(super) const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Messages between `<|im_start|>ROLE` and `<|im_end|>`.
const CHAT_TEMPLATE: &str = concat!(
    "{%- for message in messages -%}\n",
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}\n",
    "{%- endfor -%}\n",
    "{%- if add_generation_prompt -%}\n",
    "    {{- '<|im_start|>assistant\\n' -}}\n",
    "{%- endif -%}",
);

/// Words with one leading character that is no letter, single digits, punctuation, line ends, spaces.
const SPLIT: &str = concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*", r"|\s*[\r\n]+|\s+(?!\S)|\s+",);

/// Letters, most frequent in English first.
const LETTERS: &[u8; 26] = b"etaoinshrdlcumwfgypbvkjxqz";

const BYTES: usize = 256;

/// Token ids by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpecialIds {
    pub end_of_text: u64,
    pub end_of_turn: u64,
}

impl SpecialIds {
    /// Those of a vocabulary of this size, which [`tokenizer`] accepts.
    pub fn of(vocabulary: u64) -> SpecialIds {
        SpecialIds { end_of_text: vocabulary - 3, end_of_turn: vocabulary - 1 }
    }
}

/// `tokenizer.json` with exactly `vocabulary` tokens.
///
/// # Errors
/// Fewer tokens than bytes and special tokens, or more than there are merges.
pub(super) fn tokenizer(vocabulary: u64) -> Result<Vec<u8>, SynthError> {
    let Merges { tokens, pairs, .. } = ordinary_tokens(vocabulary)?;
    let first_special = tokens.len();
    let added = SPECIAL.iter().enumerate().map(|(i, content)| {
        json!({
            "id": first_special + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    });
    let file = TokenizerFile {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: added.collect(),
        normalizer: (),
        pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": SPLIT }, "behavior": "Isolated", "invert": false },
            byte_level(),
        ] }),
        post_processor: (),
        decoder: byte_level(),
        model: Model {
            r#type: "BPE",
            dropout: (),
            unk_token: (),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: Vocabulary(&tokens),
            merges: pairs.iter().map(|&(l, r)| (tokens[l].as_str(), tokens[r].as_str())).collect(),
        },
    };
    serde_json::to_vec(&file).map_err(|e| SynthError::json("tokenizer.json", e))
}

/// `tokenizer_config.json`, with the chat template.
pub(super) fn tokenizer_config(context: u64) -> Value {
    json!({
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": SPECIAL[2],
        "extra_special_tokens": {},
        "model_max_length": context,
        "pad_token": SPECIAL[0],
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}

fn byte_level() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false })
}

/// All tokens but the special ones.
fn ordinary_tokens(vocabulary: u64) -> Result<Merges, SynthError> {
    let least = BYTES + SPECIAL.len();
    let size = usize::try_from(vocabulary).unwrap_or(usize::MAX);
    let wrong = |most: usize| SynthError::Vocabulary { least, most, found: vocabulary };
    if size < least {
        return Err(wrong(least + Merges::most()));
    }
    let mut merges = Merges::default();
    merges.grow(size - least);
    if merges.pairs.len() < size - least {
        return Err(wrong(least + merges.pairs.len()));
    }
    Ok(merges)
}

/// Merges in the making. Token ids below 256 are the bytes themselves.
#[derive(Debug)]
struct Merges {
    /// Texts by id.
    tokens: Vec<String>,
    /// Ids that are merged, in order.
    pairs: Vec<(usize, usize)>,
    wanted: usize,
}

impl Default for Merges {
    fn default() -> Merges {
        Merges { tokens: (0..=255).map(|b| printable(b).to_string()).collect(), pairs: Vec::new(), wanted: 0 }
    }
}

impl Merges {
    /// Number of merges there are: three runs of spaces and one of line ends, then as in `grow`.
    const fn most() -> usize {
        4 + 26 + 2 * 26 * 26 + 2 * 26 * 26 * 26 + 26 * 26 * 26 * 26
    }

    /// Adds merges until there are `wanted`, or no more.
    fn grow(&mut self, wanted: usize) {
        self.wanted = wanted;
        let space = usize::from(b' ');
        let letter = LETTERS.map(usize::from);
        let two = self.add(space, space);
        let four = self.add(two, two);
        self.add(four, four);
        self.add(usize::from(b'\n'), usize::from(b'\n'));
        let spaced: Vec<usize> = letter.iter().map(|l| self.add(space, *l)).collect();
        let pairs = self.add_all(&letter, &letter);
        let spaced_pairs = self.add_all(&spaced, &letter);
        self.add_all(&pairs, &letter);
        self.add_all(&spaced_pairs, &letter);
        self.add_all(&pairs, &pairs);
    }

    /// The token of two others together; 0, never used, once there are enough.
    fn add(&mut self, left: usize, right: usize) -> usize {
        if self.pairs.len() == self.wanted {
            return 0;
        }
        self.tokens.push(format!("{}{}", self.tokens[left], self.tokens[right]));
        self.pairs.push((left, right));
        self.tokens.len() - 1
    }

    /// Every left part with every right one, those early in both lists first; the tokens in the same order.
    fn add_all(&mut self, left: &[usize], right: &[usize]) -> Vec<usize> {
        if self.pairs.len() == self.wanted {
            return Vec::new();
        }
        let mut order: Vec<(usize, usize)> =
            (0..left.len()).flat_map(|l| (0..right.len()).map(move |r| (l, r))).collect();
        // Lists have different lengths, so ranks are compared as shares of them.
        order.sort_by_key(|&(l, r)| (l * right.len() + r * left.len(), l));
        order.into_iter().map(|(l, r)| self.add(left[l], right[r])).collect()
    }
}

/// The character that stands for a byte in byte-level BPE: itself where it is printable, else one of those from U+0100 on,
/// in order (the mapping of GPT-2).
fn printable(byte: u8) -> char {
    let is_printable = |b: u8| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|b| !is_printable(*b)).count() as u32;
    char::from_u32(0x100 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The file, serialised entry by entry: as a tree of JSON values a large vocabulary would take twenty times its size.
#[derive(Serialize)]
struct TokenizerFile<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Value>,
    normalizer: (),
    pre_tokenizer: Value,
    post_processor: (),
    decoder: Value,
    model: Model<'a>,
}

#[derive(Serialize)]
struct Model<'a> {
    r#type: &'static str,
    dropout: (),
    unk_token: (),
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Vocabulary<'a>,
    merges: Vec<(&'a str, &'a str)>,
}

struct Vocabulary<'a>(&'a [String]);

impl Serialize for Vocabulary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().enumerate().map(|(id, token)| (token, id)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use tokenizers::Tokenizer;

    use super::*;

    fn load(vocabulary: u64) -> Tokenizer {
        crate::tokenizer::load(&tokenizer(vocabulary).unwrap(), Path::new("tokenizer.json")).unwrap()
    }

    static MIDDLE: LazyLock<Tokenizer> = LazyLock::new(|| load(5000));

    fn round_trip(tokenizer: &Tokenizer, text: &str) -> String {
        let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
        tokenizer.decode(&ids, false).unwrap()
    }

    #[test]
    fn the_vocabulary_has_exactly_the_size_asked_for_and_every_id_decodes() {
        for size in [259, 260, 263, 264, 300, 512, 32_064, 64_000] {
            let tokenizer = load(size);
            assert_eq!(tokenizer.get_vocab_size(true) as u64, size);
            for id in 0..size as u32 {
                assert!(!tokenizer.decode(&[id], false).unwrap().is_empty(), "{id} of {size}");
            }
        }
    }

    #[test]
    fn sizes_that_cannot_be_had_are_errors() {
        let message = tokenizer(258).unwrap_err().to_string();
        assert!(message.contains("259") && message.contains("258"), "{message}");
        let most = (BYTES + SPECIAL.len() + Merges::most()) as u64;
        assert!(ordinary_tokens(most).is_ok());
        let message = ordinary_tokens(most + 1).unwrap_err().to_string();
        assert!(message.contains(&format!("to {most} tokens")), "{message}");
        assert!(ordinary_tokens(u64::MAX).is_err());
    }

    #[test]
    fn tokens_are_distinct_and_bytes_map_as_in_gpt_2() {
        let Merges { tokens, pairs, .. } = ordinary_tokens(256_000).unwrap();
        assert_eq!(tokens.len(), 256_000 - SPECIAL.len());
        assert_eq!(pairs.len(), tokens.len() - BYTES);
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len());
        for (byte, text) in [(b' ', "Ġ"), (b'\n', "Ċ"), (b'a', "a"), (0, "Ā"), (0x7F, "ġ"), (0xAD, "Ń"), (0xFF, "ÿ")]
        {
            assert_eq!(tokens[usize::from(byte)], text);
        }
    }

    #[test]
    fn merges_shorten_words_and_special_tokens_are_found() {
        let encode = |text: &str| MIDDLE.encode(text, false).unwrap().get_ids().len();
        assert!(encode("the tea") <= 4, "{}", encode("the tea"));
        assert_eq!(encode("        "), 1);
        let ids = MIDDLE.encode("<|im_start|>user\n<|im_end|>", false).unwrap().get_ids().to_vec();
        assert_eq!((ids[0], ids[ids.len() - 1]), (4998, 4999));
        assert_eq!(SpecialIds::of(5000), SpecialIds { end_of_text: 4997, end_of_turn: 4999 });
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<String>()) {
            prop_assert_eq!(round_trip(&MIDDLE, &text), text);
        }

        #[test]
        fn any_words_come_back(text in "([ a-zA-Z0-9\\n\\t.,é日]|<\\|im_end\\|>){0,60}") {
            prop_assert_eq!(round_trip(&MIDDLE, &text), text);
        }
    }
}
