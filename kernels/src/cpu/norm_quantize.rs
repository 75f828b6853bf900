//! A norm and the rounding of its result in one pass: the normalised row stays in scratch memory.
//!
//! The parameters are [`NormQuantizeParams`]; the variant says how it rounds, as that of `quantize_rows`. Bits are those of the norm's kernel and then
//! `quantize_rows`.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::matmul::prologue::{Norm, Rounding, normalise};
use super::simd::{self, Body, Simd};
use crate::abi::NormQuantizeParams;

/// Rows in a block of the grid.
const BLOCK_ROWS: usize = 4;

/// How to round, by variant name.
pub const VARIANTS: &[&str] = super::quantize_rows::VARIANTS;

/// The kernel of a variant; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match Rounding::from_word(variant)? {
        Rounding::None => None,
        Rounding::Block => simd::select::<NormQuantize<1>>(isa),
        Rounding::Row => simd::select::<NormQuantize<2>>(isa),
        Rounding::Half => simd::select::<NormQuantize<3>>(isa),
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

/// Rounds as [`Rounding::from_number`] says.
struct NormQuantize<const ROUNDING: u8>;

impl<const ROUNDING: u8> Body for NormQuantize<ROUNDING> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes valid parameters and aligned scratch memory for a row; a row is written by its block alone.
        unsafe {
            let p = &*params.cast::<NormQuantizeParams>();
            let (rows, cols) = (p.rows as usize, p.cols as usize);
            let norm = Norm { kind: p.norm, weight: p.weight, bias: p.bias, eps: p.eps };
            let normed = scratch.as_mut_ptr().cast::<f32>();
            let rounding = Rounding::from_number(ROUNDING);
            let row_bytes = rounding.row_bytes(cols);
            for row in blocks.start * BLOCK_ROWS..rows.min(blocks.end * BLOCK_ROWS) {
                normalise::<S>(p.x.add(row * cols), &norm, normed, cols);
                rounding.apply::<S>(normed, cols, p.out.cast::<u8>().add(row * row_bytes));
            }
        }
    }
}
