//! What a request may ask of the sampler, and the limits on it.
//!
//! Names, defaults and ranges are those of the OpenAI and vLLM interfaces, so that a request can be passed through.
//! Validation is separate from construction because requests arrive field by field; [`Sampler::sample`] trusts
//! parameters that passed [`SamplingParams::validate`] and stays memory-safe, though not meaningful, on others.
//!
//! [`Sampler::sample`]: super::Sampler::sample

use std::hash::{BuildHasher, RandomState};

use kernels::abi::SampleSettings;

/// How the next token is chosen from the logits. The default is plain sampling at temperature 1.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 chooses the largest logit. Finite and at least 0.
    pub temperature: f32,
    /// Keeps the `top_k` most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most probable tokens whose mass reaches `top_p`; above 0, at most 1 (keeps all).
    pub top_p: f32,
    /// Drops tokens less probable than `min_p` times the most probable one; 0 (keeps all) to 1.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of tokens in prompt and output; 1 is neutral, above 0.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of each token in the output; -2 to 2.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once per occurrence in the output; -2 to 2.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens, before the penalties. Negative infinity forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Names the random sequence. Where the user gave none, take [`SamplingParams::fresh_seed`].
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// A sampling parameter outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} is {value}, but must be {allowed}")]
pub struct ParamError {
    /// Name of the field in [`SamplingParams`].
    pub field: &'static str,
    /// The value given.
    pub value: f32,
    /// The range, in words.
    pub allowed: &'static str,
}

impl SamplingParams {
    /// Parameters that always choose the largest logit.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field outside its range.
    pub fn validate(&self) -> Result<(), ParamError> {
        let finite = f32::is_finite;
        check("temperature", self.temperature, "finite and at least 0", |t| finite(t) && t >= 0.0)?;
        check("top_p", self.top_p, "above 0 and at most 1", |p| p > 0.0 && p <= 1.0)?;
        check("min_p", self.min_p, "from 0 to 1", |p| (0.0..=1.0).contains(&p))?;
        check("repetition_penalty", self.repetition_penalty, "finite and above 0", |r| finite(r) && r > 0.0)?;
        check("presence_penalty", self.presence_penalty, "from -2 to 2", |p| (-2.0..=2.0).contains(&p))?;
        check("frequency_penalty", self.frequency_penalty, "from -2 to 2", |p| (-2.0..=2.0).contains(&p))?;
        for &(_, bias) in &self.logit_bias {
            check("logit_bias", bias, "a number below infinity", |b| b < f32::INFINITY)?;
        }
        Ok(())
    }

    /// Whether the largest logit is chosen, without randomness.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether the logits are changed before temperature.
    pub(super) fn changes_logits(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || !self.logit_bias.is_empty()
    }

    /// Whether a device can choose by them: it knows no biases, and no history for penalties.
    pub fn suit_devices(&self) -> bool {
        !self.changes_logits()
    }

    /// The same for a device that chooses the token of this index in its sequence.
    pub fn settings(&self, position: u64) -> SampleSettings {
        SampleSettings {
            seed: self.seed,
            position,
            temperature: self.temperature,
            top_k: u32::try_from(self.top_k).unwrap_or(u32::MAX),
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            reserved: 0,
        }
    }

    /// A seed that differs from call to call, from the operating system's randomness.
    pub fn fresh_seed() -> u64 {
        RandomState::new().hash_one(0u8)
    }
}

fn check(
    field: &'static str,
    value: f32,
    allowed: &'static str,
    in_range: impl Fn(f32) -> bool,
) -> Result<(), ParamError> {
    if in_range(value) { Ok(()) } else { Err(ParamError { field, value, allowed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected_field(change: impl Fn(&mut SamplingParams)) -> &'static str {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.validate().expect_err("must be rejected").field
    }

    #[test]
    fn defaults_and_greedy_are_valid() {
        assert_eq!(SamplingParams::default().validate(), Ok(()));
        assert_eq!(SamplingParams::greedy().validate(), Ok(()));
    }

    #[test]
    fn each_field_is_checked_and_named() {
        for bad in [-0.1, f32::NAN, f32::INFINITY] {
            assert_eq!(rejected_field(|p| p.temperature = bad), "temperature");
        }
        for bad in [0.0, -1.0, 1.01, f32::NAN] {
            assert_eq!(rejected_field(|p| p.top_p = bad), "top_p");
        }
        for bad in [-0.1, 1.01, f32::NAN] {
            assert_eq!(rejected_field(|p| p.min_p = bad), "min_p");
        }
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(rejected_field(|p| p.repetition_penalty = bad), "repetition_penalty");
        }
        assert_eq!(rejected_field(|p| p.presence_penalty = 2.1), "presence_penalty");
        assert_eq!(rejected_field(|p| p.frequency_penalty = -2.1), "frequency_penalty");
        assert_eq!(rejected_field(|p| p.logit_bias = vec![(3, f32::NAN)]), "logit_bias");
    }

    #[test]
    fn fresh_seeds_differ() {
        assert_ne!(SamplingParams::fresh_seed(), SamplingParams::fresh_seed());
    }
}
