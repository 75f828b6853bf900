//! Choosing the next token from a row of logits.
//!
//! [`Sampler::sample`] is a pure function of (logits, history, parameters, position): a [`Sampler`] holds only buffers,
//! so one serves all sequences of a batch and nothing is allocated per token once they have grown. Randomness comes
//! from a counter-based generator keyed by (seed, position), see [`philox`].
//!
//! Order of the steps: mask, logit bias, penalties, temperature, top-k, top-p, min-p. Penalties act on logits because their
//! definitions do. Temperature comes before the filters, as in Hugging Face and vLLM, so top-p and min-p act
//! on the distribution that is drawn from (llama.cpp applies temperature last by default, which keeps fewer tokens at
//! high temperatures). Top-k before top-p means the mass is counted among the k. Min-p compares with the most probable
//! token, which no filter removes, so its place after top-p rather than before only matters for the mass top-p counts.

mod candidates;
mod logprobs;
mod params;
mod penalties;

use kernels::cpu::sample::{INVALID_LOGIT, NOTHING_ALLOWED};
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
    /// As [`SampleError::InvalidLogit`], where the device has chosen, which does not say which token it was.
    #[error("a logit is NaN or infinite; logits must be finite, or negative infinity for a forbidden token")]
    InvalidLogits,
    /// A number that stands for no token: a bug of the device.
    #[error("the device has chosen {code}, which is none of {vocabulary} tokens; this is a bug of the device")]
    NoToken {
        /// What it gave.
        code: i32,
        /// Tokens there are.
        vocabulary: usize,
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

/// The token that a device says it has chosen, see [`crate::device::Device::collect`].
///
/// # Errors
/// What stands in the place of a token.
pub fn chosen(code: i32, vocabulary: usize) -> Result<u32, SampleError> {
    match code {
        INVALID_LOGIT => Err(SampleError::InvalidLogits),
        NOTHING_ALLOWED => Err(SampleError::NothingAllowed { vocabulary }),
        _ => match u32::try_from(code) {
            Ok(token) if (token as usize) < vocabulary => Ok(token),
            _ => Err(SampleError::NoToken { code, vocabulary }),
        },
    }
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
        self.sample_allowed(logits, None, history, params, position)
    }

    /// As [`Sampler::sample`], among the tokens that a mask allows: bit `t % 32` of word `t / 32` for token `t`; tokens past its
    /// end are forbidden. `None` allows all.
    ///
    /// # Errors
    /// Those of [`Sampler::sample`].
    pub fn sample_allowed(
        &mut self,
        logits: &[f32],
        allowed: Option<&[u32]>,
        history: History<'_>,
        params: &SamplingParams,
        position: u64,
    ) -> Result<u32, SampleError> {
        let Self { scores, candidates, occurrences } = self;
        let scores = penalised(logits, allowed, history, params, scores, occurrences)?;
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
        let scores = penalised(logits, None, history, params, scores, occurrences)?;
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

/// The logits after mask, bias and penalties: `logits` itself where nothing changes them, else `buffer`.
fn penalised<'a>(
    logits: &'a [f32],
    allowed: Option<&[u32]>,
    history: History<'_>,
    params: &SamplingParams,
    buffer: &'a mut Vec<f32>,
    occurrences: &mut Occurrences,
) -> Result<&'a [f32], SampleError> {
    if !params.changes_logits() && allowed.is_none() {
        return Ok(logits);
    }
    buffer.clear();
    buffer.extend_from_slice(logits);
    if let Some(allowed) = allowed {
        forbid_others(buffer, allowed);
    }
    penalties::apply(buffer, history, params, occurrences)?;
    Ok(buffer)
}

/// Makes the logits of tokens that a mask does not allow negative infinity, which neither bias nor penalty changes.
fn forbid_others(scores: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (scores, word) in scores.chunks_mut(32).zip(words) {
        for (_, score) in scores.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// The largest logit and its (lowest) token; checks the row on the way.
fn largest_logit(logits: &[f32]) -> Result<(u32, f32), SampleError> {
    if logits.is_empty() {
        return Err(SampleError::Empty);
    }
    let (largest, valid) = largest_of(logits);
    if !valid {
        let bad = logits.iter().enumerate().find(|(_, value)| !is_valid(**value));
        return Err(
            bad.map_or(SampleError::Empty, |(token, &value)| SampleError::InvalidLogit { token: token as u32, value })
        );
    }
    if largest == f32::NEG_INFINITY {
        return Err(SampleError::NothingAllowed { vocabulary: logits.len() });
    }
    let best = logits.iter().position(|value| *value == largest).unwrap_or(0);
    Ok((best as u32, largest))
}

/// Whether a logit is finite or negative infinity.
fn is_valid(value: f32) -> bool {
    value < f32::INFINITY
}

/// The largest of some logits and whether all are valid. Lanes are independent and nothing leaves the loop, so that it becomes
/// vector code: this is all the work of greedy choice over a large vocabulary.
fn largest_of(logits: &[f32]) -> (f32, bool) {
    const LANES: usize = 16;
    let (mut largest, mut valid) = ([f32::NEG_INFINITY; LANES], [true; LANES]);
    let (blocks, rest) = logits.as_chunks::<LANES>();
    for block in blocks {
        for (i, &value) in block.iter().enumerate() {
            largest[i] = if value > largest[i] { value } else { largest[i] };
            valid[i] &= is_valid(value);
        }
    }
    let most = |a: f32, &b: &f32| if b > a { b } else { a };
    let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, most);
    (largest, valid.iter().all(|v| *v) && rest.iter().all(|v| is_valid(*v)))
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
