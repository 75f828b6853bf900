//! Log-probabilities of the chosen token and of the most probable ones.
//!
//! They describe the model, not the sampler: natural logarithms of the softmax over the logits as given, before
//! temperature, penalties and filters, which is what the OpenAI interface and vLLM report.

use super::candidates::{Candidate, largest_scores};
use super::{SampleError, largest_logit};

/// One token and its log-probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogProb {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability; negative infinity for a forbidden token.
    pub logprob: f32,
}

/// Log-probabilities at one position.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogProbs {
    /// The chosen token.
    pub chosen: LogProb,
    /// How many tokens are more probable than the chosen one.
    pub rank: usize,
    /// The most probable tokens in falling order (ties: lower id first). Holds the chosen token only if it is one.
    pub top: Vec<LogProb>,
}

/// Log-probabilities of `chosen` and of the `top_n` most probable tokens of `logits` [vocabulary].
///
/// # Errors
/// NaN or infinite logits; `chosen` outside the vocabulary.
pub fn token_logprobs(logits: &[f32], chosen: u32, top_n: usize) -> Result<TokenLogProbs, SampleError> {
    let (_, largest) = largest_logit(logits)?;
    let Some(&chosen_logit) = logits.get(chosen as usize) else {
        let vocabulary = logits.len();
        return Err(SampleError::TokenOutOfRange { origin: "the chosen token", token: chosen, vocabulary });
    };
    let log_sum = logits.iter().map(|&l| f64::from((l - largest).exp())).sum::<f64>().ln();
    let logprob = |logit: f32| (f64::from(logit) - f64::from(largest) - log_sum) as f32;
    let mut top: Vec<Candidate> = Vec::new();
    largest_scores(logits, top_n.min(logits.len()), &mut top);
    Ok(TokenLogProbs {
        chosen: LogProb { token: chosen, logprob: logprob(chosen_logit) },
        rank: logits.iter().filter(|&&l| l > chosen_logit).count(),
        top: top.iter().map(|c| LogProb { token: c.id, logprob: logprob(c.score) }).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_a_small_row() {
        let logits = [0.25f32.ln(), 0.5f32.ln(), 0.25f32.ln(), f32::NEG_INFINITY];
        let got = token_logprobs(&logits, 2, 2).expect("valid");
        let near = |a: f32, p: f32| (a - p.ln()).abs() < 1e-6;
        assert!(near(got.chosen.logprob, 0.25) && got.rank == 1);
        assert_eq!(got.top.iter().map(|l| l.token).collect::<Vec<_>>(), [1, 0]);
        assert!(near(got.top[0].logprob, 0.5) && near(got.top[1].logprob, 0.25));
        assert_eq!(token_logprobs(&logits, 3, 0).expect("valid").chosen.logprob, f32::NEG_INFINITY);
        assert_eq!(token_logprobs(&logits, 1, 10).expect("valid").top.len(), 3, "forbidden tokens are not listed");
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let got = token_logprobs(&[3.0e38, -3.0e38], 0, 1).expect("valid");
        assert_eq!(got.chosen.logprob, 0.0);
    }

    #[test]
    fn chosen_token_must_exist() {
        let error = token_logprobs(&[0.0], 1, 0).expect_err("out of range");
        assert_eq!(error.to_string(), "the chosen token names token 1, but there are only 1 logits");
    }
}
