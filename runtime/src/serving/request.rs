//! What is asked of a service and what it answers.

use std::fmt;
use std::time::Duration;

use super::{RequestError, TokenConstraint};
use crate::kv::salt::CacheSalt;
use crate::sample::{SamplingParams, TokenLogProbs};

/// What the answers to a request are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Output {
    /// Tokens.
    #[default]
    Tokens,
    /// The last hidden state of each token of the prompt, after the final norm; needs an artifact that gives them.
    HiddenStates,
}

/// A request for one or several answers to a prompt.
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen. Answer `i` draws from seed + i.
    pub sampling: SamplingParams,
    /// Tokens that end an answer; not part of it.
    pub stop_ids: Vec<u32>,
    /// Most tokens of an answer, at least 1.
    pub max_tokens: u64,
    /// Answers, at least 1; the prompt is computed once.
    pub answers: u32,
    /// Log-probabilities of the chosen token and of so many of the likeliest; `None` for none.
    pub logprobs: Option<usize>,
    /// Log-probabilities of the prompt's tokens too, with [`Request::logprobs`]; the prompt is then computed whole.
    pub prompt_logprobs: bool,
    /// Restricts the answers.
    pub constraint: Option<Box<dyn TokenConstraint>>,
    /// Requests of a smaller number go first; equal ones in the order they came.
    pub priority: i32,
    /// Whose cached prefixes it may use.
    pub salt: CacheSalt,
    /// What is answered.
    pub output: Output,
}

impl Request {
    /// A request for one answer with the defaults of every other field.
    pub fn new(prompt: Vec<u32>, sampling: SamplingParams, max_tokens: u64) -> Request {
        Request {
            prompt,
            sampling,
            stop_ids: Vec::new(),
            max_tokens,
            answers: 1,
            logprobs: None,
            prompt_logprobs: false,
            constraint: None,
            priority: 0,
            salt: CacheSalt::PUBLIC,
            output: Output::Tokens,
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt_tokens", &self.prompt.len())
            .field("max_tokens", &self.max_tokens)
            .field("answers", &self.answers)
            .field("constrained", &self.constraint.is_some())
            .finish_non_exhaustive()
    }
}

/// Tokens of a prompt whose keys and values were not computed but found, by where they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedTokens {
    /// In pages of the device.
    pub device: u64,
    /// In the memory of the host.
    pub host: u64,
    /// On disk.
    pub disk: u64,
}

impl CachedTokens {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.device + self.host + self.disk
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was chosen, or the constraint is complete.
    Stop,
    /// The most tokens were generated, or the sequence reached the longest length.
    Length,
    /// The caller said so.
    Cancelled,
}

/// How long the parts of a request took, from when it was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTimings {
    /// Until its first step began.
    pub queued: Duration,
    /// From then until the prompt's last logits were there; the time after a preemption counts too.
    pub prefill: Duration,
    /// From then until the last token.
    pub decode: Duration,
    /// Times its pages were taken away, and its tokens computed again.
    pub preemptions: u32,
}

/// What a service says about a request, in order: `Started`, tokens of its answers in any mixture, one `Finished` an answer; or
/// `Failed`, after which nothing follows.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Its first step is about to begin.
    Started {
        /// Tokens of its prompt that were found in a cache.
        cached: CachedTokens,
        /// Time it has waited.
        queued: Duration,
    },
    /// Log-probabilities of the prompt's tokens, from the second on, where they were asked for.
    Prompt(Vec<TokenLogProbs>),
    /// A token was chosen.
    Token {
        /// The answer it belongs to.
        answer: u32,
        /// The token.
        token: u32,
        /// Its log-probability and those of the likeliest, where they were asked for.
        logprobs: Option<TokenLogProbs>,
    },
    /// Hidden states of consecutive tokens of the prompt, `[tokens, hidden]`, the first ones first.
    Hidden(Vec<f32>),
    /// An answer is complete.
    Finished {
        /// The answer.
        answer: u32,
        /// Why it ended.
        reason: FinishReason,
        /// What the request has taken so far.
        timings: RequestTimings,
    },
    /// The request ended without (all) answers.
    Failed(RequestError),
}
