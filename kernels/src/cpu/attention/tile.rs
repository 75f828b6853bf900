//! Register tiles: the products of up to 16 rows with the keys and values of a chunk.
//!
//! Every score and every output is one lane of one accumulator, so neither the width of a tile nor the vector width shows
//! in its bits. Few rows are multiplied with several vectors at once, or one chain of dependent multiply-adds would wait
//! for its latency.

use std::ops::Range;
use std::ptr::null;

use super::{CHUNK, CHUNK_PAGES};
use crate::cpu::kv::{KvElement, PAGE};
use crate::cpu::simd::{LANES, Simd};

/// Most rows of a register tile.
pub(super) const MAX_WIDTH: usize = 16;

/// Most rows of a register tile of `S`.
#[inline(always)]
pub(super) const fn widest<S: Simd>() -> usize {
    const { S::TILES[S::TILES.len() - 1] }
}

/// Rows of the next register tile of `left` rows: among 1, 2, 3, 4, 6, 8 and 16, as the registers of `S` allow.
#[inline(always)]
pub(super) fn width<S: Simd>(left: usize) -> usize {
    let most = widest::<S>();
    match left {
        16.. if most >= 16 => 16,
        8.. if most >= 8 => 8,
        6.. if most == 6 => 6,
        4.. if most >= 4 => 4,
        3 if most >= 4 => 3,
        2 | 3 if most >= 4 => 2,
        _ => 1,
    }
}

/// Calls `$kernel::<T, S, R, V>`: `R` rows and `V` vectors at a time, for rows a [`width`] of `S`.
macro_rules! for_width {
    ($simd:ident, $width:expr, $kernel:ident::<$element:ident>, $arguments:tt) => {
        if const { $simd::TILES[$simd::TILES.len() - 1] >= 8 } {
            match $width {
                16 => $kernel::<$element, $simd, 16, 1> $arguments,
                8 => $kernel::<$element, $simd, 8, 2> $arguments,
                4 => $kernel::<$element, $simd, 4, 4> $arguments,
                3 => $kernel::<$element, $simd, 3, 4> $arguments,
                2 => $kernel::<$element, $simd, 2, 4> $arguments,
                _ => $kernel::<$element, $simd, 1, 4> $arguments,
            }
        } else if const { $simd::TILES.len() > 1 } {
            match $width {
                6 => $kernel::<$element, $simd, 6, 1> $arguments,
                4 => $kernel::<$element, $simd, 4, 1> $arguments,
                3 => $kernel::<$element, $simd, 3, 2> $arguments,
                2 => $kernel::<$element, $simd, 2, 2> $arguments,
                _ => $kernel::<$element, $simd, 1, 4> $arguments,
            }
        } else {
            $kernel::<$element, $simd, 1, 1> $arguments
        }
    };
}

/// Where the keys and values of a chunk's pages are, for one KV head; null for pages that no row sees.
pub(super) struct Loaded<T> {
    /// `[dim][16]` each.
    pub keys: [*const T; CHUNK_PAGES],
    /// `[16][value_stride]` each; null also where keys hold the values, until they are widened.
    pub values: [*const T; CHUNK_PAGES],
    value_stride: usize,
    /// Of the rows of keys, then of values, `[2, CHUNK]`, where the type has scales.
    scales: *const f32,
}

impl<T: KvElement> Loaded<T> {
    /// No pages, of rows of `dim` values; scales will be at `scales`.
    #[inline(always)]
    pub fn new(dim: usize, scales: *const f32) -> Loaded<T> {
        Loaded { keys: [null(); CHUNK_PAGES], values: [null(); CHUNK_PAGES], value_stride: dim, scales }
    }

    /// Asks for the pages' keys and values, of rows of `dim` elements.
    ///
    /// # Safety
    /// Needs the instruction set `S`.
    #[inline(always)]
    pub unsafe fn prefetch<S: Simd>(&self, dim: usize) {
        for page in self.keys.iter().chain(&self.values).filter(|page| !page.is_null()) {
            for line in (0..dim * PAGE * size_of::<T>()).step_by(64) {
                // SAFETY: nothing is read; as the caller says.
                unsafe { S::prefetch(page.cast::<u8>().wrapping_add(line)) };
            }
        }
    }

    /// 16 elements of one dimension of a page's keys, as values.
    ///
    /// # Safety
    /// Needs the instruction set `S`; the page is loaded, `from` of its keys.
    #[inline(always)]
    unsafe fn key<S: Simd>(&self, page: usize, from: *const T) -> S::F {
        // SAFETY: as the caller says.
        unsafe {
            let elements = T::load::<S>(from);
            if T::SCALED { S::mul(elements, S::load(self.scales.add(page * PAGE))) } else { elements }
        }
    }

    /// The scale of the values of a position of the chunk.
    ///
    /// # Safety
    /// The position's page is loaded.
    #[inline(always)]
    unsafe fn value_scale(&self, slot: usize) -> f32 {
        // SAFETY: as the caller says.
        if T::SCALED { unsafe { *self.scales.add(CHUNK + slot) } } else { 1.0 }
    }

