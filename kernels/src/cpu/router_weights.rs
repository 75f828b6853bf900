//! The factor of each selected expert.
//!
//! The parameters are [`RouterWeightsParams`]. Variants: `softmax` over all experts, `sigmoid` of the logit, and
//! `sparsemixer`, the softmax over those experts not selected before whose logit `s` has
//! `(max - s) / max(|s|, max) <= 2 · jitter`, `max` being the selected one's (Phi-3.5-MoE). If `renormalise`, weights are
//! divided by their sum, unless that is 0; then they are multiplied by `scale`. An expert that does not exist has weight 0.
//!
//! The softmax's denominator is summed in 16 lanes, lane = expert mod 16, then in a fixed tree, the other sums in order:
//! the same bits on every instruction set.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::math::{self, tree_sum};
use super::simd::{self, Body, LANES, Simd};
use crate::abi::RouterWeightsParams;

/// The variants.
pub const VARIANTS: &[&str] = super::router::VARIANTS;

/// Tokens in a block of the grid.
const BLOCK_TOKENS: usize = 8;

pub(super) const SOFTMAX: u8 = 0;
pub(super) const SIGMOID: u8 = 1;
pub(super) const SPARSEMIXER: u8 = 2;

/// Blocks of the launch's grid.
pub fn blocks(params: &RouterWeightsParams) -> usize {
    (params.tokens as usize).div_ceil(BLOCK_TOKENS)
}

/// The kernel over [`RouterWeightsParams`]; `None` if there is no such variant or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "softmax" => simd::select::<RouterWeights<SOFTMAX>>(isa),
        "sigmoid" => simd::select::<RouterWeights<SIGMOID>>(isa),
        "sparsemixer" => simd::select::<RouterWeights<SPARSEMIXER>>(isa),
        _ => None,
    }
}

struct RouterWeights<const SCORING: u8>;

impl<const SCORING: u8> Body for RouterWeights<SCORING> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the counts they state.
        unsafe {
            let p = &*params.cast::<RouterWeightsParams>();
            let (experts, slots) = (p.experts as usize, p.slots as usize);
            for token in blocks.start * BLOCK_TOKENS..(p.tokens as usize).min(blocks.end * BLOCK_TOKENS) {
                let logits = std::slice::from_raw_parts(p.logits.add(token * experts), experts);
                let selected = std::slice::from_raw_parts(p.selected.add(token * slots), slots);
                let out = std::slice::from_raw_parts_mut(p.out.add(token * slots), slots);
                weigh_experts::<SCORING>(logits, selected, p.jitter, (p.renormalise != 0, p.scale), out);
            }
        }
    }
}

/// The weights of one token's selected experts.
#[inline(always)]
pub(super) fn weigh_experts<const SCORING: u8>(
    logits: &[f32],
    selected: &[i32],
    jitter: f32,
    (renormalise, scale): (bool, f32),
    out: &mut [f32],
) {
    weigh::<SCORING>(logits, selected, jitter, out);
    finish(out, renormalise, scale);
}

/// Writes the selected experts' weights as they come out of the scoring.
#[inline(always)]
fn weigh<const SCORING: u8>(logits: &[f32], selected: &[i32], jitter: f32, out: &mut [f32]) {
    let (max, total) = if SCORING == SOFTMAX { denominator(logits) } else { (0.0, 1.0) };
    for slot in 0..selected.len() {
        let logit = usize::try_from(selected[slot]).ok().and_then(|expert| logits.get(expert));
        out[slot] = match (logit, SCORING) {
            (None, _) => 0.0,
            (Some(s), SOFTMAX) => math::exp(s - max) / total,
            (Some(s), SIGMOID) => math::sigmoid(*s),
            (Some(s), _) => 1.0 / sum_of_near(logits, *s, &selected[..slot], 2.0 * jitter),
        };
    }
}

/// The greatest logit, NaNs passed over, and `Σ e^(s - max)`.
#[inline(always)]
fn denominator(logits: &[f32]) -> (f32, f32) {
    let mut max = f32::MIN;
    for &s in logits {
        max = if s > max { s } else { max };
    }
    let (chunks, tail) = logits.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for chunk in chunks {
        for (lane, &s) in lanes.iter_mut().zip(chunk) {
            *lane += math::exp(s - max);
        }
    }
    for (lane, &s) in lanes.iter_mut().zip(tail) {
        *lane += math::exp(s - max);
    }
    (max, tree_sum(lanes))
}

/// `Σ e^(s - max)` over the experts near `max` and not in `before`.
#[inline(always)]
fn sum_of_near(logits: &[f32], max: f32, before: &[i32], bound: f32) -> f32 {
    let mut sum = 0.0;
    for (expert, &s) in (0i32..).zip(logits) {
        let magnitude = if s.abs() > max { s.abs() } else { max };
        // Where both are 0 the quotient is no number, and no distance.
        let far = (max - s) / magnitude > bound;
        if !far && !before.contains(&expert) {
            sum += math::exp(s - max);
        }
    }
    sum
}

