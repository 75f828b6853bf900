//! Logit bias and the repetition, presence and frequency penalties.
//!
//! The repetition penalty looks at prompt and output and scales logits (Keskar et al., "CTRL", 2019, as Hugging Face
//! implements it); presence and frequency look at the output only and subtract (OpenAI's definition, also vLLM's).

use super::{SampleError, SamplingParams};

/// The tokens before the one to be sampled.
#[derive(Debug, Clone, Copy, Default)]
pub struct History<'a> {
    /// Tokens the request came with.
    pub prompt: &'a [u32],
    /// Tokens generated so far.
    pub output: &'a [u32],
}

/// Occurrence counts per token, kept allocated between calls and all zero between them.
#[derive(Debug, Default)]
pub(super) struct Occurrences {
    /// [vocabulary]: bit 0 is "seen anywhere", the rest counts the output.
    counts: Vec<u32>,
    seen: Vec<u32>,
}

const SEEN: u32 = 1;
const ONE_OUTPUT: u32 = 2;

/// Changes `scores` [vocabulary] as `params` asks.
pub(super) fn apply(
    scores: &mut [f32],
    history: History<'_>,
    params: &SamplingParams,
    occurrences: &mut Occurrences,
) -> Result<(), SampleError> {
    check_range("the prompt", history.prompt.iter(), scores.len())?;
    check_range("the output", history.output.iter(), scores.len())?;
    check_range("logit_bias", params.logit_bias.iter().map(|(token, _)| token), scores.len())?;
    for &(token, bias) in &params.logit_bias {
        scores[token as usize] += bias;
    }
    occurrences.count(history, scores.len());
    for &token in &occurrences.seen {
        let outputs = std::mem::take(&mut occurrences.counts[token as usize]) / ONE_OUTPUT;
        let score = &mut scores[token as usize];
        *score = if *score > 0.0 { *score / params.repetition_penalty } else { *score * params.repetition_penalty };
        if outputs > 0 {
            *score -= params.presence_penalty + params.frequency_penalty * outputs as f32;
        }
    }
    Ok(())
}

impl Occurrences {
    /// Lists each token of `history` once in `seen` and counts it.
    fn count(&mut self, history: History<'_>, vocabulary: usize) {
        self.counts.resize(self.counts.len().max(vocabulary), 0);
        self.seen.clear();
        for &token in history.prompt {
            self.note(token, 0);
        }
        for &token in history.output {
            self.note(token, ONE_OUTPUT);
        }
    }

    fn note(&mut self, token: u32, amount: u32) {
        let count = &mut self.counts[token as usize];
        if *count == 0 {
            *count = SEEN;
            self.seen.push(token);
        }
        *count = count.saturating_add(amount);
    }
}

fn check_range<'a>(
    origin: &'static str,
    mut tokens: impl Iterator<Item = &'a u32>,
    vocabulary: usize,
) -> Result<(), SampleError> {
    match tokens.find(|&&token| token as usize >= vocabulary) {
        Some(&token) => Err(SampleError::TokenOutOfRange { origin, token, vocabulary }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply_to(scores: &[f32], prompt: &[u32], output: &[u32], params: &SamplingParams) -> Vec<f32> {
        let mut occurrences = Occurrences::default();
        let mut first = scores.to_vec();
        apply(&mut first, History { prompt, output }, params, &mut occurrences).expect("valid");
        let mut second = scores.to_vec();
        apply(&mut second, History { prompt, output }, params, &mut occurrences).expect("valid");
        assert_eq!(first, second, "counts are reset between calls");
        first
    }

    #[test]
    fn repetition_divides_positive_and_multiplies_negative_logits_once() {
        let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
        let scores = apply_to(&[4.0, -4.0, 4.0, -4.0, 0.0], &[0, 0, 4], &[1, 0], &params);
        assert_eq!(scores, [2.0, -8.0, 4.0, -4.0, 0.0]);
    }

    #[test]
    fn presence_and_frequency_look_at_the_output_only() {
        let params = SamplingParams { presence_penalty: 0.5, frequency_penalty: 0.25, ..SamplingParams::default() };
        let scores = apply_to(&[1.0; 3], &[0, 0, 0], &[1, 1, 2], &params);
        assert_eq!(scores, [1.0, 0.0, 0.25]);
    }

    #[test]
    fn bias_is_added_before_the_penalties() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            logit_bias: vec![(0, 3.0), (1, f32::NEG_INFINITY)],
            ..SamplingParams::default()
        };
        assert_eq!(apply_to(&[1.0, 1.0], &[0, 1], &[], &params), [2.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn tokens_outside_the_vocabulary_are_an_error() {
        let biased = SamplingParams { logit_bias: vec![(2, 1.0)], ..SamplingParams::default() };
        let plain = SamplingParams { presence_penalty: 1.0, ..SamplingParams::default() };
        let error = |params, prompt: &[u32], output: &[u32]| {
            apply(&mut [0.0; 2], History { prompt, output }, params, &mut Occurrences::default())
        };
        for (result, origin) in [
            (error(&biased, &[], &[]), "logit_bias"),
            (error(&plain, &[2], &[]), "the prompt"),
            (error(&plain, &[], &[2]), "the output"),
        ] {
            assert_eq!(result, Err(SampleError::TokenOutOfRange { origin, token: 2, vocabulary: 2 }));
        }
    }
}
