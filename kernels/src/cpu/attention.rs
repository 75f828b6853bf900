//! Causal attention over the paged cache, one token and KV head at a time, its query heads together.
//!
//! Keys of a page lie 16 to a vector, so a score needs no horizontal sum. Pages are visited in order from the first one
//! seen, with a running maximum (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018): the order depends on
//! the token's own position alone, hence so do the bits. Slots outside what a token sees may hold anything, NaN included;
//! they are selected away, never multiplied by zero.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use half::f16;

use super::CpuKernel;
use super::isa::Isa;
use super::kv::{self, KvElement, PAGE};
use super::math::{self, tree_sum};
use super::simd::{self, Body, LANES, Simd};
use crate::abi::AttentionParams;

/// Element types of the cache, by variant name.
pub const VARIANTS: &[&str] = &["f16", "f32"];

/// Query heads that share one pass over the keys.
const HEADS: usize = 4;

/// Blocks of the launch's grid: one a token and KV head.
pub fn blocks(params: &AttentionParams) -> usize {
    params.tokens as usize * params.kv_heads as usize
}

/// Bytes of scratch memory: query and sum of each head of a pass.
pub fn scratch_bytes(params: &AttentionParams) -> usize {
    2 * HEADS * padded(params.head_dim as usize) * size_of::<f32>()
}

/// The kernel of a variant over [`AttentionParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "f16" => simd::select::<Attention<f16>>(isa),
        "f32" => simd::select::<Attention<f32>>(isa),
        _ => None,
    }
}

#[inline(always)]
fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

struct Attention<T>(PhantomData<T>);

impl<T: KvElement> Body for Attention<T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the extents they state, and its scratch memory.
        unsafe {
            let p = &*params.cast::<AttentionParams>();
            let (kv_heads, group) = (p.kv_heads as usize, (p.heads / p.kv_heads) as usize);
            for block in blocks.start..blocks.end.min(self::blocks(p)) {
                let (token, kv_head) = (block / kv_heads, block % kv_heads);
                let mut first = 0;
                while first < group {
                    let head = kv_head * group + first;
                    first += match group - first {
                        1 => pass::<T, S, 1>(p, token, kv_head, head, scratch),
                        2 => pass::<T, S, 2>(p, token, kv_head, head, scratch),
                        3 => pass::<T, S, 3>(p, token, kv_head, head, scratch),
                        _ => pass::<T, S, HEADS>(p, token, kv_head, head, scratch),
                    };
                }
            }
        }
    }
}

/// What is known of a head's softmax so far.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    /// Sum of weights, lane = position mod 16.
    sum: [f32; LANES],
}

/// `H` query heads from `head` on, of one token over one KV head; gives `H`.
///
/// # Safety
/// As [`Body::run`].
#[inline(always)]
unsafe fn pass<T: KvElement, S: Simd, const H: usize>(
    p: &AttentionParams, token: usize, kv_head: usize, head: usize, scratch: &mut [u8],
) -> usize {
    let (kv_heads, dim) = (p.kv_heads as usize, p.head_dim as usize);
    let stride = padded(dim);
    // SAFETY: as the caller says; scratch holds 2 · HEADS rows of `stride` floats.
    unsafe {
        let q = scratch.as_mut_ptr().cast::<f32>();
        let out = q.add(HEADS * stride);
        let at = (token * p.heads as usize + head) * dim;
        for h in 0..H {
            for d in 0..stride {
                *q.add(h * stride + d) = if d < dim { *p.q.add(at + h * dim + d) * p.scale } else { 0.0 };
                *out.add(h * stride + d) = 0.0;
            }
        }
        let position = *p.positions.add(token) as usize;
        let window = if p.window == 0 { usize::MAX } else { p.window as usize };
        let begin = (position + 1).saturating_sub(window);
        let row = *p.sequences.add(token) as usize * p.page_table_stride as usize;
        let mut softmax = [Softmax { max: f32::MIN, sum: [0.0; LANES] }; H];
        for column in begin / PAGE..=position / PAGE {
            let page = *p.page_table.add(row + column) as usize;
            let base = p.kv.cast::<T>().add(page * kv::page_elements(kv_heads, dim));
            let seen = begin.saturating_sub(column * PAGE)..(position + 1 - column * PAGE).min(PAGE);
            let scores = scores::<T, S, H>(base.add(kv::keys(kv_head, dim)), q, dim, stride);
            let weights = weigh::<H>(p.softcap, scores, &seen, &mut softmax, out, stride);
            accumulate::<T, S, H>(base.add(kv::values(kv_head, kv_heads, dim)), &weights, &seen, out, dim, stride);
        }
        for (h, s) in softmax.iter().enumerate() {
            let inverse = 1.0 / tree_sum(s.sum);
            for d in 0..dim {
                *p.out.add(at + h * dim + d) = *out.add(h * stride + d) * inverse;
            }
        }
    }
    H
}

