//! The experts of greatest score of each token, best first; among equals the lower index first.
//!
//! The parameters are [`RouterParams`]. Variants: `softmax` and `sparsemixer`, whose score is the logit, and `sigmoid`, whose
//! score is `1 / (1 + e^-logit)` plus the expert's bias. A score and its expert become one integer that orders as they
//! do, so no two are equal, the next best is the greatest below the last, and a NaN, which comes after all numbers, is
//! no special case. With groups of neighbouring experts, only experts of the best `top_groups` groups take part; a group
//! scores its best expert, or for `sigmoid` the sum of its best two. Where no expert is left the result is -1.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::math;
use super::simd::{self, Body, Simd};
use crate::abi::RouterParams;

/// The variants.
pub const VARIANTS: &[&str] = &["softmax", "sigmoid", "sparsemixer"];

/// Tokens in a block of the grid.
const BLOCK_TOKENS: usize = 8;

/// The rank of an expert that takes no part.
const EXCLUDED: u64 = 0;

/// Above every rank.
const HIGHEST: u64 = u64::MAX;

/// Blocks of the launch's grid.
pub fn blocks(params: &RouterParams) -> usize {
    (params.tokens as usize).div_ceil(BLOCK_TOKENS)
}

/// Bytes of scratch memory: a rank for each expert and group, of which there are no more.
pub fn scratch_bytes(params: &RouterParams) -> usize {
    2 * params.experts as usize * size_of::<u64>()
}

/// The kernel over [`RouterParams`]; `None` if there is no such variant or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "softmax" | "sparsemixer" => simd::select::<Router<false>>(isa),
        "sigmoid" => simd::select::<Router<true>>(isa),
        _ => None,
    }
}

struct Router<const SIGMOID: bool>;

impl<const SIGMOID: bool> Body for Router<SIGMOID> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the counts they state; any bits are a number.
        unsafe {
            let p = &*params.cast::<RouterParams>();
            let (experts, slots) = (p.experts as usize, p.slots as usize);
            let (_, ranks, _) = scratch.align_to_mut::<u64>();
            let bias = (!p.bias.is_null()).then(|| std::slice::from_raw_parts(p.bias, experts));
            for token in blocks.start * BLOCK_TOKENS..(p.tokens as usize).min(blocks.end * BLOCK_TOKENS) {
                let logits = std::slice::from_raw_parts(p.logits.add(token * experts), experts);
                let out = std::slice::from_raw_parts_mut(p.out.add(token * slots), slots);
                select_experts::<SIGMOID>(logits, bias, (p.groups, p.top_groups), ranks, out);
            }
        }
    }
}

/// The best experts of one token; `ranks` holds two numbers an expert.
#[inline(always)]
pub(super) fn select_experts<const SIGMOID: bool>(
    logits: &[f32],
    bias: Option<&[f32]>,
    (groups, top_groups): (u32, u32),
    ranks: &mut [u64],
    out: &mut [i32],
) {
    let (ranks, group_ranks) = ranks[..2 * logits.len()].split_at_mut(logits.len());
    rank_experts::<SIGMOID>(logits, bias, ranks);
    if groups > 1 {
        exclude_groups::<SIGMOID>(ranks, group_ranks, groups as usize, top_groups as usize);
    }
    write_best(ranks, out);
}

/// The rank of an expert or group of this score.
#[inline(always)]
fn rank(score: f32, index: usize) -> u64 {
    // Both zeros are the positive one.
    let bits = (score + 0.0).to_bits();
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    let ordered = if score.is_nan() { 1 } else { ordered };
    u64::from(ordered) << 32 | u64::from(u32::MAX - index as u32)
}

/// The index of a rank.
#[inline(always)]
fn index(rank: u64) -> usize {
    (u32::MAX - rank as u32) as usize
}