    /// Copies as f32, rows of `value_dim` values padded with zeros to whole vectors. Where there are no values, they are made
    /// of the first dimensions of the keys.
    ///
    /// # Safety
    /// Needs the instruction set `S`; `keys` and `values` have room for a chunk of such rows; `value_dim` is at most `dim`, and
    /// `dim` where there are values.
    #[inline(always)]
    pub unsafe fn widen<S: Simd>(&self, dim: usize, value_dim: usize, keys: *mut f32, values: *mut f32) -> Loaded<f32> {
        let stride = value_dim.next_multiple_of(LANES);
        let mut wide = Loaded::<f32>::new(stride, null());
        for page in 0..CHUNK_PAGES {
            if self.keys[page].is_null() {
                continue;
            }
            // SAFETY: the page's keys and values are whole; there is room for them.
            unsafe {
                let (to_keys, to_values) = (keys.add(page * PAGE * dim), values.add(page * PAGE * stride));
                for d in 0..dim {
                    S::store(to_keys.add(d * PAGE), self.key::<S>(page, self.keys[page].add(d * PAGE)));
                }
                if self.values[page].is_null() {
                    transpose_page(to_keys, value_dim, to_values);
                } else {
                    for slot in 0..PAGE {
                        let scale = self.value_scale(page * PAGE + slot);
                        widen_row::<T, S>(self.values[page].add(slot * dim), scale, dim, to_values.add(slot * stride));
                    }
                }
                (wide.keys[page], wide.values[page]) = (to_keys, to_values);
            }
        }
        wide
    }
}

/// Elements as values: times their scales, if the type has any.
///
/// # Safety
/// Needs the instruction set `S`.
#[inline(always)]
unsafe fn scaled<T: KvElement, S: Simd>(elements: S::F, scales: S::F) -> S::F {
    // SAFETY: as the caller says.
    if T::SCALED { unsafe { S::mul(elements, scales) } } else { elements }
}

/// # Safety
/// Needs the instruction set `S`; `from` has `dim` elements, `to` room for as many, padded to whole vectors.
#[inline(always)]
unsafe fn widen_row<T: KvElement, S: Simd>(from: *const T, scale: f32, dim: usize, to: *mut f32) {
    // SAFETY: as the caller says; no vector is loaded past the last element.
    unsafe {
        let whole = dim / LANES * LANES;
        for d in (0..whole).step_by(LANES) {
            S::store(to.add(d), scaled::<T, S>(T::load::<S>(from.add(d)), S::splat(scale)));
        }
        if whole < dim {
            let mut tail = [0f32; LANES];
            for (d, x) in (whole..dim).zip(&mut tail) {
                *x = if T::SCALED { (*from.add(d)).widen() * scale } else { (*from.add(d)).widen() };
            }
            to.add(whole).cast::<[f32; LANES]>().write(tail);
        }
    }
}

/// From `[dim][16]` to `[16][stride]`, rows padded with zeros to whole vectors.
///
/// # Safety
/// Both have room; `stride` is `dim`, padded to whole vectors.
#[inline(always)]
unsafe fn transpose_page(from: *const f32, dim: usize, to: *mut f32) {
    let stride = dim.next_multiple_of(LANES);
    for d in (0..stride).step_by(LANES) {
        let mut block = [[0f32; PAGE]; LANES];
        // SAFETY: as the caller says; no row past `dim` is read.
        unsafe {
            for (i, row) in block.iter_mut().enumerate().take(dim - d) {
                *row = from.add((d + i) * PAGE).cast::<[f32; PAGE]>().read();
            }
            for slot in 0..PAGE {
                let mut column = [0f32; LANES];
                for (x, row) in column.iter_mut().zip(&block) {
                    *x = row[slot];
                }
                to.add(slot * stride + d).cast::<[f32; LANES]>().write(column);
            }
        }
    }
}

/// Scores of `rows` rows for the keys of `pages` of a chunk, to `[rows][CHUNK]`.
///
/// # Safety
/// Needs the instruction set `S`; `queries` is `[dim][rows]`, `rows` a [`width`], the pages are loaded.
#[inline(always)]
pub(super) unsafe fn score<T: KvElement, S: Simd>(
    loaded: &Loaded<T>,
    pages: Range<usize>,
    queries: *const f32,
    rows: usize,
    dim: usize,
    scores: *mut [f32; CHUNK],
) {
    // SAFETY: passed on.
    unsafe { for_width!(S, rows, score_rows::<T>, (loaded, pages, queries, dim, scores)) }
}

