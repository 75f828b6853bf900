//! Rotary embedding: turns pairs of each head's dimensions by `position · inv_freq`.
//!
//! Sine and cosine are computed once for a token and pair and used for all heads.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::math;
use super::simd::{self, Body, Simd};
use crate::abi::RopeParams;

/// Blocks of the launch's grid: one a token.
pub fn blocks(params: &RopeParams) -> usize {
    params.tokens as usize
}

/// Bytes of scratch memory: sine and cosine of each pair.
pub fn scratch_bytes(params: &RopeParams) -> usize {
    2 * params.pairs as usize * size_of::<f32>()
}

/// The kernel over [`RopeParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<Rope>(isa)
}

struct Rope;

impl Body for Rope {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters and scratch memory aligned and long enough for 2 · pairs floats.
        unsafe {
            let p = &*params.cast::<RopeParams>();
            let pairs = p.pairs as usize;
            let table = std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<f32>(), 2 * pairs);
            let (sin, cos) = table.split_at_mut(pairs);
            let inv_freq = std::slice::from_raw_parts(p.inv_freq, pairs);
            for token in blocks.start..blocks.end.min(p.tokens as usize) {
                let position = f64::from(*p.positions.add(token));
                for ((s, c), f) in sin.iter_mut().zip(&mut *cos).zip(inv_freq) {
                    let (sin, cos) = math::sin_cos(position * f64::from(*f));
                    (*s, *c) = (sin * p.scale, cos * p.scale);
                }
                let width = (p.heads * p.head_dim) as usize;
                let (x, out) = (p.x.add(token * width), p.out.add(token * width));
                for head in 0..p.heads as usize {
                    let at = head * p.head_dim as usize;
                    turn(p, x.add(at), out.add(at), sin, cos);
                }
            }
        }
    }
}

/// One head.
///
/// # Safety
/// `x` and `out` point to a head's dimensions; they may be equal.
#[inline(always)]
unsafe fn turn(p: &RopeParams, x: *const f32, out: *mut f32, sin: &[f32], cos: &[f32]) {
    let (pairs, dim) = (sin.len(), p.head_dim as usize);
    // SAFETY: the caller says so; 2 · pairs is at most the head's dimension.
    unsafe {
        for i in 0..pairs {
            let (first, second) = if p.interleaved != 0 { (2 * i, 2 * i + 1) } else { (i, i + pairs) };
            let (a, b) = (*x.add(first), *x.add(second));
            *out.add(first) = a.mul_add(cos[i], -(b * sin[i]));
            *out.add(second) = a.mul_add(sin[i], b * cos[i]);
        }
        if !std::ptr::eq(x, out) {
            std::ptr::copy_nonoverlapping(x.add(2 * pairs), out.add(2 * pairs), dim - 2 * pairs);
        }
    }
}
