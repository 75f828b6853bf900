//! The selected experts of each token and their weights, in one launch: `router` and `router_weights`, and before them
//! `finish_logits` where logits are given by their partial sums.
//!
//! The parameters are [`RouteParams`]; the functions, and so the bits, are those kernels'. A launch that needs the selection for
//! itself calls this body over all tokens.

use std::ffi::c_void;
use std::ops::Range;

use super::isa::Isa;
use super::panel_sums::finish_logits;
use super::router::select_experts;
use super::router_weights::{SIGMOID, SOFTMAX, SPARSEMIXER, weigh_experts};
use super::simd::{self, Body, LANES, Simd};
use super::{CpuKernel, SCRATCH_ALIGN};
use crate::abi::RouteParams;

/// The variants.
pub const VARIANTS: &[&str] = super::router::VARIANTS;

/// Tokens in a block of the grid.
const BLOCK_TOKENS: usize = 8;

/// Blocks of the launch's grid.
pub fn blocks(params: &RouteParams) -> usize {
    (params.tokens as usize).div_ceil(BLOCK_TOKENS)
}

/// Bytes of scratch memory: the ranks of one token's experts and groups, and its logits.
pub fn scratch_bytes(params: &RouteParams) -> usize {
    (params.experts as usize * (2 * size_of::<u64>() + size_of::<f32>())).next_multiple_of(SCRATCH_ALIGN)
}

/// The kernel over [`RouteParams`]; `None` if there is no such variant or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "softmax" => simd::select::<Route<SOFTMAX>>(isa),
        "sigmoid" => simd::select::<Route<SIGMOID>>(isa),
        "sparsemixer" => simd::select::<Route<SPARSEMIXER>>(isa),
        _ => None,
    }
}

/// The launch on an instruction set, of the scoring of that number: 0 softmax, 1 sigmoid, otherwise sparsemixer.
pub(super) fn of_scoring<S: Simd>(scoring: u32) -> CpuKernel {
    match scoring {
        0 => S::call::<Route<SOFTMAX>>,
        1 => S::call::<Route<SIGMOID>>,
        _ => S::call::<Route<SPARSEMIXER>>,
    }
}

struct Route<const SCORING: u8>;

impl<const SCORING: u8> Body for Route<SCORING> {
    /// Without `weights` selects alone.
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the counts they state; any bits are a number.
        unsafe {
            let p = &*params.cast::<RouteParams>();
            let (experts, slots) = (p.experts as usize, p.slots as usize);
            let (ranks, rest) = scratch.split_at_mut(2 * experts * size_of::<u64>());
            let (ranks, finished) = (ranks.align_to_mut::<u64>().1, rest.align_to_mut::<f32>().1);
            let bias = if p.bias.is_null() { None } else { Some(std::slice::from_raw_parts(p.bias, experts)) };
            for token in blocks.start * BLOCK_TOKENS..(p.tokens as usize).min(blocks.end * BLOCK_TOKENS) {
                let logits = logits(p, token, &mut finished[..experts]);
                let selected = std::slice::from_raw_parts_mut(p.selected.add(token * slots), slots);
                if SCORING == SIGMOID {
                    select_experts::<true>(logits, bias, (p.groups, p.top_groups), ranks, selected);
                } else {
                    select_experts::<false>(logits, bias, (p.groups, p.top_groups), ranks, selected);
                }
                if !p.weights.is_null() {
                    let out = std::slice::from_raw_parts_mut(p.weights.add(token * slots), slots);
                    weigh_experts::<SCORING>(logits, selected, p.jitter, (p.renormalise != 0, p.scale), out);
                }
            }
        }
    }
}

