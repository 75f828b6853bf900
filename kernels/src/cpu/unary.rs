//! Element-wise operations on one tensor and a number.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::math;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::UnaryParams;

/// Elements in a block of the grid.
const BLOCK: usize = 4096;

/// The operations, by variant name.
pub const VARIANTS: &[&str] = &["scale", "softcap"];

/// Blocks of the launch's grid.
pub fn blocks(params: &UnaryParams) -> usize {
    (params.count as usize).div_ceil(BLOCK)
}

/// The kernel of a variant over [`UnaryParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "scale" => simd::select::<Unary<Scale>>(isa),
        "softcap" => simd::select::<Unary<Softcap>>(isa),
        _ => None,
    }
}

/// An operation on a number and the launch's value. Must be `#[inline(always)]`.
pub(super) trait Operation {
    fn apply(x: f32, value: f32) -> f32;
}

struct Scale;

impl Operation for Scale {
    #[inline(always)]
    fn apply(x: f32, value: f32) -> f32 {
        x * value
    }
}

/// `value · tanh(x / value)`.
pub(super) struct Softcap;

impl Operation for Softcap {
    #[inline(always)]
    fn apply(x: f32, value: f32) -> f32 {
        value * math::tanh(x / value)
    }
}

struct Unary<O>(PhantomData<O>);

impl<O: Operation> Body for Unary<O> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters. `out` may be `x`, so elements go through raw pointers, each
        // read before it is written, in chunks that the compiler vectorises.
        unsafe {
            let p = &*params.cast::<UnaryParams>();
            let end = (p.count as usize).min(blocks.end * BLOCK);
            let mut i = blocks.start * BLOCK;
            while i + LANES <= end {
                let x = p.x.add(i).cast::<[f32; LANES]>().read_unaligned();
                let mut out = [0f32; LANES];
                for l in 0..LANES {
                    out[l] = O::apply(x[l], p.value);
                }
                p.out.add(i).cast::<[f32; LANES]>().write_unaligned(out);
                i += LANES;
            }
            while i < end {
                *p.out.add(i) = O::apply(*p.x.add(i), p.value);
                i += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    fn run(variant: &str, isa: Isa, x: &[f32], value: f32, in_place: bool) -> Vec<f32> {
        let mut out = if in_place { x.to_vec() } else { vec![f32::NAN; x.len()] };
        let to = out.as_mut_ptr();
        let from = if in_place { to } else { x.as_ptr() };
        let params = UnaryParams { x: from, out: to, count: x.len() as u64, value, reserved: 0 };
        let ranges: Vec<_> = (0..blocks(&params)).rev().map(|b| b..b + 1).collect();
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(select(variant, isa).unwrap(), &params, &ranges, 0) };
        out
    }

    proptest! {
        #[test]
        fn operations_are_as_defined(
            count in prop_oneof![0usize..100, 4000usize..9000], value in 0.1f32..60.0, spread in 0.01f32..300.0, seed: u64,
        ) {
            let x: Vec<f32> = Random(seed).values(count).into_iter().map(|x| x * spread).collect();
            for variant in VARIANTS {
                let out = run(variant, Isa::Portable, &x, value, false);
                for (x, out) in x.iter().zip(&out) {
                    let (x, value) = (f64::from(*x), f64::from(value));
                    let expected = if *variant == "scale" { x * value } else { value * (x / value).tanh() };
                    prop_assert!((f64::from(*out) - expected).abs() <= 3e-7 * expected.abs(), "{variant} {x} {value}");
                }
                for &isa in Isa::available() {
                    for in_place in [false, true] {
                        let got = run(variant, isa, &x, value, in_place);
                        prop_assert!(got.iter().zip(&out).all(|(a, b)| a.to_bits() == b.to_bits()), "{variant} {isa}");
                    }
                }
            }
        }
    }
}
