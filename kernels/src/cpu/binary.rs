//! Element-wise operations on pairs of equal tensors.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::math;
use super::simd::{self, Body, Simd};
use crate::abi::BinaryParams;

/// Elements in a block of the grid.
const BLOCK: usize = 4096;

/// The operations, by variant name.
pub const VARIANTS: &[&str] =
    &["add", "mul", "silu_mul", "gelu_tanh_mul", "gelu_mul", "relu2_mul", "clamped_swiglu_mul"];

/// Blocks of the launch's grid.
pub fn blocks(params: &BinaryParams) -> usize {
    (params.count as usize).div_ceil(BLOCK)
}

/// The kernel of a variant over [`BinaryParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "add" => simd::select::<Binary<Add>>(isa),
        "mul" => simd::select::<Binary<Mul>>(isa),
        "silu_mul" => simd::select::<Binary<SiluMul>>(isa),
        "gelu_tanh_mul" => simd::select::<Binary<GeluTanhMul>>(isa),
        "gelu_mul" => simd::select::<Binary<GeluMul>>(isa),
        "relu2_mul" => simd::select::<Binary<Relu2Mul>>(isa),
        "clamped_swiglu_mul" => simd::select::<Binary<ClampedSwigluMul>>(isa),
        _ => None,
    }
}

/// An operation on two numbers, and the limit that some have. Must be `#[inline(always)]`.
pub(super) trait Operation {
    fn apply(a: f32, b: f32, limit: f32) -> f32;
}

struct Add;

impl Operation for Add {
    #[inline(always)]
    fn apply(a: f32, b: f32, _: f32) -> f32 {
        a + b
    }
}

struct Mul;

impl Operation for Mul {
    #[inline(always)]
    fn apply(a: f32, b: f32, _: f32) -> f32 {
        a * b
    }
}

pub(super) struct SiluMul;

impl Operation for SiluMul {
    #[inline(always)]
    fn apply(a: f32, b: f32, _: f32) -> f32 {
        math::silu(a) * b
    }
}

pub(super) struct GeluTanhMul;

impl Operation for GeluTanhMul {
    #[inline(always)]
    fn apply(a: f32, b: f32, _: f32) -> f32 {
        math::gelu_tanh(a) * b
    }
}

pub(super) struct GeluMul;

impl Operation for GeluMul {
    #[inline(always)]
    fn apply(a: f32, b: f32, _: f32) -> f32 {
        math::gelu(a) * b
    }
}

/// The squared rectifier (So et al., "Primer", 2021).
pub(super) struct Relu2Mul;

impl Operation for Relu2Mul {
    #[inline(always)]
    fn apply(a: f32, b: f32, _: f32) -> f32 {
        let a = if a < 0.0 { 0.0 } else { a };
        a * a * b
    }
}

/// The gate of gpt-oss.
pub(super) struct ClampedSwigluMul;

impl Operation for ClampedSwigluMul {
    #[inline(always)]
    fn apply(a: f32, b: f32, limit: f32) -> f32 {
        // Comparisons, as `clamp` panics on a negative limit and `min` would hide a NaN.
        let gate = if a > limit { limit } else { a };
        let up = if b > limit { limit } else { b };
        let up = if up < -limit { -limit } else { up };
        (up + 1.0) * (gate * math::sigmoid(1.702 * gate))
    }
}

struct Binary<O>(PhantomData<O>);

