//! Answers that keep to a grammar: JSON schemas, regular expressions, Lark grammars.
//!
//! llguidance computes which tokens may come next; this folder gives it a model's tokens ([`vocabulary`](self)), bounds
//! what a client's grammar may cost, and offers the result as a [`TokenConstraint`]. Grammars are untrusted: their size and
//! nesting are checked before they are compiled, compiling and every mask have fuel, the number of lexer states is
//! bounded, and a panic of the library becomes an error. The price of bounds is that a few grammars that a patient
//! server could run are refused.

mod factory;
mod limits;
mod state;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use factory::GrammarFactory;
pub(crate) use factory::{check, lark_string, schema_with_options};

use serde_json::Value;

#[cfg(doc)]
use crate::{serving::TokenConstraint, text::tools::AnswerFormat};

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes. Keywords that cannot be enforced are refused, not ignored.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole, in the syntax of Rust's `regex`.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of a grammar in llguidance's dialect of Lark, without `%json`.
    Lark(String),
    /// Of parts that were checked one by one: see [`AnswerFormat`].
    Composed(Composed),
}

/// A grammar in Lark that this crate wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed(pub(crate) String);

/// Why a grammar cannot be used. But for [`GrammarError::Tokenizer`] it is the client's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// More text than is taken.
    #[error("the grammar has {bytes} bytes, at most {limit} are taken")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Deeper than is taken.
    #[error("the grammar is nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A count in it, such as `maxItems` or `{1,9999}`, is larger than is taken.
    #[error("{place}: repeats up to {count} times, at most {limit} are taken")]
    TooManyRepetitions {
        /// Keyword or excerpt.
        place: String,
        /// The count.
        count: u64,
        /// The limit.
        limit: u64,
    },
    /// Not valid, or with a feature that cannot be enforced.
    #[error("{0}")]
    Invalid(String),
    /// The model's tokenizer gives no bytes of its tokens.
    #[error("answers of this model cannot be constrained: {0}")]
    Tokenizer(String),
}

impl GrammarError {
    /// Whether the model is the cause, not the grammar.
    pub fn is_internal(&self) -> bool {
        matches!(self, GrammarError::Tokenizer(_))
    }
}
