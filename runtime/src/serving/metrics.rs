//! What a service counts. Names follow those of vLLM; how they are exposed is the server's matter.

use std::time::Duration;

/// Upper bounds of latency buckets in seconds: a millisecond to two minutes.
const LATENCY_BOUNDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// How often a duration fell into each of the buckets.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    counts: Vec<u64>,
    sum: f64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; LATENCY_BOUNDS.len() + 1], sum: 0.0 }
    }
}

impl Histogram {
    /// Upper bounds of the buckets in seconds, inclusive; the last bucket has none.
    pub fn bounds(&self) -> &'static [f64] {
        LATENCY_BOUNDS
    }

    /// Durations in each bucket, one more than there are bounds; not cumulative.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Sum of all durations in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds a duration.
    pub(crate) fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.counts[LATENCY_BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum += seconds;
    }
}

/// Counters, gauges and latencies of a service since it was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceMetrics {
    /// Requests with at least one sequence in the KV cache.
    pub num_requests_running: u64,
    /// Requests without any, preempted ones among them.
    pub num_requests_waiting: u64,
    /// Part of the KV pages that sequences hold, 0 to 1.
    pub kv_cache_usage: f64,
    /// Tokens of prompts that were looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Of those, tokens that were found.
    pub prefix_cache_hits: u64,
    /// Tokens of prompts, found or computed.
    pub prompt_tokens: u64,
    /// Tokens chosen, those that end an answer among them.
    pub generation_tokens: u64,
    /// Sequences whose pages were taken away.
    pub preemptions: u64,
    /// Answers that ended by a stop token or a complete constraint.
    pub answers_stopped: u64,
    /// Answers that reached their longest length.
    pub answers_length: u64,
    /// Answers that were ended by their reader.
    pub answers_cancelled: u64,
    /// Requests that failed.
    pub requests_failed: u64,
    /// From taking a request to the first token of each of its answers.
    pub time_to_first_token: Histogram,
    /// Between consecutive tokens of an answer.
    pub inter_token_latency: Histogram,
    /// From taking a request to its end.
    pub e2e_request_latency: Histogram,
    /// From taking a request to its first step.
    pub request_queue_time: Histogram,
    /// Computing prompts, of requests that ended.
    pub request_prefill_time: Histogram,
    /// Choosing tokens, of requests that ended.
    pub request_decode_time: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for millis in [1, 2, 60_000, 1_000_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        assert_eq!((histogram.counts()[0], histogram.counts()[1], histogram.counts()[14]), (1, 1, 1));
        assert_eq!((histogram.counts()[16], histogram.count()), (1, 4));
        assert!((histogram.sum() - 1060.003).abs() < 1e-9);
    }
}
