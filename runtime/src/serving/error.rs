//! Why a request was not taken, or did not end.

use std::time::Duration;

/// Why a request was not taken. Nothing was done for it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// Too many requests wait already.
    #[error("{waiting} requests wait already; try again in {} s", .retry_after.as_secs().max(1))]
    QueueFull {
        /// Requests waiting.
        waiting: usize,
        /// When to try again: what the queue has lately taken to move by one.
        retry_after: Duration,
    },
    /// The prompt leaves no room for an answer, or its pages would never fit the cache.
    #[error("the prompt has {prompt_tokens} tokens, the longest sequence is {max_model_len} with its answer")]
    TooLong {
        /// Tokens of the prompt.
        prompt_tokens: u64,
        /// The limit.
        max_model_len: u64,
    },
    /// A field of the request is out of range.
    #[error("{field}: {message}")]
    Invalid {
        /// The field of [`super::Request`].
        field: &'static str,
        /// What it must be.
        message: String,
    },
    /// The service takes no more requests.
    #[error("the model is shutting down")]
    ShuttingDown,
    /// The device failed for good.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
}

/// Why a request that was taken ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The device failed for good.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// The step of this request failed.
    #[error("the step failed: {0}")]
    Step(String),
    /// No token could be chosen.
    #[error("{0}")]
    Sample(String),
    /// The constraint of the answer failed.
    #[error(transparent)]
    Constraint(#[from] super::ConstraintError),
    /// Its reader took too long to read.
    #[error("the reader took longer than {0:?} to read")]
    SlowReader(Duration),
    /// The service was shut down before the answer was complete.
    #[error("the server is shutting down")]
    ShuttingDown,
}
