//! Tools and reasoning: into prompts, and out of answers.
//!
//! Models write a call of a tool as text, each family in a syntax of its own ([`Dialect`]), and some write down what they
//! think before they answer. An [`AnswerFormat`] knows a model's syntax from its chat template and special tokens: it
//! renders prompts with tools, parses answers as they are generated ([`AnswerParser`]), and writes the grammar that makes a
//! model call. Parsers go character by character, so that how a text is cut into pieces cannot matter, and hold back only
//! what may still become a marker. Text that began like a call but is none is given out as content.

mod call;
mod format;
mod grammar;
mod harmony;
mod json;
mod parser;
mod prompt;
mod set;
#[cfg(test)]
mod tests;
mod text;

pub use format::{AnswerFormat, Dialect};
pub use parser::AnswerParser;
pub use set::{ToolChoice, ToolError, ToolSet};

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerDelta {
    /// Text for the reader.
    Content(String),
    /// What the model thought.
    Reasoning(String),
    /// A call begins. Calls are numbered from 0 and never overlap.
    CallBegin {
        /// Its number.
        index: usize,
        /// A fresh id.
        id: String,
        /// The function.
        name: String,
    },
    /// More of a call's arguments, as JSON text.
    CallArguments {
        /// Its number.
        index: usize,
        /// The next piece.
        json: String,
    },
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments as the model wrote them: JSON text, unless the answer was cut off or was not constrained.
    pub arguments: String,
}

/// A whole answer, collected from its pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedAnswer {
    /// Text for the reader.
    pub content: String,
    /// What the model thought.
    pub reasoning: String,
    /// Calls in their order.
    pub calls: Vec<ToolCall>,
}

impl Extend<AnswerDelta> for ParsedAnswer {
    fn extend<I: IntoIterator<Item = AnswerDelta>>(&mut self, deltas: I) {
        for delta in deltas {
            match delta {
                AnswerDelta::Content(text) => self.content.push_str(&text),
                AnswerDelta::Reasoning(text) => self.reasoning.push_str(&text),
                AnswerDelta::CallBegin { id, name, .. } => {
                    self.calls.push(ToolCall { id, name, arguments: String::new() });
                }
                AnswerDelta::CallArguments { index, json } => {
                    if let Some(call) = self.calls.get_mut(index) {
                        call.arguments.push_str(&json);
                    }
                }
            }
        }
    }
}
