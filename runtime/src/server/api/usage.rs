//! What a request took: tokens and times, as OpenAI's interface counts the ones and llama.cpp's server the others.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::serving::{CachedTokens, RequestTimings};

/// Tokens of a request and its answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Tokens of the prompt, or of all prompts.
    pub prompt_tokens: u64,
    /// Tokens of all answers.
    pub completion_tokens: u64,
    /// Their sum.
    pub total_tokens: u64,
    /// What is known of the prompt's.
    pub prompt_tokens_details: PromptTokensDetails,
    /// What is known of the answers'.
    pub completion_tokens_details: CompletionTokensDetails,
}

/// What is known of a prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PromptTokensDetails {
    /// Tokens whose keys and values were not computed but found in the prefix cache.
    pub cached_tokens: u64,
}

/// What is known of the answers' tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct CompletionTokensDetails {
    /// Tokens of reasoning.
    pub reasoning_tokens: u64,
}

impl Usage {
    /// From counts.
    pub fn new(prompt: u64, cached: u64, completion: u64, reasoning: u64) -> Usage {
        Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: cached },
            completion_tokens_details: CompletionTokensDetails { reasoning_tokens: reasoning },
        }
    }

    /// The sum of two.
    pub fn plus(self, other: Usage) -> Usage {
        Usage::new(
            self.prompt_tokens + other.prompt_tokens,
            self.cached() + other.cached(),
            self.completion_tokens + other.completion_tokens,
            self.reasoning() + other.reasoning(),
        )
    }

    /// Tokens found in the prefix cache.
    pub fn cached(&self) -> u64 {
        self.prompt_tokens_details.cached_tokens
    }

    /// Tokens of reasoning.
    pub fn reasoning(&self) -> u64 {
        self.completion_tokens_details.reasoning_tokens
    }
}

/// How long the parts of a request took. An addition to OpenAI's interface, with the field names of llama.cpp's server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct Timings {
    /// Tokens of the prompt that were found in the prefix cache.
    pub cache_n: u64,
    /// Of those, tokens found in host memory.
    pub cache_host_n: u64,
    /// Of those, tokens found on disk.
    pub cache_disk_n: u64,
    /// Tokens of the prompt that were computed.
    pub prompt_n: u64,
    /// Milliseconds that took.
    pub prompt_ms: f64,
    /// Those tokens in a second.
    pub prompt_per_second: f64,
    /// Tokens generated, of all answers.
    pub predicted_n: u64,
    /// Milliseconds from the first of them to the last.
    pub predicted_ms: f64,
    /// Those tokens in a second.
    pub predicted_per_second: f64,
    /// Milliseconds the request waited for its first step.
    pub queued_ms: f64,
    /// Times its pages were taken away, and its tokens computed again.
    pub preemptions: u32,
}

impl Timings {
    /// From what the engine says.
    pub fn new(prompt: u64, cached: CachedTokens, predicted: u64, times: RequestTimings) -> Timings {
        let computed = prompt.saturating_sub(cached.total());
        Timings {
            cache_n: cached.total(),
            cache_host_n: cached.host,
            cache_disk_n: cached.disk,
            prompt_n: computed,
            prompt_ms: milliseconds(times.prefill),
            prompt_per_second: rate(computed, times.prefill),
            predicted_n: predicted,
            predicted_ms: milliseconds(times.decode),
            predicted_per_second: rate(predicted, times.decode),
            queued_ms: milliseconds(times.queued),
            preemptions: times.preemptions,
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    // Microseconds are exact enough, and short to write.
    time.as_micros() as f64 / 1e3
}

/// 0 where no time passed: JSON has no infinity.
fn rate(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { (count as f64 / time.as_secs_f64() * 100.0).round() / 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_what_was_computed() {
        let times = RequestTimings {
            queued: Duration::from_millis(3),
            prefill: Duration::from_millis(500),
            decode: Duration::ZERO,
            preemptions: 1,
        };
        let timings = Timings::new(100, CachedTokens { device: 16, host: 32, disk: 2 }, 1, times);
        assert_eq!((timings.cache_n, timings.prompt_n, timings.prompt_per_second), (50, 50, 100.0));
        assert_eq!((timings.predicted_per_second, timings.queued_ms, timings.preemptions), (0.0, 3.0, 1));
    }

    #[test]
    fn sums_add_every_count() {
        let sum = Usage::new(10, 4, 3, 1).plus(Usage::new(1, 1, 1, 1));
        assert_eq!(sum, Usage::new(11, 5, 4, 2));
        assert_eq!(sum.total_tokens, 15);
    }
}
