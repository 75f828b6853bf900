//! LayerNorm, row by row: `out = (x - mean) · rsqrt(variance + eps) · weight (+ bias)`.
//!
//! Two passes over a row: the squares of centred values do not cancel as `mean(x²) - mean²` would. Both sums are taken in 16
//! lanes, lane = column mod 16, then in a fixed tree: the same bits on every instruction set.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::math::tree_sum;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::LayerNormParams;

/// Rows in a block of the grid.
const BLOCK_ROWS: usize = 8;

/// Blocks of the launch's grid.
pub fn blocks(params: &LayerNormParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// The kernel over [`LayerNormParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<LayerNorm>(isa)
}

struct LayerNorm;

impl Body for LayerNorm {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the rows they state.
        unsafe {
            let p = &*params.cast::<LayerNormParams>();
            let (rows, cols) = (p.rows as usize, p.cols as usize);
            let weight = std::slice::from_raw_parts(p.weight, cols);
            let bias = if p.bias.is_null() { None } else { Some(std::slice::from_raw_parts(p.bias, cols)) };
            for row in blocks.start * BLOCK_ROWS..rows.min(blocks.end * BLOCK_ROWS) {
                let x = std::slice::from_raw_parts(p.x.add(row * cols), cols);
                let out = std::slice::from_raw_parts_mut(p.out.add(row * cols), cols);
                normalise(x, weight, bias, p.eps, out);
            }
        }
    }
}

/// One row, of as many columns as `weight` has.
#[inline(always)]
pub(super) fn normalise(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let cols = x.len();
    let mean = sum(x) / cols as f32;
    let scale = 1.0 / (centred_square_sum(x, mean) / cols as f32 + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = (x - mean) * scale * w;
    }
    if let Some(bias) = bias {
        // No closure: it would not inherit the instruction set.
        for (out, b) in out.iter_mut().zip(bias) {
            *out += b;
        }
    }
}

/// Σ x.
#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += chunk[l];
        }
    }
    lanes.iter_mut().zip(tail).for_each(|(lane, x)| *lane += x);
    tree_sum(lanes)
}

/// Σ (x - mean)².
#[inline(always)]
fn centred_square_sum(x: &[f32], mean: f32) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            let centred = chunk[l] - mean;
            lanes[l] = centred.mul_add(centred, lanes[l]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane = (x - mean).mul_add(x - mean, *lane);
    }
    tree_sum(lanes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    /// Executes the launch `step` blocks at a time.
    fn run(isa: Isa, x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, step: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len()];
        let (rows, cols) = ((x.len() / weight.len()) as u32, weight.len() as u32);
        let (x, weight, bias) = (x.as_ptr(), weight.as_ptr(), bias.map_or(std::ptr::null(), <[f32]>::as_ptr));
        let params = LayerNormParams { x, weight, bias, out: out.as_mut_ptr(), rows, cols, eps, reserved: 0 };
        let blocks = blocks(&params);
        let ranges: Vec<_> = (0..blocks).step_by(step).map(|b| b..(b + step).min(blocks)).collect();
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(select(isa).unwrap(), &params, &ranges, 0) };
        out
    }

    /// The definition in f64, and what centred values are multiplied by.
    fn expected(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) -> (Vec<f64>, f64) {
        let exact: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let mean = exact.iter().sum::<f64>() / x.len() as f64;
        let variance = exact.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        let shift = |i: usize| bias.map_or(0.0, |b| f64::from(b[i]));
        let rows = exact.iter().zip(weight).enumerate();
        (rows.map(|(i, (x, w))| (x - mean) * scale * f64::from(*w) + shift(i)).collect(), scale)
    }

    proptest! {
        #[test]
        fn rows_are_normalised(
            rows in 1usize..40, cols in 1usize..130, shift in -5f32..5.0, biased: bool, seed: u64,
        ) {
            let mut random = Random(seed);
            let x: Vec<f32> = random.values(rows * cols).into_iter().map(|x| x + shift).collect();
            let (weight, bias, eps) = (random.values(cols), random.values(cols), 1e-5f32);
            let bias = biased.then_some(bias.as_slice());
            let out = run(Isa::best(), &x, &weight, bias, eps, rows);
            for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact(cols)) {
                // The mean is rounded to the precision of the values, and the scale magnifies that.
                let (expected, scale) = expected(x, &weight, bias, eps);
                let tolerance = 2e-6 * (1.0 + scale * f64::from(shift.abs() + 1.0));
                for (out, expected) in out.iter().zip(expected) {
                    prop_assert!((f64::from(*out) - expected).abs() < tolerance, "{out} {expected}");
                }
            }
            let bits = |out: &[f32]| out.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            for &isa in Isa::available() {
                prop_assert_eq!(bits(&run(isa, &x, &weight, bias, eps, 1)), bits(&out), "{}", isa);
                for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact(cols)) {
                    prop_assert_eq!(bits(&run(isa, x, &weight, bias, eps, 1)), bits(out), "{} alone", isa);
                }
            }
        }
    }
}
