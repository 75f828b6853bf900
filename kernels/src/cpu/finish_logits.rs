//! Router logits from their parts: `out[t, e] = rsqrt(Σ squares[t] / width + eps) · Σ_p partials[t, p, e] (+ bias[e])`.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::panel_sums;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::FinishLogitsParams;

/// Blocks of the launch's grid: one a token.
pub fn blocks(params: &FinishLogitsParams) -> usize {
    params.tokens as usize
}

/// The kernel over [`FinishLogitsParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<FinishLogits>(isa)
}

struct FinishLogits;

impl Body for FinishLogits {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the counts they state.
        unsafe {
            let p = &*params.cast::<FinishLogitsParams>();
            let (experts, width) = (p.experts as usize, p.width as usize);
            let panels = width.div_ceil(LANES);
            for token in blocks {
                let squares = std::slice::from_raw_parts(p.squares.add(token * panels), panels);
                let partials = p.partials.add(token * panels * experts);
                let out = std::slice::from_raw_parts_mut(p.out.add(token * experts), experts);
                panel_sums::finish_logits(partials, squares, p.bias, width, p.eps, out);
            }
        }
    }
}
