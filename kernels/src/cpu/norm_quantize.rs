//! A norm and the rounding of its result to q8x32 in one pass: the normalised row stays in scratch memory.
//!
//! The parameters are [`NormQuantizeParams`]; the variant says what shares a scale. Bits are those of the norm's kernel and then
//! `quantize_rows`.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::matmul::prologue::{Norm, normalise};
use super::quantize_rows::quantize;
use super::simd::{self, Body, Simd};
use crate::abi::NormQuantizeParams;

/// Rows in a block of the grid.
const BLOCK_ROWS: usize = 4;

/// What shares a scale, by variant name.
pub const VARIANTS: &[&str] = super::quantize_rows::VARIANTS;

/// The kernel of a variant; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "block" => simd::select::<NormQuantize<false>>(isa),
        "row" => simd::select::<NormQuantize<true>>(isa),
        _ => None,
    }
}

/// Blocks of the launch's grid.
pub fn blocks(params: &NormQuantizeParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// Bytes of scratch memory: a normalised row.
pub fn scratch_bytes(params: &NormQuantizeParams) -> usize {
    params.cols as usize * size_of::<f32>()
}

/// With `SHARED`, one scale a row.
struct NormQuantize<const SHARED: bool>;

impl<const SHARED: bool> Body for NormQuantize<SHARED> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes valid parameters and aligned scratch memory for a row; a row is written by its block alone.
        unsafe {
            let p = &*params.cast::<NormQuantizeParams>();
            let (rows, cols) = (p.rows as usize, p.cols as usize);
            let norm = Norm { kind: p.norm, weight: p.weight, bias: p.bias, eps: p.eps };
            let normed = scratch.as_mut_ptr().cast::<f32>();
            let row_bytes = super::matmul::integer_row_bytes(cols);
            for row in blocks.start * BLOCK_ROWS..rows.min(blocks.end * BLOCK_ROWS) {
                normalise::<S>(p.x.add(row * cols), &norm, normed, cols);
                quantize::<S, SHARED>(normed, cols, p.out.cast::<u8>().add(row * row_bytes));
            }
        }
    }
}
