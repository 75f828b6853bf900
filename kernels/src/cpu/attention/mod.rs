//! Causal attention over the paged cache: a block of the grid is a tile of tokens and up to 16 query heads of one KV head.
//!
//! The rows of a tile (a token and a query head each) share every key and value loaded. Keys of a page lie 16 to a vector,
//! so a score needs no horizontal sum. Chunks of 64 positions, counted from position 0 of the sequence, are visited in order
//! with a running maximum (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). What a row computes
//! depends on its own position, window and sequence alone, never on the tile it shares: the bits are those of the row alone,
//! on every instruction set. Per row, in this order:
//!
//! * a sink, if there is one, comes first: the running maximum starts there and the sum of lane 0 at 1;
//! * score of a key: `acc = fma(k[d], q[d] · scale, acc)` for ascending `d` from 0, then the softcap;
//! * a chunk's maximum joins the running one; when that grows, sums and output are multiplied by `exp(old - new)`;
//! * weights are summed in 16 lanes, lane = position mod 16, ascending; lanes at the end in a tree;
//! * output: `acc = fma(v, weight, acc)` for ascending positions; divided by the sum at the end.
//!
//! Positions a row does not see may hold anything, NaN included: their scores are selected away and their values never
//! touched for that row. A long context at decode is one block for 16 query heads: splitting it over threads would take a
//! second launch to merge, which the ABI does not have.
//!
//! Latent attention (DeepSeek-AI, "DeepSeek-V2", 2024, with the up-projections absorbed) keeps keys alone; values are their
//! first dimensions. As one or few KV heads serve many query heads, a chunk's keys are widened and transposed to values once for
//! all rows of a tile, and everything after that is the same.

mod softmax;
mod tile;

#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use half::f16;

use self::softmax::Softmax;
use self::tile::{Loaded, accumulate, score, width};
use super::CpuKernel;
use super::isa::Isa;
use super::kv::{self, KvElement, PAGE};
use super::math::tree_sum;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::AttentionParams;

/// Element types of the cache, by variant name.
pub const VARIANTS: &[&str] = &["f16", "f32", "int8"];

/// Pages visited between two looks at the running maximum.
const CHUNK_PAGES: usize = 4;

/// Positions visited between two looks at the running maximum.
const CHUNK: usize = CHUNK_PAGES * PAGE;

/// Most tokens of a tile: rows that see fewer keys than others of their tile are slower.
const MAX_TOKENS: usize = 16;

/// Most rows of a tile of several tokens: their queries and outputs stay in the first cache.
const MAX_ROWS: usize = 48;

/// Most query heads of a block: one KV head may serve 128, which are work for many threads.
const MAX_HEADS: usize = 16;

/// Blocks a step is cut into before tiles grow, so that many threads find work.
const MIN_BLOCKS: usize = 8;

/// Register tiles of rows that widen keys and values for themselves; where there are more, they are widened once for all.
const WIDENING_TILES: usize = 2;

/// Blocks of the launch's grid.
pub fn blocks(params: &AttentionParams) -> usize {
    (params.tokens as usize).div_ceil(tile_tokens(params)) * params.kv_heads as usize * parts(params)
}

/// Bytes of scratch memory: queries, outputs and sums of a tile's rows, weights and widened keys and values of a chunk.
pub fn scratch_bytes(params: &AttentionParams) -> usize {
    Layout::new(params).floats * size_of::<f32>()
}

/// The kernel of a variant over [`AttentionParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match variant {
        "f16" => simd::select::<Attention<f16>>(isa),
        "f32" => simd::select::<Attention<f32>>(isa),
        "int8" => simd::select::<Attention<i8>>(isa),
        _ => None,
    }
}

/// Query heads of a KV head.
#[inline(always)]
fn group(p: &AttentionParams) -> usize {
    p.heads.checked_div(p.kv_heads).unwrap_or(0) as usize
}

/// Blocks that share the query heads of a KV head.
#[inline(always)]
fn parts(p: &AttentionParams) -> usize {
    group(p).div_ceil(MAX_HEADS).max(1)
}

