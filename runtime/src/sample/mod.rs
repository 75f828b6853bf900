//! Choosing the next token from a row of logits.
//!
//! [`Sampler::sample`] is a pure function of (logits, history, parameters, position): a [`Sampler`] holds only buffers,
//! so one serves all sequences of a batch and nothing is allocated per token once they have grown. Randomness comes
//! from a counter-based generator keyed by (seed, position), see [`philox`].
//!
//! Order of the steps: logit bias, penalties, temperature, top-k, top-p, min-p. Penalties act on logits because their
//! definitions do. Temperature comes before the filters, as in Hugging Face and vLLM, so top-p and min-p act
//! on the distribution that is drawn from (llama.cpp applies temperature last by default, which keeps fewer tokens at
//! high temperatures). Top-k before top-p means the mass is counted among the k. Min-p compares with the most probable
//! token, which no filter removes, so its place after top-p rather than before only matters for the mass top-p counts.

mod candidates;
mod logprobs;
mod params;
mod penalties;

pub use kernels::philox;
pub use logprobs::{LogProb, TokenLogProbs, token_logprobs};
pub use params::{ParamError, SamplingParams};
pub use penalties::History;

use candidates::Candidate;
use penalties::Occurrences;

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// The row of logits has no entries.
    #[error("the row of logits is empty")]
    Empty,
    /// A logit is NaN or positive infinity: the forward pass went wrong, or a penalty overflowed.
    #[error("the logit of token {token} is {value}; logits must be finite, or negative infinity for a forbidden token")]
    InvalidLogit {
        /// Token with the offending logit.
        token: u32,
        /// NaN or infinity.
        value: f32,
    },
    /// All logits are negative infinity.
    #[error("all {vocabulary} tokens are forbidden (every logit is negative infinity)")]
    NothingAllowed {
        /// Length of the row of logits.
        vocabulary: usize,
    },
    /// The history, the logit bias or a chosen token names a token that has no logit.
    #[error("{origin} names token {token}, but there are only {vocabulary} logits")]
    TokenOutOfRange {
        /// Where the token stands.
        origin: &'static str,
        /// The token.
        token: u32,
        /// Length of the row of logits.
        vocabulary: usize,
    },
}

/// Reusable buffers for sampling. No result depends on what was sampled before.
#[derive(Debug, Default)]
pub struct Sampler {
    /// Logits after bias and penalties [vocabulary].
    scores: Vec<f32>,
    candidates: Vec<Candidate>,
    occurrences: Occurrences,
}

impl Sampler {
    /// A sampler with empty buffers; they grow to the vocabulary with the first token.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the next token.
    ///
    /// `logits` [vocabulary]; `history` is what the penalties look at; `position` is the index of the new token in its
    /// sequence and selects the random number. At temperature 0 the largest logit wins, the lowest id on a tie.
    ///
    /// # Errors
    /// NaN or infinite logits, no token left, ids in history or bias outside the vocabulary.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: History<'_>,
        params: &SamplingParams,
        position: u64,
    ) -> Result<u32, SampleError> {
        let Self { scores, candidates, occurrences } = self;
        let scores = penalised(logits, history, params, scores, occurrences)?;
        let (best, largest) = largest_logit(scores)?;
        if params.is_greedy() {
            return Ok(best);
        }
        candidates::filter(scores, largest, params, candidates);
        Ok(draw(candidates, philox::uniform(params.seed, position)))
    }

    /// The distribution that [`Sampler::sample`] draws from: (token, probability) of every token that passes the
    /// filters, in rising token order. At temperature 0 that is one token.
    ///
    /// # Errors
    /// Those of [`Sampler::sample`].
    pub fn distribution(
        &mut self,
        logits: &[f32],
        history: History<'_>,
        params: &SamplingParams,
    ) -> Result<Vec<(u32, f64)>, SampleError> {
        let Self { scores, candidates, occurrences } = self;
        let scores = penalised(logits, history, params, scores, occurrences)?;
        let (best, largest) = largest_logit(scores)?;
        if params.is_greedy() {
            return Ok(vec![(best, 1.0)]);
        }
        candidates::filter(scores, largest, params, candidates);
        let total = candidates::mass(candidates);
        let mut pairs: Vec<(u32, f64)> = candidates.iter().map(|c| (c.id, f64::from(c.weight) / total)).collect();
        pairs.sort_unstable_by_key(|&(id, _)| id);
        Ok(pairs)
    }
}

/// The logits after bias and penalties: `logits` itself where nothing changes them, else `buffer`.
fn penalised<'a>(
    logits: &'a [f32],
    history: History<'_>,
    params: &SamplingParams,
    buffer: &'a mut Vec<f32>,
    occurrences: &mut Occurrences,
) -> Result<&'a [f32], SampleError> {
    if !params.changes_logits() {
        return Ok(logits);
    }
    buffer.clear();
    buffer.extend_from_slice(logits);
    penalties::apply(buffer, history, params, occurrences)?;
    Ok(buffer)
}

/// The largest logit and its (lowest) token; checks the row on the way.
fn largest_logit(logits: &[f32]) -> Result<(u32, f32), SampleError> {
    let mut best = (0, *logits.first().ok_or(SampleError::Empty)?);
    for (id, &value) in logits.iter().enumerate() {
        if value.is_nan() || value == f32::INFINITY {
            return Err(SampleError::InvalidLogit { token: id as u32, value });
        }
        if value > best.1 {
            best = (id as u32, value);
        }
    }
    if best.1 == f32::NEG_INFINITY {
        return Err(SampleError::NothingAllowed { vocabulary: logits.len() });
    }
    Ok(best)
}

/// Inverts the cumulative distribution at `u` in [0, 1). Rounding near 1 ends at the last candidate.
fn draw(candidates: &[Candidate], u: f64) -> u32 {
    let target = u * candidates::mass(candidates);
    let mut reached = 0.0;
    for candidate in candidates {
        reached += f64::from(candidate.weight);
        if reached > target {
            return candidate.id;
        }
    }
    // `filter` always leaves the most probable token, so there is a last one.
    candidates[candidates.len() - 1].id
}

#[cfg(test)]
mod tests;
