//! Rotary embedding frequencies: the base frequencies and the published ways to stretch them to longer contexts.
//!
//! Everything is computed once, at import, in f64; the graph holds the finished vector. Definitions follow the reference
//! implementations: linear and llama3 as in Meta's Llama 3.1 release, YaRN as in Peng et al., "YaRN" (2023), section 3.

use std::f64::consts::PI;

/// How frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided, short ones kept, between them a blend.
    Llama3 {
        /// The factor for long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the pre-training.
        original: f64,
    },
    /// YaRN: a ramp over dimensions between divided and kept, and a factor on cos and sin.
    Yarn {
        /// The factor for slow dimensions.
        factor: f64,
        /// Context length of the pre-training.
        original: f64,
        /// Rotations within the original context above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which it is divided.
        beta_slow: f64,
        /// The factor on cos and sin; by default `0.1 ln(factor) + 1`.
        attention_factor: Option<f64>,
        /// Whether the ramp's ends are rounded outwards to whole dimensions.
        truncate: bool,
    },
    /// LongRoPE (Ding et al. 2024): each frequency divided by a searched factor, of which there are two lists, one for sequences
    /// within the original context and one for longer ones.
    LongRope {
        /// Divisors within the original context, one a pair.
        short: Vec<f64>,
        /// Divisors beyond it.
        long: Vec<f64>,
        /// The factor on cos and sin.
        attention_factor: f64,
    },
}

/// The rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the geometric series of wavelengths.
    pub theta: f64,
    /// Dimensions of a head that are turned, even.
    pub dims: u64,
    /// How frequencies are stretched.
    pub scaling: RopeScaling,
    /// Whether pairs are neighbours `(2i, 2i + 1)` instead of halves `(i, i + dims / 2)`.
    pub interleaved: bool,
    /// Divisors of each frequency that the checkpoint brings, empty if none.
    pub divisors: Vec<f32>,
}

impl Rope {
    /// The angle per position of each pair, `dims / 2` values; of two lists of factors, by the first.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let base = |i: u64| self.theta.powf(-((2 * i) as f64) / self.dims as f64);
        let scaled = (0..self.dims / 2).map(|i| self.scale(i, base(i)));
        let divisors = self.divisors.iter().copied().chain(std::iter::repeat(1.0));
        scaled.zip(divisors).map(|(f, d)| (f / f64::from(d)) as f32).collect()
    }

    /// The frequencies of sequences beyond the original context, where those are others.
    pub fn long_inverse_frequencies(&self) -> Option<Vec<f32>> {
        let RopeScaling::LongRope { long, attention_factor, .. } = &self.scaling else { return None };
        let (short, attention_factor) = (long.clone(), *attention_factor);
        let scaling = RopeScaling::LongRope { short, long: Vec::new(), attention_factor };
        Some(Rope { scaling, ..self.clone() }.inverse_frequencies())
    }

    /// The factor on cos and sin.
    pub fn attention_factor(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn { attention_factor: Some(given), .. } => *given,
            RopeScaling::Yarn { factor, .. } => yarn_attention_factor(*factor, 1.0),
            RopeScaling::LongRope { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }

    fn scale(&self, pair: u64, frequency: f64) -> f64 {
        match &self.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let wavelength = 2.0 * PI / frequency;
                if wavelength < original / high_freq_factor {
                    frequency
                } else if wavelength > original / low_freq_factor {
                    frequency / factor
                } else {
                    let kept = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - kept) * frequency / factor + kept * frequency
                }
            }
            RopeScaling::Yarn { factor, .. } => {
                let kept = 1.0 - self.yarn_ramp(pair);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
            RopeScaling::LongRope { short, .. } => frequency / short.get(pair as usize).copied().unwrap_or(1.0),
        }
    }

    /// 0 for dimensions that are kept, 1 for those divided by the factor, linear between.
    fn yarn_ramp(&self, pair: u64) -> f64 {
        let RopeScaling::Yarn { original, beta_fast, beta_slow, truncate, .. } = &self.scaling else { return 0.0 };
        let dims = self.dims as f64;
        let dimension = |rotations: f64| dims * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
        if *truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
        if low == high {
            high += 0.001;
        }
        ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0)
    }
}

/// YaRN's factor on cos and sin for a context stretched by `factor`; `mscale` weighs it.
pub fn yarn_attention_factor(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// LongRoPE's factor on cos and sin for a context stretched from `original` tokens by `factor`.
pub fn longrope_attention_factor(factor: f64, original: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { theta: 10_000.0, dims: 64, scaling, interleaved: false, divisors: vec![] }
    }

    #[test]
    fn base_frequencies_are_a_geometric_series_from_one() {
        let f = rope(RopeScaling::None).inverse_frequencies();
        assert_eq!((f.len(), f[0]), (32, 1.0));
        assert!((f[31] - 10_000f32.powf(-62.0 / 64.0)).abs() < 1e-9);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        let plain = rope(RopeScaling::None).inverse_frequencies();
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192.0 };
        let scaled = rope(scaling).inverse_frequencies();
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[31] - plain[31] / 8.0).abs() < 1e-9);
        let ratios: Vec<f32> = plain.iter().zip(&scaled).map(|(a, b)| a / b).collect();
        assert!(ratios.windows(2).all(|w| w[0] <= w[1] + 1e-6), "{ratios:?}");
    }

    #[test]
    fn yarn_ramps_from_kept_to_divided() {
        let plain = rope(RopeScaling::None).inverse_frequencies();
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            truncate: true,
        };
        let stretched = rope(yarn);
        let scaled = stretched.inverse_frequencies();
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[31] - plain[31] / 4.0).abs() < 1e-9);
        assert!((stretched.attention_factor() - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    }

    #[test]
    fn longrope_has_a_table_for_each_side_of_the_original_context() {
        let (short, long) = (vec![1.0; 32], vec![4.0; 32]);
        let r = rope(RopeScaling::LongRope { short, long, attention_factor: longrope_attention_factor(8.0, 64.0) });
        let table = r.long_inverse_frequencies().unwrap();
        assert_eq!((r.inverse_frequencies()[0], table[0], table.len()), (1.0, 0.25, 32));
        assert!((r.attention_factor() - 1.5f64.sqrt()).abs() < 1e-12);
        assert!(rope(RopeScaling::None).long_inverse_frequencies().is_none());
    }

    #[test]
    fn divisors_of_the_checkpoint_apply_last() {
        let mut r = rope(RopeScaling::Linear { factor: 2.0 });
        r.divisors = vec![4.0; 32];
        assert_eq!(r.inverse_frequencies()[0], 0.125);
    }
}
