//! Between text and tokens: tokenizer, chat template, streamed decoding, stop strings.
//!
//! A request passes through here twice: [`chat`] turns messages into the prompt text and [`tokenizer`] into ids; on the way
//! out a [`DecodeStream`] turns ids into text as they come and a [`StopMatcher`] ends the answer.

pub mod chat;
pub mod detokenize;
mod load;
mod pyjson;
pub mod stop;
mod strftime;
pub mod tokenizer;
pub mod tools;

pub use chat::{ChatError, ChatRequest, ChatTemplate};
pub use detokenize::DecodeStream;
pub use stop::{StopConditions, StopError, StopMatcher, StopStep};
pub use tokenizer::{TextError, Tokenizer};

#[cfg(test)]
pub(crate) mod golden;