/// Most query heads of a block.
#[inline(always)]
fn part_heads(p: &AttentionParams) -> usize {
    group(p).div_ceil(parts(p))
}

/// Dimensions of a value.
#[inline(always)]
fn value_dim(p: &AttentionParams) -> usize {
    if p.value_dim > 0 { p.value_dim as usize } else { p.head_dim as usize }
}

/// Tokens of a tile; never fewer in a larger step. Each tile reads all keys and values its tokens see, so few large ones are
/// the faster the longer the context is.
#[inline(always)]
fn tile_tokens(p: &AttentionParams) -> usize {
    let columns = p.kv_heads as usize * parts(p);
    let many = 1 << (p.tokens as usize * columns / MIN_BLOCKS).max(1).ilog2();
    many.min(MAX_TOKENS).min(MAX_ROWS / part_heads(p).max(1)).max(1)
}

/// Offsets in the scratch memory, in floats, each a multiple of 16.
struct Layout {
    /// `[dim, width]` for each tile of rows, one after the other.
    queries: usize,
    /// `[rows, stride]`.
    outputs: usize,
    /// [`Softmax`] of each row.
    softmax: usize,
    /// `[rows of a register tile, CHUNK]`.
    weights: usize,
    /// `[CHUNK_PAGES, dim, PAGE]`.
    keys: usize,
    /// `[CHUNK, stride]`.
    values: usize,
    /// Of keys and of values, `[2, CHUNK]`.
    scales: usize,
    floats: usize,
}

impl Layout {
    #[inline(always)]
    fn new(p: &AttentionParams) -> Layout {
        let dim = (p.head_dim as usize).next_multiple_of(LANES);
        let stride = value_dim(p).next_multiple_of(LANES);
        let rows = tile_tokens(p) * part_heads(p);
        let outputs = rows * dim;
        let softmax = outputs + rows * stride;
        let weights = softmax + rows * (size_of::<Softmax>() / size_of::<f32>());
        let keys = weights + tile::MAX_WIDTH * CHUNK;
        let values = keys + CHUNK * dim;
        let scales = values + CHUNK * stride;
        Layout { queries: 0, outputs, softmax, weights, keys, values, scales, floats: scales + 2 * CHUNK }
    }
}

/// Scratch memory, cut up.
struct Workspace {
    queries: *mut f32,
    outputs: *mut f32,
    softmax: *mut Softmax,
    weights: *mut [f32; CHUNK],
    keys: *mut f32,
    values: *mut f32,
    scales: *mut f32,
}

impl Workspace {
    /// # Safety
    /// `scratch` is aligned to 64 bytes and has [`scratch_bytes`] bytes.
    #[inline(always)]
    unsafe fn new(p: &AttentionParams, scratch: &mut [u8]) -> Workspace {
        let (layout, base) = (Layout::new(p), scratch.as_mut_ptr().cast::<f32>());
        // SAFETY: the offsets lie in the scratch memory.
        unsafe {
            Workspace {
                queries: base.add(layout.queries),
                outputs: base.add(layout.outputs),
                softmax: base.add(layout.softmax).cast(),
                weights: base.add(layout.weights).cast(),
                keys: base.add(layout.keys),
                values: base.add(layout.values),
                scales: base.add(layout.scales),
            }
        }
    }
}

/// Consecutive positions of one sequence and query heads of one KV head.
struct Tile {
    /// The first token.
    token: usize,
    tokens: usize,
    kv_head: usize,
    /// The first query head.
    head: usize,
    /// Query heads: rows a token.
    heads: usize,
    /// Dimensions of a query and a key.
    dim: usize,
    /// Dimensions of a value.
    value_dim: usize,
    /// `value_dim`, padded to whole vectors.
    stride: usize,
    /// Whether values are the first dimensions of keys.
    latent: bool,
    /// Position of the first token.
    position: usize,
    /// Positions seen, `usize::MAX` for all.
    window: usize,
}

