//! How far one model's predictions are from another's, position by position.
//!
//! KL(A||B) = Σ p_A · (ln p_A - ln p_B) in nats, softmax and sum in f64. A is the model that is taken for right: where it
//! gives no probability, B's does not matter.

/// What a row of logits of two models adds up to.
#[derive(Default)]
pub struct Divergence {
    /// One value a position: a percentile needs them all, and 8 bytes are nothing beside the logits.
    kl: Vec<f64>,
    same_top1: u64,
}

/// The figures over all positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DivergenceSummary {
    /// Mean KL(A||B) in nats.
    pub kl_mean: f64,
    /// 99th percentile of KL(A||B) in nats, interpolated linearly between the two nearest positions.
    pub kl_p99: f64,
    /// Share of positions at which both have the same likeliest token, the lowest id on a tie.
    pub same_top1: f64,
}

impl Divergence {
    /// Adds a position; both rows are `[vocabulary]`.
    pub fn add(&mut self, a: &[f32], b: &[f32]) {
        self.kl.push(kl_divergence(a, b));
        self.same_top1 += u64::from(top1(a) == top1(b));
    }

    /// The figures; `None` before the first position.
    pub fn summary(mut self) -> Option<DivergenceSummary> {
        self.kl.sort_unstable_by(f64::total_cmp);
        let n = self.kl.len() as f64;
        // Summed from the smallest up, which also keeps the sum's error small.
        let kl_mean = self.kl.iter().sum::<f64>() / n;
        Some(DivergenceSummary { kl_mean, kl_p99: percentile(&self.kl, 0.99)?, same_top1: self.same_top1 as f64 / n })
    }
}

/// KL(A||B) of the softmax of two rows of logits, in nats. Never negative; 0 for equal rows; infinite where A gives a token
/// probability that has a logit of minus infinity in B; NaN if a logit is.
pub fn kl_divergence(a: &[f32], b: &[f32]) -> f64 {
    let (normal_a, normal_b) = (log_sum_exp(a), log_sum_exp(b));
    let term = |(x, y): (&f32, &f32)| {
        let (log_p, log_q) = (f64::from(*x) - normal_a, f64::from(*y) - normal_b);
        if log_p == f64::NEG_INFINITY { 0.0 } else { log_p.exp() * (log_p - log_q) }
    };
    let sum: f64 = a.iter().zip(b).map(term).sum();
    // Rounding can leave a sum of nearly equal rows a hair below 0. Not f64::max: that would hide a NaN.
    if sum < 0.0 { 0.0 } else { sum }
}

/// The logarithm of the softmax's denominator.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
}

/// Index of the largest logit, the lowest on a tie.
fn top1(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best
}

/// The value below which the share `q` of sorted values lies.
fn percentile(sorted: &[f64], q: f64) -> Option<f64> {
    let at = q * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted.get(at.floor() as usize)?, sorted.get(at.ceil() as usize)?);
    // Equal neighbours give themselves, infinite ones too.
    Some(if low == high { *low } else { low + (high - low) * at.fract() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    /// p = (1/2, 1/4, 1/4) and q = (1/4, 1/4, 1/2): KL = 1/2 ln 2 + 0 - 1/4 ln 2 = 1/4 ln 2.
    #[test]
    fn kl_is_that_of_the_definition() {
        let logits = |p: [f32; 3]| p.map(|p| p.ln() + 5.0);
        let (a, b) = (logits([0.5, 0.25, 0.25]), logits([0.25, 0.25, 0.5]));
        assert!(close(kl_divergence(&a, &b), 0.25 * 2f64.ln()));
        // KL is not symmetric: from (1/2, 1/2) to (3/4, 1/4) it is 1/2 ln(4/3), back it is 3/4 ln 3 - ln 2.
        let (c, d) = ([0.5f32.ln(); 2], [0.75f32.ln(), 0.25f32.ln()]);
        assert!(close(kl_divergence(&c, &d), 0.5 * (4f64 / 3.0).ln()));
        assert!(close(kl_divergence(&d, &c), 0.75 * 3f64.ln() - 2f64.ln()));
    }

    #[test]
    fn impossible_tokens_and_bad_logits() {
        let never = f32::NEG_INFINITY;
        assert!(close(kl_divergence(&[0.0, never], &[0.0, 0.0]), 2f64.ln()));
        assert_eq!(kl_divergence(&[0.0, 0.0], &[0.0, never]), f64::INFINITY);
        assert_eq!(kl_divergence(&[0.0, never], &[0.0, never]), 0.0);
        assert!(kl_divergence(&[f32::NAN, 0.0], &[0.0, 0.0]).is_nan());
    }

    #[test]
    fn figures_over_positions() {
        assert_eq!(Divergence::default().summary(), None);
        let mut divergence = Divergence::default();
        let (even, odd) = ([0.0, 0.0], [0.0, 3f32.ln()]);
        for _ in 0..3 {
            divergence.add(&even, &even);
        }
        divergence.add(&even, &odd);
        let summary = divergence.summary().unwrap();
        // From (1/2, 1/2) to (1/4, 3/4).
        let kl = 0.5 * (4f64 / 3.0).ln();
        assert!(close(summary.kl_mean, kl / 4.0));
        // The percentile stands at position 0.99 · 3 = 2.97, between 0 and kl.
        assert!(close(summary.kl_p99, 0.97 * kl));
        assert_eq!(summary.same_top1, 0.75);
    }

    #[test]
    fn percentiles_interpolate() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert!(close(percentile(&values, 0.99).unwrap(), 99.0));
        assert_eq!(percentile(&[4.0], 0.99), Some(4.0));
        assert_eq!(percentile(&[f64::INFINITY; 3], 0.99), Some(f64::INFINITY));
        assert_eq!(percentile(&[], 0.99), None);
    }

    fn row() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-80f32..80.0, 1..50)
    }

    proptest! {
        #[test]
        fn kl_is_0_for_equal_rows(a in row()) {
            prop_assert_eq!(kl_divergence(&a, &a), 0.0);
        }

        #[test]
        fn kl_is_not_negative_and_ignores_shifts(a in row(), noise in prop::collection::vec(-9f32..9.0, 50), shift in -8i8..8) {
            let b: Vec<f32> = a.iter().zip(&noise).map(|(x, n)| x + n).collect();
            let kl = kl_divergence(&a, &b);
            prop_assert!(kl >= 0.0 && kl.is_finite());
            // Pinsker: KL is at least half the square of the distance between the distributions.
            let (na, nb) = (log_sum_exp(&a), log_sum_exp(&b));
            let distance: f64 =
                a.iter().zip(&b).map(|(x, y)| ((f64::from(*x) - na).exp() - (f64::from(*y) - nb).exp()).abs()).sum();
            prop_assert!(kl >= 0.5 * distance * distance - 1e-9);
            let shifted: Vec<f32> = b.iter().map(|y| y + f32::from(shift)).collect();
            prop_assert!((kl_divergence(&a, &shifted) - kl).abs() < 1e-3 * (1.0 + kl));
        }
    }
}
