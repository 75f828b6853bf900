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
pub const VARIANTS: &[&str] = &["add", "mul", "silu_mul"];

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
        _ => None,
    }
}

/// An operation on two numbers. Must be `#[inline(always)]`.
trait Operation {
    fn apply(a: f32, b: f32) -> f32;
}

struct Add;

impl Operation for Add {
    #[inline(always)]
    fn apply(a: f32, b: f32) -> f32 {
        a + b
    }
}

struct Mul;

impl Operation for Mul {
    #[inline(always)]
    fn apply(a: f32, b: f32) -> f32 {
        a * b
    }
}

struct SiluMul;

impl Operation for SiluMul {
    #[inline(always)]
    fn apply(a: f32, b: f32) -> f32 {
        math::silu(a) * b
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
                let out: [f32; 16] = std::array::from_fn(|l| O::apply(a[l], b[l]));
                p.out.add(i).cast::<[f32; 16]>().write_unaligned(out);
                i += 16;
            }
            while i < end {
                *p.out.add(i) = O::apply(*p.a.add(i), *p.b.add(i));
                i += 1;
            }
        }
    }
}