/// The logits of a token: as they are, or made of their partial sums.
///
/// # Safety
/// The parameters must be valid.
#[inline(always)]
unsafe fn logits<'a>(p: &RouteParams, token: usize, finished: &'a mut [f32]) -> &'a [f32] {
    let (experts, width) = (finished.len(), p.width as usize);
    // SAFETY: the caller's.
    unsafe {
        if !p.logits.is_null() {
            return std::slice::from_raw_parts(p.logits.add(token * experts), experts);
        }
        let panels = width.div_ceil(LANES);
        let squares = std::slice::from_raw_parts(p.squares.add(token * panels), panels);
        finish_logits(p.partials.add(token * panels * experts), squares, p.logits_bias, width, p.eps, finished);
    }
    finished
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::abi::{FinishLogitsParams, RouterParams, RouterWeightsParams};
    use crate::cpu::matmul::testing::{Random, execute, pointer};

    /// A launch and what its pointers point to.
    #[derive(Debug)]
    struct Case {
        variant: &'static str,
        params: RouteParams,
        logits: Option<Vec<f32>>,
        partials: Vec<f32>,
        squares: Vec<f32>,
        logits_bias: Option<Vec<f32>>,
        bias: Option<Vec<f32>>,
    }

    fn case() -> impl Strategy<Value = Case> {
        let counts = (0u32..71, 1u32..80, 1u32..9, 1u32..5, 1u32..4, 1u32..200);
        (prop::sample::select(VARIANTS), counts, any::<[bool; 4]>(), any::<u64>()).prop_map(
            |(
                variant,
                (tokens, experts, slots, groups, top_groups, width),
                [given, biased, corrected, renormalise],
                seed,
            )| {
                let mut random = Random(seed);
                let panels = width.div_ceil(16);
                let mut values = |count: u32| random.values(count as usize);
                let squares = values(tokens * panels).into_iter().map(f32::abs).collect();
                let logits = given.then(|| values(tokens * experts).into_iter().map(|x| 4.0 * x).collect());
                let partials = if given { Vec::new() } else { values(tokens * panels * experts) };
                let logits_bias = (biased && !given).then(|| values(experts));
                let bias = corrected.then(|| values(experts));
                let params = RouteParams {
                    tokens,
                    experts,
                    slots,
                    groups,
                    top_groups,
                    width,
                    renormalise: renormalise.into(),
                    eps: 1e-5,
                    scale: 1.5,
                    jitter: 0.1,
                    ..RouteParams::default()
                };
                Case { variant, params, logits, partials, squares, logits_bias, bias }
            },
        )
    }

    impl Case {
        fn pairs(&self) -> usize {
            (self.params.tokens * self.params.slots) as usize
        }

        fn run(&self, isa: Isa, step: usize) -> (Vec<i32>, Vec<u32>) {
            let (mut selected, mut weights) = (vec![-9; self.pairs()], vec![f32::NAN; self.pairs()]);
            let params = RouteParams {
                logits: pointer(&self.logits),
                partials: self.partials.as_ptr(),
                squares: self.squares.as_ptr(),
                logits_bias: pointer(&self.logits_bias),
                bias: pointer(&self.bias),
                selected: selected.as_mut_ptr(),
                weights: weights.as_mut_ptr(),
                ..self.params
            };
            // SAFETY: the buffers have the sizes the parameters say.
            unsafe { execute("route", self.variant, isa, &params, step) };
            (selected, weights.iter().map(|w| w.to_bits()).collect())
        }

        /// The same by the kernels this one stands for.
        fn chain(&self, isa: Isa) -> (Vec<i32>, Vec<u32>) {
            let RouteParams {
                tokens, experts, slots, groups, top_groups, renormalise, width, eps, scale, jitter, ..
            } = self.params;
            let mut logits = vec![f32::NAN; (tokens * experts) as usize];
            let (mut selected, mut weights) = (vec![-9; self.pairs()], vec![f32::NAN; self.pairs()]);
            let finish = FinishLogitsParams {
                partials: self.partials.as_ptr(),
                squares: self.squares.as_ptr(),
                bias: pointer(&self.logits_bias),
                out: logits.as_mut_ptr(),
                tokens,
                experts,
                width,
                eps,
            };
            match &self.logits {
                Some(given) => logits.copy_from_slice(given),
                // SAFETY: the buffers have the sizes the parameters say.
                None => unsafe { execute("finish_logits", "", isa, &finish, 1) },
            }
            let router = RouterParams {
                logits: logits.as_ptr(),
                bias: pointer(&self.bias),
                out: selected.as_mut_ptr(),
                tokens,
                experts,
                slots,
                groups,
                top_groups,
                reserved: 0,
            };
            let factors = RouterWeightsParams {
                logits: logits.as_ptr(),
                selected: selected.as_ptr(),
                out: weights.as_mut_ptr(),
                tokens,
                experts,
                slots,
                renormalise,
                scale,
                jitter,
            };
            // SAFETY: as above.
            unsafe {
                execute("router", self.variant, isa, &router, 1);
                execute("router_weights", self.variant, isa, &factors, 1);
            }
            (selected, weights.iter().map(|w| w.to_bits()).collect())
        }
    }

    proptest! {
        #[test]
        fn bits_are_those_of_the_chain(case in case()) {
            let expected = case.chain(Isa::best());
            for &isa in Isa::available() {
                for step in [1, 100] {
                    prop_assert_eq!(case.run(isa, step), expected.clone(), "{} {}", isa, case.variant);
                }
            }
        }
    }
}