impl<O: Operation> Body for Binary<O> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters. `out` may be `a` or `b`, so elements go through raw pointers,
        // each read before it is written, in chunks that the compiler vectorises.
        unsafe {
            let p = &*params.cast::<BinaryParams>();
            let end = (p.count as usize).min(blocks.end * BLOCK);
            let mut i = blocks.start * BLOCK;
            while i + 16 <= end {
                let a = p.a.add(i).cast::<[f32; 16]>().read_unaligned();
                let b = p.b.add(i).cast::<[f32; 16]>().read_unaligned();
                let out: [f32; 16] = std::array::from_fn(|l| O::apply(a[l], b[l], p.limit));
                p.out.add(i).cast::<[f32; 16]>().write_unaligned(out);
                i += 16;
            }
            while i < end {
                *p.out.add(i) = O::apply(*p.a.add(i), *p.b.add(i), p.limit);
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

    const LIMIT: f32 = 7.0;

    fn run(variant: &str, isa: Isa, a: &[f32], b: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; a.len()];
        let params = BinaryParams {
            a: a.as_ptr(),
            b: b.as_ptr(),
            out: out.as_mut_ptr(),
            count: a.len() as u64,
            limit: LIMIT,
            reserved: 0,
        };
        let ranges: Vec<_> = (0..blocks(&params)).rev().map(|b| b..b + 1).collect();
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(select(variant, isa).unwrap(), &params, &ranges, 0) };
        out
    }

    /// The same with `out` in the place of `a`, or of `b`.
    fn run_in_place(variant: &str, isa: Isa, a: &[f32], b: &[f32], first: bool) -> Vec<f32> {
        let (mut x, mut y) = (a.to_vec(), b.to_vec());
        let (a, b) = (x.as_mut_ptr(), y.as_mut_ptr());
        let params =
            BinaryParams { a, b, out: if first { a } else { b }, count: x.len() as u64, limit: LIMIT, reserved: 0 };
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(select(variant, isa).unwrap(), &params, std::slice::from_ref(&(0..blocks(&params))), 0) };
        if first { x } else { y }
    }

    fn expected(variant: &str, a: f64, b: f64) -> f64 {
        match variant {
            "add" => a + b,
            "mul" => a * b,
            "silu_mul" => a / (1.0 + (-a).exp()) * b,
            "gelu_tanh_mul" => a / (1.0 + (-1.595_769_121_605_731 * (a + 0.044715 * a.powi(3))).exp()) * b,
            "gelu_mul" => a * math::tests::normal(a) * b,
            "relu2_mul" => a.max(0.0).powi(2) * b,
            _ => {
                let (gate, limit) = (a.min(f64::from(LIMIT)), f64::from(LIMIT));
                (b.clamp(-limit, limit) + 1.0) * gate / (1.0 + (-1.702 * gate).exp())
            }
        }
    }

    /// The tail of `gelu_tanh` is accurate relative to `|a|` alone.
    fn tolerance(variant: &str, a: f32, b: f32, expected: f64) -> f64 {
        let tail = if variant == "gelu_tanh_mul" { 3e-7 * f64::from(a * b).abs() } else { 1e-9 };
        1e-6 * expected.abs() + tail
    }

    proptest! {
        #[test]
        fn operations_are_as_defined(count in prop_oneof![0usize..100, 4000usize..9000], seed: u64) {
            let mut random = Random(seed);
            let a: Vec<f32> = random.values(count).into_iter().map(|x| x * 20.0).collect();
            // On both sides of the limit.
            let b: Vec<f32> = random.values(count).into_iter().map(|x| x * 10.0).collect();
            for variant in VARIANTS {
                let out = run(variant, Isa::Portable, &a, &b);
                for ((a, b), out) in a.iter().zip(&b).zip(&out) {
                    let expected = expected(variant, f64::from(*a), f64::from(*b));
                    prop_assert!((f64::from(*out) - expected).abs() <= tolerance(variant, *a, *b, expected), "{variant} {a} {b}");
                }
                for &isa in Isa::available() {
                    for got in [
                        run(variant, isa, &a, &b),
                        run_in_place(variant, isa, &a, &b, true),
                        run_in_place(variant, isa, &a, &b, false),
                    ] {
                        prop_assert!(got.iter().zip(&out).all(|(x, y)| x.to_bits() == y.to_bits()), "{variant} {isa}");
                    }
                }
            }
        }
    }
}
