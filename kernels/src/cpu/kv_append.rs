//! Writes the keys of a step's tokens, and their values where pages hold any, to their slots in the paged cache.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use half::f16;
use ir::quant::half_rows::greatest_bits;
use ir::quant::int8_rows;

use super::CpuKernel;
use super::isa::Isa;
use super::kv::{self, KvElement, PAGE};
use super::simd::{self, Body, LANES, Simd};
use crate::abi::KvAppendParams;

/// Element types of the cache, by variant name.
pub const VARIANTS: &[&str] = &["f16", "f32", "int8"];

/// Blocks of the launch's grid: one a token.
pub fn blocks(params: &KvAppendParams) -> usize {
    params.tokens as usize
}

/// The kernel of a variant over [`KvAppendParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "f16" => simd::select::<KvAppend<f16>>(isa),
        "f32" => simd::select::<KvAppend<f32>>(isa),
        "int8" => simd::select::<KvAppend<i8>>(isa),
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
            let planes = if p.v.is_null() { kv::KEYS } else { kv::KEYS_AND_VALUES };
            for token in blocks.start..blocks.end.min(p.tokens as usize) {
                let slot = Slot::<T>::of(p, token, planes);
                for head in 0..kv_heads {
                    let from = (token * kv_heads + head) * head_dim;
                    slot.write_key(head, p.k.add(from));
                    if planes == kv::KEYS_AND_VALUES {
                        slot.write_value(head, p.v.add(from));
                    }
                }
            }
        }
    }
}

