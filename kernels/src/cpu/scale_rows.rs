//! Rows by the reciprocal root mean square of the input they are a product of: `out = y · rsqrt(Σ squares / width + eps) (+ bias)`.
//!
//! The scale of an RMSNorm commutes with a product; taken after it, the product need not wait for the norm.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::panel_sums::{load, reciprocal_rms, store};
use super::simd::{self, Body, LANES, Simd};
use crate::abi::ScaleRowsParams;

/// Blocks of the launch's grid: one a token.
pub fn blocks(params: &ScaleRowsParams) -> usize {
    params.tokens as usize
}

/// The kernel over [`ScaleRowsParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<ScaleRows>(isa)
}

struct ScaleRows;

impl Body for ScaleRows {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the rows they state.
        unsafe {
            let p = &*params.cast::<ScaleRowsParams>();
            let (slots, cols, width) = (p.slots as usize, p.cols as usize, p.width as usize);
            let panels = width.div_ceil(LANES);
            for token in blocks {
                let squares = std::slice::from_raw_parts(p.squares.add(token * panels), panels);
                let scale = reciprocal_rms(squares, width, p.eps);
                for row in token * slots..(token + 1) * slots {
                    scale_row(p.y.add(row * cols), scale, p.bias, cols, p.out.add(row * cols));
                }
            }
        }
    }
}

/// One row: the product with `scale` is rounded before the bias, which may be null, is added. `out` may be `y`.
///
/// # Safety
/// All are valid for `cols` columns.
#[inline(always)]
pub(super) unsafe fn scale_row(y: *const f32, scale: f32, bias: *const f32, cols: usize, out: *mut f32) {
    for first in (0..cols).step_by(LANES) {
        let count = LANES.min(cols - first);
        // SAFETY: as the caller says.
        unsafe {
            let mut y = load(y.add(first), count);
            for lane in &mut y {
                *lane *= scale;
            }
            if !bias.is_null() {
                let bias = load(bias.add(first), count);
                for l in 0..LANES {
                    y[l] += bias[l];
                }
            }
            store(y, out.add(first), count);
        }
    }
}