impl Tile {
    /// The tile from `token` on, which ends before the token `end`, of the query heads of a column of the grid.
    ///
    /// # Safety
    /// The tokens are of the launch, and the column of its grid.
    #[inline(always)]
    unsafe fn new(p: &AttentionParams, column: usize, token: usize, end: usize) -> Tile {
        let (parts, most) = (parts(p), part_heads(p));
        let (kv_head, part) = (column / parts, column % parts);
        // SAFETY: the token is of the launch.
        let (tokens, position) = unsafe { (run_length(p, token, end), *p.positions.add(token) as usize) };
        Tile {
            token,
            tokens,
            kv_head,
            head: kv_head * group(p) + part * most,
            heads: most.min(group(p) - part * most),
            dim: p.head_dim as usize,
            value_dim: value_dim(p),
            stride: value_dim(p).next_multiple_of(LANES),
            latent: p.value_dim > 0,
            position,
            window: if p.window == 0 { usize::MAX } else { p.window as usize },
        }
    }

    #[inline(always)]
    fn rows(&self) -> usize {
        self.tokens * self.heads
    }

    /// Token of the launch and query head of a row.
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize) {
        (self.token + row / self.heads, self.head + row % self.heads)
    }

    /// Positions of the sequence that token `i` of the tile sees.
    #[inline(always)]
    fn sees(&self, i: usize) -> Range<usize> {
        let end = self.position + i + 1;
        end.saturating_sub(self.window)..end
    }

    /// Those among the chunk from position `start` on, counted from there; empty ranges may be anywhere.
    #[inline(always)]
    fn sees_of_chunk(&self, i: usize, start: usize) -> Range<usize> {
        let seen = self.sees(i);
        seen.start.saturating_sub(start)..seen.end.saturating_sub(start).min(CHUNK)
    }
}

struct Attention<T>(PhantomData<T>);

impl<T: KvElement> Body for Attention<T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the extents they state, and its scratch memory.
        unsafe {
            let p = &*params.cast::<AttentionParams>();
            let (most, tokens) = (p.tokens as usize, tile_tokens(p));
            let tiles = most.div_ceil(tokens);
            let workspace = Workspace::new(p, scratch);
            for block in blocks.start..blocks.end.min(self::blocks(p)) {
                // Neighbouring blocks share keys and values, which are then still in a cache.
                let (column, mut token) = (block / tiles, block % tiles * tokens);
                let end = (token + tokens).min(most);
                while token < end {
                    let tile = Tile::new(p, column, token, end);
                    attend::<T, S>(p, &tile, &workspace);
                    token += tile.tokens;
                }
            }
        }
    }
}

/// Tokens from `token` on, before `end`, that are consecutive positions of one sequence.
///
/// # Safety
/// The tokens are of the launch.
#[inline(always)]
unsafe fn run_length(p: &AttentionParams, token: usize, end: usize) -> usize {
    // SAFETY: as the caller says.
    unsafe {
        let mut next = token + 1;
        while next < end
            && *p.sequences.add(next) == *p.sequences.add(token)
            && *p.positions.add(next) == *p.positions.add(next - 1) + 1
        {
            next += 1;
        }
        next - token
    }
}

/// All of a tile.
///
/// # Safety
/// As [`Body::run`]; the tile is of the launch.
#[inline(always)]
unsafe fn attend<T: KvElement, S: Simd>(p: &AttentionParams, tile: &Tile, w: &Workspace) {
    // SAFETY: as the caller says; pages are those of positions some row sees.
    unsafe {
        let table = p.page_table.add(*p.sequences.add(tile.token) as usize * p.page_table_stride as usize);
        let (first, last) = (tile.sees(0).start, tile.position + tile.tokens - 1);
        let staged = tile.latent || tile.rows() > WIDENING_TILES * tile::widest::<S>() || tile.dim != tile.stride;
        let columns =
            |chunk: usize| (chunk * CHUNK_PAGES).max(first / PAGE)..((chunk + 1) * CHUNK_PAGES).min(last / PAGE + 1);
        start::<S>(p, tile, w);
        for chunk in first / CHUNK..=last / CHUNK {
            let loaded = load::<T, S>(p, tile, table, columns(chunk), w.scales);
            // Pages lie anywhere: what the processor foresees by itself ends with each. Many rows take long enough for one chunk.
            if !staged && chunk < last / CHUNK {
                locate::<T>(p, tile, table, columns(chunk + 1), w.scales).prefetch::<S>(tile.dim);
            }
            if staged {
                let loaded = loaded.widen::<S>(tile.dim, tile.value_dim, w.keys, w.values);
                visit::<f32, S>(tile, w, chunk * CHUNK, &loaded, p.softcap);
            } else {
                visit::<T, S>(tile, w, chunk * CHUNK, &loaded, p.softcap);
            }
        }
        finish(p, tile, w);
    }
}