/// Scores of a page's 16 keys: even and odd dimensions summed apart, then together.
///
/// # Safety
/// `keys` is `[dim][16]`, `q` has `H` rows of `stride` floats.
#[inline(always)]
unsafe fn scores<T: KvElement, S: Simd, const H: usize>(
    keys: *const T, q: *const f32, dim: usize, stride: usize,
) -> [[f32; LANES]; H] {
    // SAFETY: as the caller says.
    unsafe {
        let mut even = [S::zero(); H];
        let mut odd = [S::zero(); H];
        let mut d = 0;
        while d + 1 < dim {
            let (a, b) = (T::load::<S>(keys.add(d * PAGE)), T::load::<S>(keys.add((d + 1) * PAGE)));
            for h in 0..H {
                even[h] = S::fma(a, S::splat(*q.add(h * stride + d)), even[h]);
                odd[h] = S::fma(b, S::splat(*q.add(h * stride + d + 1)), odd[h]);
            }
            d += 2;
        }
        if d < dim {
            let a = T::load::<S>(keys.add(d * PAGE));
            for h in 0..H {
                even[h] = S::fma(a, S::splat(*q.add(h * stride + d)), even[h]);
            }
        }
        let mut out = [[0f32; LANES]; H];
        for h in 0..H {
            S::store(out[h].as_mut_ptr(), S::add(even[h], odd[h]));
        }
        out
    }
}

/// Turns scores into weights relative to the running maximum, rescaling what was summed when that grows.
///
/// # Safety
/// `out` has `H` rows of `stride` floats.
#[inline(always)]
unsafe fn weigh<const H: usize>(
    softcap: f32, mut scores: [[f32; LANES]; H], seen: &Range<usize>, softmax: &mut [Softmax; H], out: *mut f32,
    stride: usize,
) -> [[f32; LANES]; H] {
    for h in 0..H {
        let state = &mut softmax[h];
        let lanes = &mut scores[h];
        for (lane, s) in lanes.iter_mut().enumerate() {
            let capped = if softcap > 0.0 { softcap * math::tanh(*s / softcap) } else { *s };
            *s = if seen.contains(&lane) { capped } else { f32::MIN };
        }
        let max = lanes.iter().copied().fold(state.max, f32::max);
        let rescale = math::exp(state.max - max);
        if max > state.max {
            state.max = max;
            state.sum.iter_mut().for_each(|s| *s *= rescale);
            // SAFETY: as the caller says.
            let row = unsafe { std::slice::from_raw_parts_mut(out.add(h * stride), stride) };
            row.iter_mut().for_each(|o| *o *= rescale);
        }
        for (s, sum) in lanes.iter_mut().zip(&mut state.sum) {
            *s = math::exp(*s - max);
            *sum += *s;
        }
    }
    scores
}

/// Adds the weighted values of the positions seen, in order.
///
/// # Safety
/// `values` is `[16][dim]`, `out` has `H` rows of `stride` floats.
#[inline(always)]
unsafe fn accumulate<T: KvElement, S: Simd, const H: usize>(
    values: *const T, weights: &[[f32; LANES]; H], seen: &Range<usize>, out: *mut f32, dim: usize, stride: usize,
) {
    // SAFETY: as the caller says; whole vectors stay inside a row, the tail is copied.
    unsafe {
        let mut d = 0;
        while d < dim {
            let mut sum = [S::zero(); H];
            for (h, s) in sum.iter_mut().enumerate() {
                *s = S::load(out.add(h * stride + d));
            }
            for slot in seen.clone() {
                let from = values.add(slot * dim + d);
                let v = if d + LANES <= dim {
                    T::load::<S>(from)
                } else {
                    let tail: [f32; LANES] = std::array::from_fn(|l| if d + l < dim { (*from.add(l)).widen() } else { 0.0 });
                    S::load(tail.as_ptr())
                };
                for h in 0..H {
                    sum[h] = S::fma(v, S::splat(weights[h][slot]), sum[h]);
                }
            }
            for (h, s) in sum.into_iter().enumerate() {
                S::store(out.add(h * stride + d), s);
            }
            d += LANES;
        }
    }
}
