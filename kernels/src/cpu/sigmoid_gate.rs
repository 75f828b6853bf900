//! Scales each row by the sigmoid of its gate: `out[r, c] = x[r, c] · sigmoid(gate[r])`.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::math;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::SigmoidGateParams;

/// Rows in a block of the grid.
const BLOCK_ROWS: usize = 4;

/// Blocks of the launch's grid.
pub fn blocks(params: &SigmoidGateParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// The kernel over [`SigmoidGateParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<SigmoidGate>(isa)
}

struct SigmoidGate;

impl Body for SigmoidGate {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters. `out` may be `x`: each element is read before it is written.
        unsafe {
            let p = &*params.cast::<SigmoidGateParams>();
            let cols = p.cols as usize;
            for row in blocks.start * BLOCK_ROWS..(p.rows as usize).min(blocks.end * BLOCK_ROWS) {
                let factor = math::sigmoid(*p.gate.add(row));
                scale::<S>(p.x.add(row * cols), p.out.add(row * cols), cols, factor);
            }
        }
    }
}

/// # Safety
/// Needs the instruction set `S`; both are valid for `cols` elements, and the same or apart.
#[inline(always)]
unsafe fn scale<S: Simd>(x: *const f32, out: *mut f32, cols: usize, factor: f32) {
    let whole = cols / LANES * LANES;
    // SAFETY: as the caller says.
    unsafe {
        for c in (0..whole).step_by(LANES) {
            S::store(out.add(c), S::mul(S::load(x.add(c)), S::splat(factor)));
        }
        for c in whole..cols {
            *out.add(c) = *x.add(c) * factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    fn run(isa: Isa, x: &[f32], gate: &[f32], in_place: bool) -> Vec<f32> {
        let mut out = if in_place { x.to_vec() } else { vec![f32::NAN; x.len()] };
        let to = out.as_mut_ptr();
        let (from, rows) = (if in_place { to } else { x.as_ptr() }, gate.len() as u32);
        let cols = (x.len() / gate.len()) as u32;
        let params = SigmoidGateParams { x: from, gate: gate.as_ptr(), out: to, rows, cols };
        let ranges: Vec<_> = (0..blocks(&params)).rev().map(|b| b..b + 1).collect();
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(select(isa).unwrap(), &params, &ranges, 0) };
        out
    }

    proptest! {
        #[test]
        fn rows_are_gated(rows in 1usize..20, cols in 0usize..100, seed: u64) {
            let mut random = Random(seed);
            let x = random.values(rows * cols);
            let gate: Vec<f32> = random.values(rows).into_iter().map(|g| g * 60.0).collect();
            let out = run(Isa::Portable, &x, &gate, false);
            for (i, out) in out.iter().enumerate() {
                let expected = f64::from(x[i]) / (1.0 + (-f64::from(gate[i / cols])).exp());
                prop_assert!((f64::from(*out) - expected).abs() <= 4e-7 * expected.abs(), "{out} {expected}");
            }
            for &isa in Isa::available() {
                for in_place in [false, true] {
                    let got = run(isa, &x, &gate, in_place);
                    prop_assert!(got.iter().zip(&out).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa} {in_place}");
                }
            }
        }
    }
}
