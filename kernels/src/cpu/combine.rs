//! The experts' results, weighted and added: `out[t, n] = Σ_j weights[t, j] · y[t, j, n]`.
//!
//! The parameters are [`CombineParams`]. Every element starts at 0 and takes one fused multiply-add a slot, in the order of
//! slots: the same bits on every instruction set.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::simd::{self, Body, Simd};
use crate::abi::CombineParams;

/// Columns in a block of the grid, of one token.
const BLOCK_COLS: usize = 1024;

/// Blocks of the launch's grid.
pub fn blocks(params: &CombineParams) -> usize {
    params.tokens as usize * (params.cols as usize).div_ceil(BLOCK_COLS)
}

/// The kernel over [`CombineParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<Combine>(isa)
}

struct Combine;

impl Body for Combine {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the counts they state.
        unsafe {
            let p = &*params.cast::<CombineParams>();
            let (slots, cols) = (p.slots as usize, p.cols as usize);
            let per_token = cols.div_ceil(BLOCK_COLS);
            for block in blocks {
                let (token, first) = (block / per_token, block % per_token * BLOCK_COLS);
                let count = BLOCK_COLS.min(cols - first);
                let out = std::slice::from_raw_parts_mut(p.out.add(token * cols + first), count);
                out.fill(0.0);
                for pair in token * slots..(token + 1) * slots {
                    let y = std::slice::from_raw_parts(p.y.add(pair * cols + first), count);
                    accumulate(*p.weights.add(pair), y, out);
                }
            }
        }
    }
}

/// `sum += weight · y`, one fused multiply-add an element.
#[inline(always)]
pub(super) fn accumulate(weight: f32, y: &[f32], sum: &mut [f32]) {
    for (sum, &y) in sum.iter_mut().zip(y) {
        *sum = weight.mul_add(y, *sum);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    fn run(isa: Isa, y: &[f32], weights: &[f32], (slots, cols): (usize, usize), step: usize) -> Vec<f32> {
        let tokens = weights.len() / slots;
        let mut out = vec![f32::NAN; tokens * cols];
        let params = CombineParams {
            y: y.as_ptr(),
            weights: weights.as_ptr(),
            out: out.as_mut_ptr(),
            tokens: tokens as u32,
            slots: slots as u32,
            cols: cols as u32,
            reserved: 0,
        };
        let blocks = blocks(&params);
        let ranges: Vec<_> = (0..blocks).step_by(step).map(|b| b..(b + step).min(blocks)).collect();
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(select(isa).unwrap(), &params, &ranges, 0) };
        out
    }

    proptest! {
        #[test]
        fn sums_are_in_the_order_of_slots(
            tokens in 0usize..71, slots in 1usize..9, cols in prop_oneof![1usize..50, 1000usize..1050], seed: u64,
        ) {
            let tokens = tokens.min(30_000 / (slots * cols));
            let mut random = Random(seed);
            let (y, weights) = (random.values(tokens * slots * cols), random.values(tokens * slots));
            let element = |t: usize, n: usize| {
                (0..slots).fold(0f32, |sum, j| weights[t * slots + j].mul_add(y[(t * slots + j) * cols + n], sum))
            };
            let expected: Vec<u32> =
                (0..tokens * cols).map(|i| element(i / cols, i % cols).to_bits()).collect();
            for &isa in Isa::available() {
                for step in [1, 100] {
                    let got = run(isa, &y, &weights, (slots, cols), step);
                    prop_assert_eq!(got.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), &expected[..], "{}", isa);
                }
            }
        }
    }
}