/// A token's place in the cache.
pub(super) struct Slot<T> {
    /// The token's page.
    page: *mut T,
    /// Its place in it.
    index: usize,
    planes: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl<T: KvElement> Slot<T> {
    /// Of a token of a launch; `k` and `v` are not read.
    ///
    /// # Safety
    /// Metadata and page table must be valid, and the pages have as many planes.
    #[inline(always)]
    pub unsafe fn of(p: &KvAppendParams, token: usize, planes: usize) -> Slot<T> {
        let (kv_heads, head_dim) = (p.kv_heads as usize, p.head_dim as usize);
        // SAFETY: as the caller says.
        unsafe {
            let position = *p.positions.add(token) as usize;
            let row = *p.sequences.add(token) as usize * p.page_table_stride as usize;
            let page = *p.page_table.add(row + position / PAGE) as usize;
            let page = p.kv.cast::<T>().add(page * kv::page_elements::<T>(planes, kv_heads, head_dim));
            Slot { page, index: position % PAGE, planes, kv_heads, head_dim }
        }
    }

    /// Rounds and writes the key of a head.
    ///
    /// # Safety
    /// The head exists, `from` has its dimensions.
    #[inline(always)]
    pub unsafe fn write_key(&self, head: usize, from: *const f32) {
        // SAFETY: as the caller says.
        unsafe {
            let inverse = self.scale(0, head, from);
            write::<T, PAGE>(from, inverse, self.head_dim, self.page.add(kv::keys(head, self.head_dim) + self.index));
        }
    }

    /// Rounds and writes the value of a head, of pages that hold values.
    ///
    /// # Safety
    /// As [`Slot::write_key`].
    #[inline(always)]
    pub unsafe fn write_value(&self, head: usize, from: *const f32) {
        let at = kv::values(head, self.kv_heads, self.head_dim) + self.index * self.head_dim;
        // SAFETY: as the caller says.
        unsafe { write::<T, 1>(from, self.scale(1, head, from), self.head_dim, self.page.add(at)) }
    }

    /// Writes the scale of a head's row and gives its inverse; does nothing where rows have no scales.
    ///
    /// # Safety
    /// As [`Slot::write_key`]; the page has the plane.
    #[inline(always)]
    unsafe fn scale(&self, plane: usize, head: usize, from: *const f32) -> f32 {
        if !T::SCALED {
            return 1.0;
        }
        let at = kv::scales(self.planes, plane, head, self.kv_heads, self.head_dim) + self.index;
        // SAFETY: as the caller says; the scales are of the page, which begins at a multiple of 16 bytes.
        unsafe {
            let row = std::slice::from_raw_parts(from, self.head_dim);
            let (scale, inverse) = int8_rows::scale_of(greatest_bits(row));
            *self.page.cast::<f16>().add(at) = scale;
            inverse
        }
    }
}

/// Rounds a head's elements and writes them `STRIDE` apart.
///
/// # Safety
/// `from` has `count` elements, `to` room for them.
#[inline(always)]
unsafe fn write<T: KvElement, const STRIDE: usize>(from: *const f32, inverse: f32, count: usize, to: *mut T) {
    // SAFETY: as the caller says.
    unsafe {
        let whole = count / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            let mut rounded = [T::round(0.0, inverse); LANES];
            // No closure: it would not inherit the instruction set.
            for (lane, x) in rounded.iter_mut().enumerate() {
                *x = T::round(*from.add(i + lane), inverse);
            }
            for (lane, x) in rounded.into_iter().enumerate() {
                *to.add((i + lane) * STRIDE) = x;
            }
        }
        for i in whole..count {
            *to.add(i * STRIDE) = T::round(*from.add(i), inverse);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    /// Three tokens of two sequences: two pages of a row each, of a pool of five.
    const TABLE: [i32; 4] = [3, 1, 4, 2];
    const TOKENS: [(i32, i32); 3] = [(0, 15), (0, 16), (1, 20)];

    fn run<T: KvElement>(
        variant: &str,
        isa: Isa,
        kv_heads: usize,
        head_dim: usize,
        k: &[f32],
        v: Option<&[f32]>,
        empty: T,
    ) -> Vec<T> {
        let planes = if v.is_some() { 2 } else { 1 };
        let mut pool = vec![empty; 5 * kv::page_elements::<T>(planes, kv_heads, head_dim)];
        let (sequences, positions) = (TOKENS.map(|t| t.0), TOKENS.map(|t| t.1));
        let params = KvAppendParams {
            k: k.as_ptr(),
            v: v.map_or(std::ptr::null(), <[f32]>::as_ptr),
            positions: positions.as_ptr(),
            sequences: sequences.as_ptr(),
            page_table: TABLE.as_ptr(),
            kv: pool.as_mut_ptr().cast(),
            tokens: 3,
            kv_heads: kv_heads as u32,
            head_dim: head_dim as u32,
            page_table_stride: 2,
        };
        assert_eq!(blocks(&params), 3);
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(select(variant, isa).unwrap(), &params, &[1..3, 0..1], 0) };
        pool
    }

    /// The layout as the header words it: K `[kv_heads][head_dim][16]`, then V `[kv_heads][16][head_dim]` if there is any.
    fn expected<T: KvElement>(kv_heads: usize, head_dim: usize, k: &[f32], v: Option<&[f32]>, empty: T) -> Vec<T> {
        let page = if v.is_some() { 2 } else { 1 } * kv_heads * head_dim * 16;
        let mut pool = vec![empty; 5 * page];
        for (t, (page_index, slot)) in [(3, 15), (1, 0), (2, 4)].into_iter().enumerate() {
            for h in 0..kv_heads {
                for d in 0..head_dim {
                    let from = (t * kv_heads + h) * head_dim + d;
                    pool[page_index * page + (h * head_dim + d) * 16 + slot] = T::round(k[from], 1.0);
                    if let Some(v) = v {
                        pool[page_index * page + page / 2 + (h * 16 + slot) * head_dim + d] = T::round(v[from], 1.0);
                    }
                }
            }
        }
        pool
    }

    /// A page of int8: elements as [`expected`] has them, then a scale for each row, both as `ir` rounds the row.
    fn expected_int8(kv_heads: usize, head_dim: usize, k: &[f32], v: Option<&[f32]>, empty: i8) -> Vec<i8> {
        let planes: Vec<&[f32]> = [Some(k), v].into_iter().flatten().collect();
        let page = planes.len() * kv_heads * 16 * (head_dim + 2);
        let mut pool = vec![empty; 5 * page];
        for (t, (page_index, slot)) in [(3, 15), (1, 0), (2, 4)].into_iter().enumerate() {
            for (plane, h) in (0..planes.len()).flat_map(|plane| (0..kv_heads).map(move |h| (plane, h))) {
                let mut row = vec![0; head_dim + 2];
                int8_rows::quantize_row(&planes[plane][(t * kv_heads + h) * head_dim..][..head_dim], &mut row).unwrap();
                let head = plane * kv_heads + h;
                let (integers, scale_bytes) = row.split_at(head_dim);
                for (d, integer) in integers.iter().enumerate() {
                    let at =
                        if plane == 0 { (head * head_dim + d) * 16 + slot } else { (head * 16 + slot) * head_dim + d };
                    pool[page_index * page + at] = *integer as i8;
                }
                let scale = page_index * page + planes.len() * kv_heads * 16 * head_dim + 2 * (head * 16 + slot);
                (pool[scale], pool[scale + 1]) = (scale_bytes[0] as i8, scale_bytes[1] as i8);
            }
        }
        pool
    }

    proptest! {
        #[test]
        fn tokens_are_written_to_their_slots_alone(kv_heads in 1usize..4, head_dim in 1usize..70, seed: u64) {
            let mut random = Random(seed);
            let (k, v) = (random.values(3 * kv_heads * head_dim), random.values(3 * kv_heads * head_dim));
            for v in [Some(v.as_slice()), None] {
                for &isa in Isa::available() {
                    let got = run("f32", isa, kv_heads, head_dim, &k, v, 9f32);
                    prop_assert_eq!(got, expected(kv_heads, head_dim, &k, v, 9f32), "{}", isa);
                    let got = run("f16", isa, kv_heads, head_dim, &k, v, f16::MAX);
                    prop_assert_eq!(got, expected(kv_heads, head_dim, &k, v, f16::MAX), "{}", isa);
                    let got = run("int8", isa, kv_heads, head_dim, &k, v, 99i8);
                    prop_assert_eq!(got, expected_int8(kv_heads, head_dim, &k, v, 99), "{}", isa);
                }
            }
        }
    }
}
