//! Router logits in parts: for each panel of 16 columns its share of `Σ x · norm · w[e]`, which [`finish_logits`](super::finish_logits)
//! adds up.
//!
//! The router is packed like any matrix of a product, lane = expert, in the float type that the variant names: routers are
//! never quantised.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::matmul::weights::{BF16, Columns, F16, F32, Floats};
use super::panel_sums::{Router, load};
use super::simd::{self, Body, LANES, Simd};
use crate::abi::ColumnPartialsParams;

/// Panels in a block of the grid, of one token.
const BLOCK_PANELS: usize = 16;

/// Types of the router, by variant name.
pub const VARIANTS: &[&str] = &["f32", "f16", "bf16"];

/// Blocks of the launch's grid.
pub fn blocks(params: &ColumnPartialsParams) -> usize {
    params.tokens as usize * (params.cols as usize).div_ceil(BLOCK_PANELS * LANES)
}

/// The kernel of a variant over [`ColumnPartialsParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "f32" => simd::select::<ColumnPartials<Floats<F32>>>(isa),
        "f16" => simd::select::<ColumnPartials<Floats<F16>>>(isa),
        "bf16" => simd::select::<ColumnPartials<Floats<BF16>>>(isa),
        _ => None,
    }
}

struct ColumnPartials<W>(PhantomData<W>);

impl<W: Columns> Body for ColumnPartials<W> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the counts they state.
        unsafe {
            let p = &*params.cast::<ColumnPartialsParams>();
            let (cols, experts) = (p.cols as usize, p.experts as usize);
            let router = Router { norm: p.norm, w: p.w.cast(), experts, cols };
            let panels = cols.div_ceil(LANES);
            let per_token = panels.div_ceil(BLOCK_PANELS);
            for block in blocks {
                let (token, start) = (block / per_token, block % per_token * BLOCK_PANELS);
                for panel in start..panels.min(start + BLOCK_PANELS) {
                    let first = panel * LANES;
                    let x = load(p.x.add(token * cols + first), LANES.min(cols - first));
                    router.partials::<S, W>(&x, panel, p.out.add((token * panels + panel) * experts));
                }
            }
        }
    }
}