/// Where the keys and values of some columns of a sequence's page table are, all of one chunk.
///
/// # Safety
/// As [`attend`]; the columns are of positions that some row sees.
#[inline(always)]
unsafe fn locate<T: KvElement>(
    p: &AttentionParams,
    tile: &Tile,
    table: *const i32,
    columns: Range<usize>,
    scales: *const f32,
) -> Loaded<T> {
    let (kv_heads, dim) = (p.kv_heads as usize, tile.dim);
    let mut loaded = Loaded::new(dim, scales);
    for column in columns {
        let index = column % CHUNK_PAGES;
        // SAFETY: the page is of the pool.
        unsafe {
            let page = page_start::<T>(p, tile, table, column);
            loaded.keys[index] = page.add(kv::keys(tile.kv_head, dim));
            if !tile.latent {
                loaded.values[index] = page.add(kv::values(tile.kv_head, kv_heads, dim));
            }
        }
    }
    loaded
}

/// As [`locate`]; scales, if they have any, are widened.
///
/// # Safety
/// As [`locate`]; there is room for the scales of a chunk.
#[inline(always)]
unsafe fn load<T: KvElement, S: Simd>(
    p: &AttentionParams,
    tile: &Tile,
    table: *const i32,
    columns: Range<usize>,
    scales: *mut f32,
) -> Loaded<T> {
    let (kv_heads, dim, planes) = (p.kv_heads as usize, tile.dim, planes(tile));
    for column in if T::SCALED { columns.clone() } else { 0..0 } {
        for plane in 0..planes {
            // SAFETY: the page is of the pool; there is room for the scales of a chunk.
            unsafe {
                let page = page_start::<T>(p, tile, table, column).cast::<u16>();
                let from = page.add(kv::scales(planes, plane, tile.kv_head, kv_heads, dim));
                S::store(scales.add(plane * CHUNK + column % CHUNK_PAGES * PAGE), S::load_f16(from));
            }
        }
    }
    // SAFETY: passed on.
    unsafe { locate(p, tile, table, columns, scales) }
}

#[inline(always)]
fn planes(tile: &Tile) -> usize {
    if tile.latent { kv::KEYS } else { kv::KEYS_AND_VALUES }
}

/// The page of a column.
///
/// # Safety
/// As [`locate`].
#[inline(always)]
unsafe fn page_start<T: KvElement>(p: &AttentionParams, tile: &Tile, table: *const i32, column: usize) -> *const T {
    let elements = kv::page_elements::<T>(planes(tile), p.kv_heads as usize, tile.dim);
    // SAFETY: the page is of the pool.
    unsafe { p.kv.cast::<T>().add(*table.add(column) as usize * elements) }
}

/// Loads the queries, scaled and transposed by register tiles; nothing is seen so far but sinks.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn start<S: Simd>(p: &AttentionParams, tile: &Tile, w: &Workspace) {
    let (rows, heads) = (tile.rows(), p.heads as usize);
    let mut row = 0;
    while row < rows {
        let width = width::<S>(rows - row);
        for r in row..row + width {
            let (token, head) = tile.place(r);
            // SAFETY: the head is of the launch; the workspace has a place for each row.
            unsafe {
                let from = p.q.add((token * heads + head) * tile.dim);
                let to = w.queries.add(row * tile.dim + r - row);
                for d in 0..tile.dim {
                    *to.add(d * width) = *from.add(d) * p.scale;
                }
                w.outputs.add(r * tile.stride).write_bytes(0, tile.stride);
                let first = if p.sinks.is_null() { Softmax::START } else { Softmax::with_sink(*p.sinks.add(head)) };
                w.softmax.add(r).write(first);
            }
        }
        row += width;
    }
}