/// # Safety
/// As [`score`], for `R` rows.
#[inline(always)]
unsafe fn score_rows<T: KvElement, S: Simd, const R: usize, const V: usize>(
    loaded: &Loaded<T>,
    pages: Range<usize>,
    queries: *const f32,
    dim: usize,
    scores: *mut [f32; CHUNK],
) {
    let mut page = pages.start;
    // SAFETY: passed on.
    unsafe {
        while page + V <= pages.end {
            score_pages::<T, S, R, V>(loaded, page, queries, dim, scores);
            page += V;
        }
        while page < pages.end {
            score_pages::<T, S, R, 1>(loaded, page, queries, dim, scores);
            page += 1;
        }
    }
}

/// # Safety
/// As [`score`], for `R` rows and `V` pages from `page` on.
#[inline(always)]
unsafe fn score_pages<T: KvElement, S: Simd, const R: usize, const V: usize>(
    loaded: &Loaded<T>,
    page: usize,
    queries: *const f32,
    dim: usize,
    scores: *mut [f32; CHUNK],
) {
    // SAFETY: as the caller says.
    unsafe {
        let mut keys = [null::<T>(); V];
        for (v, keys) in keys.iter_mut().enumerate() {
            *keys = loaded.keys[page + v];
        }
        let mut acc = [[S::zero(); V]; R];
        for d in 0..dim {
            let mut key = [S::zero(); V];
            for (v, key) in key.iter_mut().enumerate() {
                *key = loaded.key::<S>(page + v, keys[v].add(d * PAGE));
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let q = S::splat(*queries.add(d * R + r));
                for (acc, key) in acc.iter_mut().zip(&key) {
                    *acc = S::fma(*key, q, *acc);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                S::store(scores.add(r).cast::<f32>().add((page + v) * PAGE), *acc);
            }
        }
    }
}

/// Adds the values of the positions `slots` of a chunk, weighted, to `rows` rows of `stride` outputs.
///
/// # Safety
/// Needs the instruction set `S`; `weights` is `[rows][CHUNK]`, `outputs` `[rows][stride]`, the pages of the slots are loaded
/// and their rows of values are as long.
#[inline(always)]
pub(super) unsafe fn accumulate<T: KvElement, S: Simd>(
    loaded: &Loaded<T>,
    slots: Range<usize>,
    mut weights: *const [f32; CHUNK],
    mut outputs: *mut f32,
    rows: usize,
    stride: usize,
) {
    if slots.is_empty() {
        return;
    }
    let mut left = rows;
    while left > 0 {
        let width = width::<S>(left);
        // SAFETY: as the caller says.
        unsafe {
            for_width!(S, width, accumulate_rows::<T>, (loaded, slots.clone(), weights, outputs, stride));
            weights = weights.add(width);
            outputs = outputs.add(width * stride);
        }
        left -= width;
    }
}

/// # Safety
/// As [`accumulate`], for `R` rows.
#[inline(always)]
unsafe fn accumulate_rows<T: KvElement, S: Simd, const R: usize, const V: usize>(
    loaded: &Loaded<T>,
    slots: Range<usize>,
    weights: *const [f32; CHUNK],
    outputs: *mut f32,
    stride: usize,
) {
    let mut d = 0;
    // SAFETY: passed on.
    unsafe {
        while d + V * LANES <= stride {
            accumulate_vectors::<T, S, R, V>(loaded, slots.clone(), weights, outputs, stride, d);
            d += V * LANES;
        }
        while d < stride {
            accumulate_vectors::<T, S, R, 1>(loaded, slots.clone(), weights, outputs, stride, d);
            d += LANES;
        }
    }
}

/// # Safety
/// As [`accumulate`], for `R` rows and `V` vectors from dimension `first` on.
#[inline(always)]
unsafe fn accumulate_vectors<T: KvElement, S: Simd, const R: usize, const V: usize>(
    loaded: &Loaded<T>,
    slots: Range<usize>,
    weights: *const [f32; CHUNK],
    outputs: *mut f32,
    stride: usize,
    first: usize,
) {
    // SAFETY: as the caller says.
    unsafe {
        let mut acc = [[S::zero(); V]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = S::load(outputs.add(r * stride + first + v * LANES));
            }
        }
        let mut slot = slots.start;
        while slot < slots.end {
            let page_end = (slot / PAGE + 1) * PAGE;
            let mut values = loaded.values[slot / PAGE].add(slot % PAGE * loaded.value_stride + first);
            while slot < slots.end.min(page_end) {
                let (mut value, scale) = ([S::zero(); V], S::splat(loaded.value_scale(slot)));
                for (v, value) in value.iter_mut().enumerate() {
                    *value = scaled::<T, S>(T::load::<S>(values.add(v * LANES)), scale);
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let weight = S::splat(*weights.cast::<f32>().add(r * CHUNK + slot));
                    for (acc, value) in acc.iter_mut().zip(&value) {
                        *acc = S::fma(*value, weight, *acc);
                    }
                }
                values = values.add(loaded.value_stride);
                slot += 1;
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                S::store(outputs.add(r * stride + first + v * LANES), *acc);
            }
        }
    }
}
