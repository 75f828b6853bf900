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
                let out = std::slice::from_raw_parts_mut(p.out.add(row * cols), cols);
                normalise::<S>(x, weight, p.eps, out);
            }
        }
    }
}

/// One row, of as many columns as `weight` has.
///
/// # Safety
/// Needs the instruction set `S`.
#[inline(always)]
pub(super) unsafe fn normalise<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    // SAFETY: passed on.
    let scale = unsafe { reciprocal_rms::<S>(x, eps) };
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

/// What a row is multiplied by: 1 / √(mean(x²) + eps).
///
/// # Safety
/// Needs the instruction set `S`.
#[inline(always)]
pub(super) unsafe fn reciprocal_rms<S: Simd>(x: &[f32], eps: f32) -> f32 {
    // SAFETY: passed on.
    1.0 / (unsafe { square_sum::<S>(x) } / x.len() as f32 + eps).sqrt()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    /// Executes the launch `step` blocks at a time.
    fn run(isa: Isa, x: &[f32], weight: &[f32], eps: f32, step: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len()];
        let (rows, cols) = ((x.len() / weight.len()) as u32, weight.len() as u32);
        let (x, weight) = (x.as_ptr(), weight.as_ptr());
        let params = RmsNormParams { x, weight, out: out.as_mut_ptr(), rows, cols, eps, reserved: 0 };
        let blocks = blocks(&params);
        let ranges: Vec<_> = (0..blocks).step_by(step).map(|b| b..(b + step).min(blocks)).collect();
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(select(isa).unwrap(), &params, &ranges, 0) };
        out
    }

    proptest! {
        #[test]
        fn rows_are_normalised(rows in 1usize..40, cols in 1usize..130, exponent in -12i32..12, seed: u64) {
            let mut random = Random(seed);
            let magnitude = 10f32.powi(exponent);
            let x: Vec<f32> = random.values(rows * cols).into_iter().map(|x| x * magnitude).collect();
            let (weight, eps) = (random.values(cols), 1e-6f32);
            let out = run(Isa::best(), &x, &weight, eps, rows);
            for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact(cols)) {
                let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / cols as f64;
                let scale = 1.0 / (mean + f64::from(eps)).sqrt();
                for ((x, w), out) in x.iter().zip(&weight).zip(out) {
                    let expected = f64::from(*x) * scale * f64::from(*w);
                    prop_assert!((f64::from(*out) - expected).abs() <= 1e-6 * expected.abs() + 1e-30);
                }
            }
            let bits = |out: &[f32]| out.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            for &isa in Isa::available() {
                prop_assert_eq!(bits(&run(isa, &x, &weight, eps, 1)), bits(&out), "{}", isa);
                for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact(cols)) {
                    prop_assert_eq!(bits(&run(isa, x, &weight, eps, 1)), bits(out), "{} alone", isa);
                }
            }
        }
    }
}