/// Lets every row see its part of a chunk, which begins at position `start`.
///
/// # Safety
/// As [`attend`]; `loaded` has the pages of the chunk that some row sees.
#[inline(always)]
unsafe fn visit<T: KvElement, S: Simd>(tile: &Tile, w: &Workspace, start: usize, loaded: &Loaded<T>, softcap: f32) {
    let rows = tile.rows();
    let mut row = 0;
    while row < rows {
        let width = width::<S>(rows - row);
        let part = Part { tile, rows: row..row + width, start };
        let seen = part.seen_by_any();
        if !seen.is_empty() {
            // SAFETY: the workspace has a place for each row.
            unsafe {
                let pages = seen.start / PAGE..seen.end.div_ceil(PAGE);
                score::<T, S>(loaded, pages, w.queries.add(row * tile.dim), width, tile.dim, w.weights);
                for r in part.rows.clone() {
                    let seen = tile.sees_of_chunk(r / tile.heads, start);
                    let output = std::slice::from_raw_parts_mut(w.outputs.add(r * tile.stride), tile.stride);
                    (*w.softmax.add(r)).weigh(&mut *w.weights.add(r - row), seen, softcap, output);
                }
                for (rows, slots) in part.areas() {
                    let (weights, outputs) = (w.weights.add(rows.start - row), w.outputs.add(rows.start * tile.stride));
                    accumulate::<T, S>(loaded, slots, weights, outputs, rows.len(), tile.stride);
                }
            }
        }
        row += width;
    }
}

/// A register tile's rows and a chunk.
struct Part<'a> {
    tile: &'a Tile,
    rows: Range<usize>,
    /// First position of the chunk.
    start: usize,
}

impl Part<'_> {
    #[inline(always)]
    fn tokens(&self) -> Range<usize> {
        self.rows.start / self.tile.heads..self.rows.end.div_ceil(self.tile.heads)
    }

    /// Positions of the chunk that at least one row sees.
    #[inline(always)]
    fn seen_by_any(&self) -> Range<usize> {
        let tokens = self.tokens();
        self.tile.sees_of_chunk(tokens.start, self.start).start..self.tile.sees_of_chunk(tokens.end - 1, self.start).end
    }

    /// What the rows see, as rectangles of rows and positions: ascending positions for each row. In the middle stands what
    /// all see; before and after it, token by token, what a window and causality have left to some.
    #[inline(always)]
    fn areas(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let (tile, tokens, all) = (self.tile, self.tokens(), self.rows.clone());
        let sees = move |token: usize| tile.sees_of_chunk(token, self.start);
        let begin = sees(tokens.end - 1).start;
        let common = begin..sees(tokens.start).end.max(begin);
        let count = tokens.len();
        (0..2 * count + 1).map(move |step| {
            if step == count {
                return (all.clone(), common.clone());
            }
            let token = tokens.start + step % (count + 1);
            let rows = (token * tile.heads).max(all.start)..((token + 1) * tile.heads).min(all.end);
            let seen = sees(token);
            let slots = if step < count {
                seen.start..seen.end.min(common.start)
            } else {
                seen.start.max(common.end)..seen.end
            };
            (rows, slots)
        })
    }
}

/// Divides by the sums of weights and writes the tile's outputs.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn finish(p: &AttentionParams, tile: &Tile, w: &Workspace) {
    for r in 0..tile.rows() {
        let (token, head) = tile.place(r);
        // SAFETY: the head is of the launch; the workspace has a place for each row.
        unsafe {
            let inverse = 1.0 / tree_sum((*w.softmax.add(r)).sum);
            let to = p.out.add((token * p.heads as usize + head) * tile.value_dim);
            for d in 0..tile.value_dim {
                *to.add(d) = *w.outputs.add(r * tile.stride + d) * inverse;
            }
        }
    }
}
