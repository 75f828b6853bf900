//! Writes the keys and values of a step's tokens to their slots in the paged cache.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use half::f16;

use super::CpuKernel;
use super::isa::Isa;
use super::kv::{self, KvElement, PAGE};
use super::simd::{self, Body, LANES, Simd};
use crate::abi::KvAppendParams;

/// Element types of the cache, by variant name.
pub const VARIANTS: &[&str] = &["f16", "f32"];

/// Blocks of the launch's grid: one a token.
pub fn blocks(params: &KvAppendParams) -> usize {
    params.tokens as usize
}

/// The kernel of a variant over [`KvAppendParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "f16" => simd::select::<KvAppend<f16>>(isa),
        "f32" => simd::select::<KvAppend<f32>>(isa),
        _ => None,
    }
}

struct KvAppend<T>(PhantomData<T>);

impl<T: KvElement> Body for KvAppend<T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters with a valid page table; slots of tokens are distinct.
        unsafe {
            let p = &*params.cast::<KvAppendParams>();
            let (kv_heads, head_dim) = (p.kv_heads as usize, p.head_dim as usize);
            for token in blocks.start..blocks.end.min(p.tokens as usize) {
                let position = *p.positions.add(token) as usize;
                let row = *p.sequences.add(token) as usize * p.page_table_stride as usize;
                let page = *p.page_table.add(row + position / PAGE) as usize;
                let base = p.kv.cast::<T>().add(page * kv::page_elements(kv_heads, head_dim));
                for head in 0..kv_heads {
                    let from = (token * kv_heads + head) * head_dim;
                    let keys = base.add(kv::keys(head, head_dim) + position % PAGE);
                    let values = base.add(kv::values(head, kv_heads, head_dim) + position % PAGE * head_dim);
                    write::<T, PAGE>(p.k.add(from), head_dim, keys);
                    write::<T, 1>(p.v.add(from), head_dim, values);
                }
            }
        }
    }
}

/// Rounds a head's elements and writes them `STRIDE` apart.
///
/// # Safety
/// `from` has `count` elements, `to` room for them.
#[inline(always)]
unsafe fn write<T: KvElement, const STRIDE: usize>(from: *const f32, count: usize, to: *mut T) {
    // SAFETY: as the caller says.
    unsafe {
        let whole = count / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            let rounded = from.add(i).cast::<[f32; LANES]>().read_unaligned().map(T::round);
            for (lane, x) in rounded.into_iter().enumerate() {
                *to.add((i + lane) * STRIDE) = x;
            }
        }
        for i in whole..count {
            *to.add(i * STRIDE) = T::round(*from.add(i));
        }
    }
}
