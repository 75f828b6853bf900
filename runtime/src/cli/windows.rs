//! The windows in which a text is predicted, shared by `perplexity` and `compare` so that both mean the same positions.
//!
//! The text is tokenised once, without special tokens, and cut into windows that do not overlap. Every token of a window
//! but its first is predicted from those before it in the window; what is left at the end is dropped.

/// The windows of `length` tokens.
pub struct Windows<'a> {
    ids: &'a [u32],
    length: usize,
}

impl<'a> Windows<'a> {
    /// Cuts `ids`; `None` if no token of a window would be predicted.
    pub fn cut(ids: &'a [u32], length: usize) -> Option<Windows<'a>> {
        (length >= 2 && ids.len() >= length).then_some(Windows { ids, length })
    }

    /// Number of windows, at least 1.
    pub fn count(&self) -> usize {
        self.ids.len() / self.length
    }

    /// Number of tokens that are predicted.
    pub fn scored(&self) -> usize {
        self.count() * (self.length - 1)
    }

    /// The windows in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u32]> {
        self.ids.chunks_exact(self.length)
    }
}

/// Mean negative log-likelihood, as it grows.
#[derive(Default)]
pub struct Loss {
    sum: f64,
    tokens: u64,
}

impl Loss {
    /// Adds the summed loss of a window and its number of predicted tokens.
    pub fn add(&mut self, sum: f64, tokens: usize) {
        self.sum += sum;
        self.tokens += tokens as u64;
    }

    /// The exponential of the mean.
    pub fn perplexity(&self) -> f64 {
        (self.sum / self.tokens as f64).exp()
    }
}

/// The negative log-likelihood, in nats, of `token` under the softmax of a row of logits.
pub fn negative_log_likelihood(logits: &[f32], token: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    total.ln() - f64::from(logits[token] - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap_and_the_rest_is_dropped() {
        let ids = [1, 2, 3, 4, 5, 6, 7];
        let windows = Windows::cut(&ids, 3).unwrap();
        assert_eq!(windows.iter().collect::<Vec<_>>(), [[1, 2, 3], [4, 5, 6]]);
        assert_eq!((windows.count(), windows.scored()), (2, 4));
        assert!(Windows::cut(&ids, 8).is_none() && Windows::cut(&ids, 1).is_none() && Windows::cut(&[], 0).is_none());
    }

    #[test]
    fn perplexity_of_even_odds_is_the_number_of_choices() {
        let mut loss = Loss::default();
        for token in 0..4 {
            loss.add(negative_log_likelihood(&[3.0; 4], token), 1);
        }
        assert!((loss.perplexity() - 4.0).abs() < 1e-12);
        assert!((negative_log_likelihood(&[0.0, 2f32.ln()], 1) - 1.5f64.ln()).abs() < 1e-7);
    }
}