/// The score of a rank; NaN of those that take no part.
#[inline(always)]
fn score(rank: u64) -> f32 {
    match (rank >> 32) as u32 {
        0 | 1 => f32::NAN,
        ordered if ordered >> 31 == 0 => f32::from_bits(!ordered),
        ordered => f32::from_bits(ordered ^ 1 << 31),
    }
}

/// The greatest rank below `bound`.
#[inline(always)]
fn best_below(ranks: &[u64], bound: u64) -> u64 {
    let mut best = EXCLUDED;
    for &rank in ranks {
        let rank = if rank < bound { rank } else { EXCLUDED };
        best = if rank > best { rank } else { best };
    }
    best
}

#[inline(always)]
fn rank_experts<const SIGMOID: bool>(logits: &[f32], bias: Option<&[f32]>, ranks: &mut [u64]) {
    for (e, (rank_of, &logit)) in ranks.iter_mut().zip(logits).enumerate() {
        let score = if SIGMOID { math::sigmoid(logit) } else { logit };
        let bias = match bias {
            Some(bias) if SIGMOID => bias[e],
            _ => 0.0,
        };
        *rank_of = rank(score + bias, e);
    }
}

/// Takes the experts of all but the best groups out; a remainder that makes no group takes no part either.
#[inline(always)]
fn exclude_groups<const SIGMOID: bool>(ranks: &mut [u64], group_ranks: &mut [u64], groups: usize, top_groups: usize) {
    let size = (ranks.len() / groups).max(1);
    let groups = ranks.len() / size;
    for (g, (rank_of, group)) in group_ranks.iter_mut().zip(ranks.chunks_exact(size)).enumerate() {
        let first = best_below(group, HIGHEST);
        let best = score(first);
        *rank_of = rank(if SIGMOID && size > 1 { best + score(best_below(group, first)) } else { best }, g);
    }
    let group_ranks = &group_ranks[..groups];
    let mut last = HIGHEST;
    for _ in 0..top_groups.min(groups) {
        last = best_below(group_ranks, last);
    }
    for (group, &rank) in ranks.chunks_exact_mut(size).zip(group_ranks) {
        if rank < last {
            group.fill(EXCLUDED);
        }
    }
    ranks[groups * size..].fill(EXCLUDED);
}

