//! The structure of `tokenizer.json`, written straight from borrowed vocabulary arrays.
//!
//! A vocabulary as a JSON tree in memory takes some twenty times the bytes of the file. These types serialise entry by
//! entry instead.

use crate::source::gguf::StringArray;
use serde::ser::{Error, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;

/// The whole file.
#[derive(Serialize)]
pub(super) struct TokenizerJson<'a> {
    pub version: &'static str,
    pub truncation: (),
    pub padding: (),
    pub added_tokens: Vec<AddedToken<'a>>,
    pub normalizer: Option<Value>,
    pub pre_tokenizer: Option<Value>,
    pub post_processor: Option<Value>,
    pub decoder: Value,
    pub model: Bpe<'a>,
}

/// A token that is found in text before anything else is done with it.
#[derive(Serialize)]
pub(super) struct AddedToken<'a> {
    pub id: usize,
    pub content: Cow<'a, str>,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    pub special: bool,
}

/// The model: vocabulary and merges.
#[derive(Serialize)]
pub(super) struct Bpe<'a> {
    pub r#type: &'static str,
    pub dropout: (),
    pub unk_token: Option<Cow<'a, str>>,
    pub continuing_subword_prefix: (),
    pub end_of_word_suffix: (),
    pub fuse_unk: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
    pub vocab: Vocabulary<'a>,
    pub merges: Merges<'a>,
}

/// Token texts by id.
#[derive(Clone, Copy)]
pub(super) struct Vocabulary<'a>(pub &'a StringArray);

impl<'a> Vocabulary<'a> {
    /// Text of a token. Empty texts get the name llama.cpp gives them, as a vocabulary needs distinct texts.
    pub fn text(self, id: usize) -> Option<Cow<'a, str>> {
        self.0.get(id).map(|text| named(id, text))
    }

    pub fn iter(self) -> impl Iterator<Item = Cow<'a, str>> {
        self.0.iter().enumerate().map(|(id, text)| named(id, text))
    }
}

fn named(id: usize, text: &str) -> Cow<'_, str> {
    if text.is_empty() { Cow::Owned(format!("[EMPTY_{id}]")) } else { Cow::Borrowed(text) }
}

impl Serialize for Vocabulary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, text) in self.iter().enumerate() {
            map.serialize_entry(&text, &id)?;
        }
        map.end()
    }
}

/// Merges, best first.
pub(super) enum Merges<'a> {
    /// "left right", as GGUF has them.
    Text(&'a StringArray),
    /// Ids of the two parts.
    Ids(Vec<(u32, u32)>, Vocabulary<'a>),
}

impl Serialize for Merges<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Merges::Text(merges) => {
                let mut seq = serializer.serialize_seq(Some(merges.len()))?;
                for merge in merges.iter() {
                    let pair = split_merge(merge);
                    seq.serialize_element(&pair.ok_or_else(|| S::Error::custom(no_pair(merge)))?)?;
                }
                seq.end()
            }
            Merges::Ids(merges, vocabulary) => {
                let text = |id: u32| vocabulary.text(id as usize).unwrap_or_default();
                let mut seq = serializer.serialize_seq(Some(merges.len()))?;
                for &(left, right) in merges {
                    seq.serialize_element(&(text(left), text(right)))?;
                }
                seq.end()
            }
        }
    }
}

fn no_pair(merge: &str) -> String {
    format!("merge {merge:?} is not two parts with a space between them")
}

/// The parts of "left right": the space after the first character divides them.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge.get(first..)?.find(' ')?;
    let right = merge.get(space + 1..).filter(|r| !r.is_empty())?;
    Some((&merge[..space], right))
}

#[cfg(test)]
mod tests {
    use super::split_merge;

    #[test]
    fn merges_are_two_parts() {
        assert_eq!(split_merge("Ġ t"), Some(("Ġ", "t")));
        assert_eq!(split_merge("ab cd"), Some(("ab", "cd")));
        for bad in ["", "a", "ab", "a ", " a"] {
            assert_eq!(split_merge(bad), None, "{bad:?}");
        }
    }
}
