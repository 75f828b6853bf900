//! The online softmax of one row.

use std::ops::Range;

use super::CHUNK;
use crate::cpu::math;
use crate::cpu::simd::LANES;

/// What is known of a row's softmax so far.
#[repr(C, align(64))]
pub(super) struct Softmax {
    /// Sum of weights, lane = position mod 16.
    pub sum: [f32; LANES],
    /// The greatest score seen, finite always: the difference of two of them is a number.
    max: f32,
}

impl Softmax {
    /// Nothing seen.
    pub const START: Softmax = Softmax { sum: [0.0; LANES], max: f32::MIN };

    /// A sink's score seen, which has no value. An infinite one counts as the greatest or least number.
    #[inline(always)]
    pub fn with_sink(score: f32) -> Softmax {
        let mut sum = [0.0; LANES];
        sum[0] = 1.0;
        Softmax { sum, max: score.clamp(f32::MIN, f32::MAX) }
    }

    /// Turns a chunk's scores into weights relative to the running maximum, 0 for positions not `seen`; rescales what was
    /// summed, here and in `output`, when that maximum grows.
    #[inline(always)]
    pub fn weigh(&mut self, scores: &mut [f32; CHUNK], seen: Range<usize>, softcap: f32, output: &mut [f32]) {
        if seen.is_empty() {
            return;
        }
        let partial = seen != (0..CHUNK);
        if softcap > 0.0 {
            scores.iter_mut().for_each(|s| *s = softcap * math::tanh(*s / softcap));
        }
        if partial {
            select(scores, &seen, f32::MIN);
        }
        let lanes = greatest_lanes(scores);
        // Over a long context the maximum has mostly been seen: one comparison of vectors tells.
        if lanes.iter().fold(false, |any, lane| any | (*lane > self.max)) {
            let max = greatest(lanes).min(f32::MAX);
            let rescale = math::exp(self.max - max);
            self.max = max;
            self.sum.iter_mut().for_each(|s| *s *= rescale);
            output.iter_mut().for_each(|o| *o *= rescale);
        }
        scores.iter_mut().for_each(|s| *s = math::exp(*s - self.max));
        if partial {
            select(scores, &seen, 0.0);
        }
        for page in scores.as_chunks::<LANES>().0 {
            self.sum.iter_mut().zip(page).for_each(|(sum, weight)| *sum += weight);
        }
    }
}

/// Puts `other` in the place of positions not seen, whatever they hold.
#[inline(always)]
fn select(scores: &mut [f32; CHUNK], seen: &Range<usize>, other: f32) {
    let (start, end) = (seen.start as u32, seen.end as u32);
    for (i, s) in (0..).zip(scores) {
        *s = if i >= start && i < end { *s } else { other };
    }
}

/// The greatest number of a chunk in each lane, no less than [`f32::MIN`]; NaNs are passed over.
#[inline(always)]
fn greatest_lanes(scores: &[f32; CHUNK]) -> [f32; LANES] {
    let mut lanes = [f32::MIN; LANES];
    for page in scores.as_chunks::<LANES>().0 {
        for (lane, &s) in lanes.iter_mut().zip(page) {
            *lane = if s > *lane { s } else { *lane };
        }
    }
    lanes
}

/// The greatest of lanes that are numbers.
#[inline(always)]
fn greatest(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
    }
    lanes[0]
}
