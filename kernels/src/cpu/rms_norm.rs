//! RMSNorm, row by row: `out = x · rsqrt(mean(x²) + eps) · weight`.
//!
//! Squares are summed in 16 lanes, lane = column mod 16, then in a fixed tree: the same bits on every instruction set.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::math::tree_sum;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::RmsNormParams;

/// Rows in a block of the grid.
const BLOCK_ROWS: usize = 8;

/// Blocks of the launch's grid.
pub fn blocks(params: &RmsNormParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// The kernel over [`RmsNormParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<RmsNorm>(isa)
}

struct RmsNorm;

impl Body for RmsNorm {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the rows they state.
        unsafe {
            let p = &*params.cast::<RmsNormParams>();
            let (rows, cols) = (p.rows as usize, p.cols as usize);
            let weight = std::slice::from_raw_parts(p.weight, cols);
            for row in blocks.start * BLOCK_ROWS..rows.min(blocks.end * BLOCK_ROWS) {
                let x = std::slice::from_raw_parts(p.x.add(row * cols), cols);
                let scale = 1.0 / (square_sum::<S>(x) / cols as f32 + p.eps).sqrt();
                let out = std::slice::from_raw_parts_mut(p.out.add(row * cols), cols);
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * scale * w;
                }
            }
        }
    }
}

/// Σ x².
///
/// # Safety
/// Needs the instruction set `S`.
#[inline(always)]
unsafe fn square_sum<S: Simd>(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut last = [0f32; LANES];
    last[..tail.len()].copy_from_slice(tail);
    // SAFETY: the caller has the instruction set; pointers are to arrays of 16.
    unsafe {
        let mut sum = S::zero();
        for chunk in chunks.iter().chain([&last]) {
            let v = S::load(chunk.as_ptr());
            sum = S::fma(v, v, sum);
        }
        let mut lanes = [0f32; LANES];
        S::store(lanes.as_mut_ptr(), sum);
        tree_sum(lanes)
    }
}
