//! Values that requests may write in more than one way: one string or several, text or parts of it, text or tokens.
//!
//! Each reads itself with a visitor rather than by trying variants, so that an error names the place inside.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One string or a list of strings.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Strings {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Strings {
    /// The strings.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Strings::One(text) => vec![text],
            Strings::Many(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Strings, E> {
                Ok(Strings::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strings, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = items.next_element()? {
                    texts.push(text);
                }
                Ok(Strings::Many(texts))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// Prompts: text or tokens, one or several.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompts {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The tokens of one prompt.
    Tokens(Vec<u32>),
    /// The tokens of several prompts.
    TokenLists(Vec<Vec<u32>>),
}

/// An element of a list of prompts.
enum Element {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyElement;
        impl<'de> Visitor<'de> for AnyElement {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
                u32::try_from(id).map(Element::Token).map_err(|_| E::custom(format!("{id} is no token id")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Element, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = items.next_element()? {
                    tokens.push(token);
                }
                Ok(Element::Tokens(tokens))
            }
        }
        deserializer.deserialize_any(AnyElement)
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyPrompts;
        impl<'de> Visitor<'de> for AnyPrompts {
            type Value = Prompts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a list of strings, a list of token ids or a list of such lists")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Prompts, E> {
                Ok(Prompts::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompts, A::Error> {
                let mut prompts = match items.next_element()? {
                    None => return Ok(Prompts::Texts(Vec::new())),
                    Some(Element::Text(text)) => Prompts::Texts(vec![text]),
                    Some(Element::Token(id)) => Prompts::Tokens(vec![id]),
                    Some(Element::Tokens(ids)) => Prompts::TokenLists(vec![ids]),
                };
                while let Some(element) = items.next_element()? {
                    match (&mut prompts, element) {
                        (Prompts::Texts(texts), Element::Text(text)) => texts.push(text),
                        (Prompts::Tokens(ids), Element::Token(id)) => ids.push(id),
                        (Prompts::TokenLists(lists), Element::Tokens(ids)) => lists.push(ids),
                        _ => return Err(A::Error::custom("all elements must be of one kind: strings, ids or lists")),
                    }
                }
                Ok(prompts)
            }
        }
        deserializer.deserialize_any(AnyPrompts)
    }
}

/// Text, or parts of type `P`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum TextOr<P> {
    /// Text.
    Text(String),
    /// Parts.
    Parts(Vec<P>),
}

impl<'de, P: Deserialize<'de>> Deserialize<'de> for TextOr<P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts<P>(PhantomData<P>);
        impl<'de, P: Deserialize<'de>> Visitor<'de> for TextOrParts<P> {
            type Value = TextOr<P>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of objects")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<TextOr<P>, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<TextOr<P>, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = items.next_element()? {
                    parts.push(part);
                }
                Ok(TextOr::Parts(parts))
            }
        }
        deserializer.deserialize_any(TextOrParts(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
        let mut reader = serde_json::Deserializer::from_str(json);
        serde_path_to_error::deserialize(&mut reader).map_err(|e| e.to_string())
    }

    #[test]
    fn prompts_in_each_form() {
        let cases = [
            (r#""a""#, Prompts::Text("a".into())),
            (r#"["a", "b"]"#, Prompts::Texts(vec!["a".into(), "b".into()])),
            ("[1, 2]", Prompts::Tokens(vec![1, 2])),
            ("[[1], [2, 3]]", Prompts::TokenLists(vec![vec![1], vec![2, 3]])),
            ("[]", Prompts::Texts(vec![])),
        ];
        for (json, expected) in cases {
            assert_eq!(read::<Prompts>(json), Ok(expected), "{json}");
        }
        for wrong in ["1", "{}", r#"["a", 1]"#, "[1, -2]", "[5000000000]", "[[1], 2]", "[[1.5]]", "null"] {
            assert!(read::<Prompts>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_name_the_place_inside() {
        let error = read::<Strings>(r#"["a", 2]"#).expect_err("a number");
        assert!(error.starts_with("[1]: invalid type: integer `2`, expected a string"), "{error}");
        let error = read::<TextOr<Strings>>(r#"["a", ["b", null]]"#).expect_err("null");
        assert!(error.starts_with("[1][1]: "), "{error}");
        assert_eq!(
            read::<Strings>("7").expect_err("a number"),
            "invalid type: integer `7`, expected a string or a list of strings at line 1 column 1"
        );
    }
}
