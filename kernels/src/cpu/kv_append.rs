//! Writes the keys and values of a step's tokens to their slots in the paged cache.

use std::ffi::c_void;
use std::ops::Range;

use half::f16;

use super::CpuKernel;
use super::kv::{self, KvElement, PAGE};
use crate::abi::KvAppendParams;

/// Element types of the cache, by variant name.
pub const VARIANTS: &[&str] = &["f16", "f32"];

/// Blocks of the launch's grid: one a token.
pub fn blocks(params: &KvAppendParams) -> usize {
    params.tokens as usize
}

/// The kernel of a variant over [`KvAppendParams`]; rounding and copying need no instruction set.
pub fn select(variant: &str) -> Option<CpuKernel> {
    match variant {
        "f16" => Some(run::<f16>),
        "f32" => Some(run::<f32>),
        _ => None,
    }
}

/// # Safety
/// As [`CpuKernel`]; each token's page table entry must be a page of the pool.
unsafe fn run<T: KvElement>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
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
                for d in 0..head_dim {
                    *keys.add(d * PAGE) = T::round(*p.k.add(from + d));
                    *values.add(d) = T::round(*p.v.add(from + d));
                }
            }
        }
    }
}
