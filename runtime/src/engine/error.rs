//! What can go wrong in an engine.

use crate::device::{DeviceError, LoadError};
use crate::kv::pages::PageError;
use crate::sample::ParamError;
use crate::serving::{RequestError, SubmitError};

/// Why an engine could not be made or a request not be served. The sequences are as they were before the call.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No device could be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// KV pages ran out, or the sequence is unknown.
    #[error(transparent)]
    Pages(#[from] PageError),
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Params(#[from] ParamError),
    /// A request is out of range.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A request ended without an answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A token id that the model does not have.
    #[error("token {token} is not in the vocabulary of {vocabulary}; was the text encoded for another model?")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Ids are below this.
        vocabulary: usize,
    },
    /// A sequence would be longer than the engine allows.
    #[error("the sequence would have {tokens} tokens, the limit is {max_model_len}; shorten it or raise max_model_len")]
    TooLong {
        /// Its length with the new tokens.
        tokens: u64,
        /// The limit.
        max_model_len: u64,
    },
    /// A chunk without tokens.
    #[error("chunk {chunk} has no tokens; a prompt needs at least one")]
    EmptyChunk {
        /// Index of the chunk.
        chunk: usize,
    },
    /// A sequence appears in two chunks of one step.
    #[error("chunk {chunk} names a sequence that an earlier chunk of the step names")]
    RepeatedSequence {
        /// Index of the later chunk.
        chunk: usize,
    },
    /// A chunk goes on with a token that no step chooses.
    #[error("chunk {chunk} goes on with a token that the step submitted last does not choose")]
    NothingChosen {
        /// Index of the chunk.
        chunk: usize,
    },
    /// The device gave fewer logits, or chose fewer tokens, than asked for.
    #[error("the device gave no logits for the step; this is a bug of the device")]
    NoLogits,
    /// An option is out of range.
    #[error("{option}: {message}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it must be.
        message: String,
    },
}

impl EngineError {
    /// Whether every further step would fail as well.
    pub fn is_lost(&self) -> bool {
        matches!(
            self,
            EngineError::Device(DeviceError::Lost { .. })
                | EngineError::Load(LoadError::Device(DeviceError::Lost { .. }))
        )
    }
}