#[inline(always)]
fn write_best(ranks: &[u64], out: &mut [i32]) {
    let mut last = HIGHEST;
    for out in out {
        last = best_below(ranks, last);
        *out = if last == EXCLUDED { -1 } else { index(last) as i32 };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    /// A router and its logits, `[tokens, experts]`.
    #[derive(Clone, Debug)]
    struct Case {
        variant: &'static str,
        logits: Vec<f32>,
        bias: Option<Vec<f32>>,
        experts: usize,
        slots: usize,
        groups: usize,
        top_groups: usize,
    }

    impl Case {
        fn run(&self, isa: Isa, step: usize) -> Vec<i32> {
            let tokens = self.logits.len() / self.experts;
            let mut out = vec![-7; tokens * self.slots];
            let params = RouterParams {
                logits: self.logits.as_ptr(),
                bias: self.bias.as_ref().map_or(std::ptr::null(), |bias| bias.as_ptr()),
                out: out.as_mut_ptr(),
                tokens: tokens as u32,
                experts: self.experts as u32,
                slots: self.slots as u32,
                groups: self.groups as u32,
                top_groups: self.top_groups as u32,
                reserved: 0,
            };
            let blocks = blocks(&params);
            let ranges: Vec<_> = (0..blocks).step_by(step).map(|b| b..(b + step).min(blocks)).collect();
            // SAFETY: the buffers have the sizes the parameters say.
            unsafe { launch(select(self.variant, isa).unwrap(), &params, &ranges, scratch_bytes(&params)) };
            out
        }

        fn scores(&self, logits: &[f32]) -> Vec<f32> {
            let bias = |e: usize| self.bias.as_ref().map_or(0.0, |bias| bias[e]);
            let sigmoid = |(e, s): (usize, &f32)| math::sigmoid(*s) + bias(e);
            match self.variant {
                "sigmoid" => logits.iter().enumerate().map(sigmoid).collect(),
                _ => logits.to_vec(),
            }
        }

        /// The definition, by sorting.
        fn expected(&self, logits: &[f32]) -> Vec<i32> {
            let scores = self.scores(logits);
            let size = self.experts / self.groups;
            let group_score = |group: &[f32]| {
                let order = sorted(group);
                let best = |i: usize| group[order[i]];
                if self.variant == "sigmoid" && size > 1 { best(0) + best(1) } else { best(0) }
            };
            let groups = sorted(&scores.chunks_exact(size).map(group_score).collect::<Vec<_>>());
            let groups = if self.groups > 1 { &groups[..self.top_groups] } else { &groups[..] };
            let candidates = sorted(&scores).into_iter().filter(|e| groups.contains(&(e / size)));
            candidates.map(|e| e as i32).chain(std::iter::repeat(-1)).take(self.slots).collect()
        }
    }

    /// Indexes by falling score, a stable sort, NaNs last.
    fn sorted(scores: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| {
            let nans = scores[a].is_nan().cmp(&scores[b].is_nan());
            nans.then(scores[b].partial_cmp(&scores[a]).unwrap_or(std::cmp::Ordering::Equal))
        });
        order
    }

    /// A logit: of few values, so that many are equal, or of any.
    fn logit(random: &mut Random, kind: u8) -> f32 {
        const SPECIAL: [f32; 8] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1.0, 100.0, -100.0];
        match kind {
            0 => (random.bits() % 4) as f32 - 1.5,
            1 => SPECIAL[(random.bits() % 8) as usize],
            _ => 20.0 * random.value(),
        }
    }

    prop_compose! {
        fn case()(
            variant in prop::sample::select(VARIANTS), groups in 1usize..6, size in 1usize..30, tokens in 0usize..71,
            part in 0.0..=1.0, top in 0.0..1.0, has_bias: bool, kind in 0u8..3, seed: u64,
        ) -> Case {
            let experts = groups * size;
            let mut random = Random(seed);
            let logits = (0..tokens * experts).map(|_| logit(&mut random, kind)).collect();
            // Experts may run out where groups are left out.
            let slots = 1 + (part * (experts - 1) as f64) as usize;
            let top_groups = 1 + (top * groups as f64) as usize;
            Case { variant, logits, bias: has_bias.then(|| random.values(experts)), experts, slots, groups, top_groups }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn selected_are_the_experts_of_the_definition(case in case()) {
            let expected: Vec<i32> = case.logits.chunks_exact(case.experts).flat_map(|l| case.expected(l)).collect();
            for &isa in Isa::available() {
                prop_assert_eq!(&case.run(isa, 1), &expected, "{}", isa);
                prop_assert_eq!(&case.run(isa, 100), &expected, "{}", isa);
            }
            for (t, logits) in case.logits.chunks_exact(case.experts).enumerate().take(3) {
                let alone = Case { logits: logits.to_vec(), ..case.clone() }.run(Isa::best(), 1);
                prop_assert_eq!(&alone, &expected[t * case.slots..][..case.slots]);
            }
        }
    }

    #[test]
    fn ranks_order_as_scores_and_hold_them() {
        let scores = [f32::INFINITY, f32::MAX, 1.0, 1e-40, 0.0, -1e-40, -1.0, f32::MIN, f32::NEG_INFINITY, f32::NAN];
        for (a, b) in scores.iter().zip(&scores[1..]) {
            assert!(rank(*a, 9) > rank(*b, 3), "{a} {b}");
            assert!(rank(*a, 3) > rank(*a, 9));
            assert_eq!((score(rank(*a, 5)), index(rank(*a, 5))), (*a, 5));
        }
        assert_eq!(rank(0.0, 4), rank(-0.0, 4));
        assert!(score(rank(f32::NAN, 0)).is_nan() && rank(f32::NAN, u32::MAX as usize) > EXCLUDED);
    }
}