/// Divides by the sum, if so wanted, and scales.
#[inline(always)]
fn finish(weights: &mut [f32], renormalise: bool, scale: f32) {
    let mut total = 0.0;
    for weight in &*weights {
        total += weight;
    }
    let total = if renormalise && total != 0.0 { total } else { 1.0 };
    for weight in weights {
        *weight = *weight / total * scale;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    #[derive(Clone, Debug)]
    struct Case {
        variant: &'static str,
        logits: Vec<f32>,
        selected: Vec<i32>,
        experts: usize,
        slots: usize,
        renormalise: bool,
        scale: f32,
        jitter: f32,
    }

    impl Case {
        fn run(&self, isa: Isa, step: usize) -> Vec<f32> {
            let mut out = vec![-7.0; self.selected.len()];
            let params = RouterWeightsParams {
                logits: self.logits.as_ptr(),
                selected: self.selected.as_ptr(),
                out: out.as_mut_ptr(),
                tokens: (self.selected.len() / self.slots) as u32,
                experts: self.experts as u32,
                slots: self.slots as u32,
                renormalise: self.renormalise.into(),
                scale: self.scale,
                jitter: self.jitter,
            };
            let blocks = blocks(&params);
            let ranges: Vec<_> = (0..blocks).step_by(step).map(|b| b..(b + step).min(blocks)).collect();
            // SAFETY: the buffers have the sizes the parameters say.
            unsafe { launch(select(self.variant, isa).unwrap(), &params, &ranges, 0) };
            out
        }

        /// The definition for one token, in f64.
        fn expected(&self, logits: &[f32], selected: &[i32]) -> Vec<f64> {
            let near = |max: f32, before: &[i32]| {
                let rivals = logits.iter().enumerate().filter(|(e, _)| !before.contains(&(*e as i32)));
                // In f32, as the models do: a rival at the bound is on the same side.
                let near = rivals.filter(|(_, s)| (max - **s) / s.abs().max(max) <= 2.0 * self.jitter);
                near.map(|(_, s)| f64::from(s - max).exp()).sum::<f64>()
            };
            let softmax: f64 = logits.iter().map(|s| f64::from(*s).exp()).sum();
            let weight = |(slot, expert): (usize, &i32)| {
                let s = usize::try_from(*expert).ok().and_then(|e| logits.get(e));
                s.map_or(0.0, |s| match self.variant {
                    "softmax" => f64::from(*s).exp() / softmax,
                    "sigmoid" => 1.0 / (1.0 + f64::from(-s).exp()),
                    _ => 1.0 / near(*s, &selected[..slot]),
                })
            };
            let weights: Vec<f64> = selected.iter().enumerate().map(weight).collect();
            let total: f64 = if self.renormalise { weights.iter().sum() } else { 1.0 };
            weights.iter().map(|w| if total == 0.0 { 0.0 } else { w / total * f64::from(self.scale) }).collect()
        }
    }

    prop_compose! {
        fn case()(
            variant in prop::sample::select(VARIANTS), experts in 1usize..150, tokens in 0usize..71, part in 0.0..=1.0,
            renormalise: bool, scale in 0.5f32..17.0, jitter in 0.0f32..0.6, wrong in 0usize..4, seed: u64,
        ) -> Case {
            let mut random = Random(seed);
            let logits: Vec<f32> = random.values(tokens * experts).iter().map(|x| 12.0 * x).collect();
            let slots = 1 + (part * (experts.min(9) - 1) as f64) as usize;
            let mut selected = Vec::new();
            for logits in logits.chunks_exact(experts) {
                let mut order: Vec<i32> = (0..experts as i32).collect();
                order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
                selected.extend_from_slice(&order[..slots]);
            }
            if wrong == 0 && let [first, .., last] = &mut selected[..] {
                (*first, *last) = (-1, experts as i32);
            }
            Case { variant, logits, selected, experts, slots, renormalise, scale, jitter }
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn weights_are_those_of_the_definition(case in case()) {
            let got = case.run(Isa::best(), 100);
            let tokens = case.logits.chunks_exact(case.experts).zip(case.selected.chunks_exact(case.slots));
            for ((logits, selected), got) in tokens.zip(got.chunks_exact(case.slots)) {
                for (got, expected) in got.iter().zip(case.expected(logits, selected)) {
                    prop_assert!((f64::from(*got) - expected).abs() <= 3e-6 * expected, "{got}, expected {expected}");
                }
                let alone = Case { logits: logits.to_vec(), selected: selected.to_vec(), ..case.clone() };
                prop_assert_eq!(bits(&alone.run(Isa::best(), 1)), bits(got));
            }
            for &isa in Isa::available() {
                prop_assert_eq!(bits(&case.run(isa, 1)), bits(&got), "{}", isa);
            }
        }
    }

    fn single(variant: &'static str, logits: &[f32], selected: &[i32], renormalise: bool, jitter: f32) -> Vec<f32> {
        let (logits, selected) = (logits.to_vec(), selected.to_vec());
        let (experts, slots) = (logits.len(), selected.len());
        Case { variant, logits, selected, experts, slots, renormalise, scale: 1.0, jitter }.run(Isa::best(), 1)
    }

    #[test]
    fn sparsemixer_weighs_against_near_rivals_only() {
        // 3.9 is within 2% of 4, 3 is not; then 3.9 stands alone.
        let weights = single("sparsemixer", &[3.0, 4.0, 3.98], &[1, 2], false, 0.01);
        assert!((weights[0] - 1.0 / (1.0 + (-0.02f32).exp())).abs() < 1e-6 && weights[1] == 1.0, "{weights:?}");
        assert_eq!(single("sparsemixer", &[0.0, -1.0], &[0, 1], false, 0.01), [1.0, 1.0]);
    }

    #[test]
    fn odd_logits_give_no_surprises() {
        assert_eq!(single("sigmoid", &[-200.0, -300.0], &[0, 1], true, 0.0), [0.0, 0.0]);
        assert_eq!(single("softmax", &[f32::NEG_INFINITY, 2.0], &[1, 0], true, 0.0), [1.0, 0.0]);
        for variant in VARIANTS {
            let weights = single(variant, &[f32::NAN; 3], &[0, 1], true, 0.1);
            assert!(weights.iter().all(|w| w.is_nan()), "{variant} {weights:?}");
        }
    }
}
