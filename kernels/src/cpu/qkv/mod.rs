//! Queries, keys and values of a step's tokens in one launch: products, norms of heads, rotary embedding, and the cache's new keys
//! and values.
//!
//! The parameters are [`QkvParams`]; variants are `<weights>.<x>.<cache type>`. A block of the grid is one head, of queries, keys or
//! values, of [`TILE_TOKENS`] tokens: a head is finished where it is computed. Heads need not begin with a panel: rows of a panel that two
//! heads share are computed for both. Rows of x are prepared and staged once for all blocks of a call that share their tokens, and a run of
//! neighbouring heads is one product. Bits are those of the kernels `matmul`, `scale_rows`, `rms_norm`, `rope` and
//! `kv_append` one after the other.

#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use half::f16;
use ir::types::DType;

use super::grouped_matmul::groups::Pairs;
use super::isa::Isa;
use super::kv::{KEYS_AND_VALUES, KvElement};
use super::kv_append::Slot;
use super::matmul::block::{Multiplier, Sink, Staged, staging_bytes};
use super::matmul::prologue::{self, Norm, ProductTypes, Rounding, Rows, select_product};
use super::matmul::tile::Product;
use super::panel_sums::reciprocal_rms;
use super::scale_rows::scale_row;
use super::simd::{self, Body, LANES, Simd};
use super::{CpuKernel, SCRATCH_ALIGN, rms_norm, rope};
use crate::abi::{KvAppendParams, QkvParams, RopeParams};

/// Tokens of a block of the grid.
pub const TILE_TOKENS: usize = 32;

/// Most heads of one product.
const RUN_HEADS: usize = 4;

/// The kernel of a variant over [`QkvParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    let (product, kv) = variant.rsplit_once('.')?;
    match kv {
        "f16" => select_product!(NarrowQkv, product, isa),
        "f32" => select_product!(WideQkv, product, isa),
        "int8" => select_product!(RoundedQkv, product, isa),
        _ => None,
    }
}

/// Blocks of the launch's grid.
pub fn blocks(params: &QkvParams) -> usize {
    (params.tokens as usize).div_ceil(TILE_TOKENS) * heads_of_all(params)
}

/// Bytes of scratch memory, for launches of at most these counts.
pub fn scratch_bytes(variant: &str, params: &QkvParams) -> usize {
    let types = variant.rsplit_once('.').and_then(|(product, _)| ProductTypes::parse(product));
    let Some(ProductTypes { activations, rounding, .. }) = types else { return 0 };
    let (tokens, cols) = (TILE_TOKENS.min(params.tokens as usize), params.cols as usize);
    let Memory { results, head, angles } = Memory::of(params);
    let preparing = prologue::scratch_bytes(rounding, params.norm, cols);
    results + head + angles + preparing + staging_bytes(activations, tokens, cols)
}

/// Heads of queries, keys and values.
fn heads_of_all(p: &QkvParams) -> usize {
    p.heads as usize + if p.wk.is_null() { 0 } else { 2 * p.kv_heads as usize }
}

/// Bytes of the parts of scratch memory whose size does not depend on the variant.
struct Memory {
    /// A product of a run of heads, which may begin within a panel.
    results: usize,
    /// A head that is on its way to the cache.
    head: usize,
    /// Sine and cosine of each pair.
    angles: usize,
}

impl Memory {
    fn of(p: &QkvParams) -> Memory {
        let floats = |count: usize| (count * size_of::<f32>()).next_multiple_of(SCRATCH_ALIGN);
        let (tokens, head_dim) = (TILE_TOKENS.min(p.tokens as usize), p.head_dim as usize);
        Memory {
            results: floats(tokens * (RUN_HEADS * head_dim + LANES)),
            head: floats(head_dim),
            angles: floats(2 * p.pairs as usize),
        }
    }
}

/// A launch with what its variant says.
struct Launch<'a> {
    params: &'a QkvParams,
    types: (DType, Rounding),
    multiplier: Multiplier,
}

/// The kernel of product `K`, for which the launch rounds x as [`Rounding::from_number`] says, and a cache of type `T`: tells the driver of
/// `T` which product.
struct Qkv<K, const ROUNDING: u8, T>(PhantomData<(K, T)>);

/// With a cache of f16.
type NarrowQkv<K, const ROUNDING: u8> = Qkv<K, ROUNDING, f16>;
/// With a cache of f32.
type WideQkv<K, const ROUNDING: u8> = Qkv<K, ROUNDING, f32>;
/// With a cache of 8-bit integers.
type RoundedQkv<K, const ROUNDING: u8> = Qkv<K, ROUNDING, i8>;

impl<K: Product, const ROUNDING: u8, T: KvElement> Body for Qkv<K, ROUNDING, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        let types = (K::ACTIVATIONS, Rounding::from_number(ROUNDING));
        // SAFETY: the caller passes this kernel's parameters; the driver takes a launch.
        unsafe {
            let launch = Launch { params: &*params.cast(), types, multiplier: Multiplier::new::<S, K>() };
            S::call::<Driver<T>>((&raw const launch).cast(), blocks, scratch);
        }
    }
}

/// Which heads a product gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Query,
    Key,
    Value,
}

/// Heads of one kind that are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    kind: Kind,
    /// The first, of its kind.
    first: usize,
    count: usize,
}

impl Run {
    /// The heads from `at` on, of all kinds in order, as far as `end` and the kind go.
    fn from(p: &QkvParams, at: usize, end: usize) -> Run {
        let (heads, kv_heads) = (p.heads as usize, p.kv_heads as usize);
        let (kind, start, stop) = if at < heads {
            (Kind::Query, 0, heads)
        } else if at < heads + kv_heads {
            (Kind::Key, heads, heads + kv_heads)
        } else {
            (Kind::Value, heads + kv_heads, heads + 2 * kv_heads)
        };
        Run { kind, first: at - start, count: RUN_HEADS.min(end.min(stop) - at) }
    }
}

/// Executes a [`Launch`].
struct Driver<T>(PhantomData<T>);

impl<T: KvElement> Body for Driver<T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(launch: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes a launch, blocks of its grid and scratch memory as long as is asked for.
        unsafe {
            let Launch { params: p, types, multiplier } = &*launch.cast::<Launch>();
            let (memory, cols) = (Memory::of(p), p.cols as usize);
            let (results, scratch) = scratch.split_at_mut(memory.results);
            let (head, scratch) = scratch.split_at_mut(memory.head);
            let (angles, scratch) = scratch.split_at_mut(memory.angles);
            let (preparing, staging) = scratch.split_at_mut(prologue::scratch_bytes(types.1, p.norm, cols));
            let norm = Norm { kind: p.norm, weight: p.norm_weight, bias: p.norm_bias, eps: p.norm_eps };
            let x = Rows::new::<S>(p.x, cols, *types, norm, preparing);
            let finish = Finish { p, results: results.as_mut_ptr().cast(), head: head.as_mut_ptr().cast(), angles };
            let (mut at, per_tile) = (blocks.start, heads_of_all(p));
            while at < blocks.end {
                let (tile, token) = (at / per_tile, at / per_tile * TILE_TOKENS);
                let count = TILE_TOKENS.min(p.tokens as usize - token);
                let staged = multiplier.stage(&x, Pairs::Spaced { first: token, stride: 1, count }, 1, staging);
                let end = blocks.end.min((tile + 1) * per_tile);
                while at < end {
                    let run = Run::from(p, at % per_tile, at % per_tile + (end - at));
                    let place = multiply(p, multiplier, (staged, count), run, finish.results);
                    for t in 0..count {
                        finish.token::<S, T>(run, token + t, place.at(t));
                    }
                    at += run.count;
                }
            }
        }
    }
}

/// Where the products of a run lie.
struct Place {
    first: *mut f32,
    /// From a token to the next.
    stride: usize,
}

impl Place {
    #[inline(always)]
    fn at(&self, token: usize) -> *mut f32 {
        self.first.wrapping_add(token * self.stride)
    }
}

/// The products of tokens with the rows of a run, with the bias where no scale comes between.
///
/// # Safety
/// As the driver.
unsafe fn multiply(
    p: &QkvParams,
    multiplier: &Multiplier,
    (staged, tokens): (Staged, usize),
    run: Run,
    out: *mut f32,
) -> Place {
    let (head_dim, cols) = (p.head_dim as usize, p.cols as usize);
    let (start, end) = (run.first * head_dim, (run.first + run.count) * head_dim);
    let first = start / LANES * LANES;
    let w = match run.kind {
        Kind::Query => p.wq,
        Kind::Key => p.wk,
        Kind::Value => p.wv,
    };
    let bias = if p.squares.is_null() { bias_of(p, run.kind) } else { std::ptr::null() };
    // SAFETY: the rows exist; results have room for a run of heads and what precedes them in their panel.
    unsafe {
        let w = w.cast::<u8>().add(multiplier.matrix_bytes(first, cols));
        let bias = if bias.is_null() { bias } else { bias.add(first) };
        let sink =
            Sink::Store { out, bias, rows: end - first, pairs: Pairs::Spaced { first: 0, stride: 1, count: tokens } };
        multiplier.multiply(staged, [w, std::ptr::null()], 0..(end - first).div_ceil(LANES), &sink);
    }
    Place { first: out.wrapping_add(start - first), stride: end - first }
}

#[inline(always)]
fn bias_of(p: &QkvParams, kind: Kind) -> *const f32 {
    match kind {
        Kind::Query => p.bq,
        Kind::Key => p.bk,
        Kind::Value => p.bv,
    }
}

/// What happens to heads after their product.
struct Finish<'a> {
    p: &'a QkvParams,
    /// Products of a run.
    results: *mut f32,
    /// Room for a head.
    head: *mut f32,
    /// Room for sine and cosine of each pair.
    angles: &'a mut [u8],
}

impl Finish<'_> {
    /// Finishes the heads of a run for one token, whose products are `y`.
    ///
    /// # Safety
    /// As the driver.
    #[inline(always)]
    unsafe fn token<S: Simd, T: KvElement>(&self, run: Run, token: usize, y: *mut f32) {
        let (p, head_dim) = (self.p, self.p.head_dim as usize);
        // SAFETY: token and heads exist; `y` has the run's dimensions.
        unsafe {
            if !p.squares.is_null() {
                let (cols, bias) = (p.cols as usize, bias_of(p, run.kind));
                let panels = cols.div_ceil(LANES);
                let squares = std::slice::from_raw_parts(p.squares.add(token * panels), panels);
                let bias = if bias.is_null() { bias } else { bias.add(run.first * head_dim) };
                scale_row(y, reciprocal_rms(squares, cols, p.eps), bias, run.count * head_dim, y);
            }
            let rope = rope_params(p);
            let pairs = if run.kind == Kind::Value || p.inv_freq.is_null() { 0 } else { p.pairs as usize };
            let angles = self.angles.as_ptr().cast::<f32>().cast_mut();
            let sin = std::slice::from_raw_parts_mut(angles, pairs);
            let cos = std::slice::from_raw_parts_mut(angles.add(pairs), pairs);
            if pairs > 0 {
                rope::angles(&rope, token, sin, cos);
            }
            for i in 0..run.count {
                let (head, x) = (run.first + i, y.add(i * head_dim).cast_const());
                match run.kind {
                    Kind::Query => {
                        let out = p.out.add((token * p.heads as usize + head) * head_dim);
                        let x = self.turned::<S>(x, p.q_norm, &rope, (sin, cos), out);
                        if !std::ptr::eq(x, out) {
                            out.copy_from_nonoverlapping(x, head_dim);
                        }
                    }
                    Kind::Key => {
                        let x = self.turned::<S>(x, p.k_norm, &rope, (sin, cos), self.head);
                        self.slot::<T>(token).write_key(head, x);
                    }
                    Kind::Value => self.slot::<T>(token).write_value(head, x),
                }
            }
        }
    }

    /// A head normalised and turned as far as that is asked for: in `out`, or `x` where there is nothing to do.
    ///
    /// # Safety
    /// As [`Finish::token`]; `x` and `out` do not overlap.
    #[inline(always)]
    unsafe fn turned<S: Simd>(
        &self,
        mut x: *const f32,
        norm: *const f32,
        rope: &RopeParams,
        (sin, cos): (&[f32], &[f32]),
        out: *mut f32,
    ) -> *const f32 {
        let head_dim = self.p.head_dim as usize;
        // SAFETY: as the caller says.
        unsafe {
            if !norm.is_null() {
                let weight = std::slice::from_raw_parts(norm, head_dim);
                let out = std::slice::from_raw_parts_mut(out, head_dim);
                rms_norm::normalise::<S>(std::slice::from_raw_parts(x, head_dim), weight, self.p.head_eps, out);
                x = out.as_ptr();
            }
            if !sin.is_empty() {
                rope::turn(rope, x, out, sin, cos);
                x = out;
            }
        }
        x
    }

    /// A token's place in the cache.
    ///
    /// # Safety
    /// The launch has one.
    #[inline(always)]
    unsafe fn slot<T: KvElement>(&self, token: usize) -> Slot<T> {
        let p = self.p;
        let append = KvAppendParams {
            k: std::ptr::null(),
            v: std::ptr::null(),
            positions: p.positions,
            sequences: p.sequences,
            page_table: p.page_table,
            kv: p.kv,
            tokens: p.tokens,
            kv_heads: p.kv_heads,
            head_dim: p.head_dim,
            page_table_stride: p.page_table_stride,
        };
        // SAFETY: as the caller says.
        unsafe { Slot::of(&append, token, KEYS_AND_VALUES) }
    }
}

/// The rotary embedding as its kernel's parameters, without the heads.
#[inline(always)]
fn rope_params(p: &QkvParams) -> RopeParams {
    RopeParams {
        x: std::ptr::null(),
        positions: p.positions,
        inv_freq: p.inv_freq,
        table: p.table,
        out: std::ptr::null_mut(),
        tokens: p.tokens,
        heads: p.heads,
        head_dim: p.head_dim,
        pairs: p.pairs,
        tables: p.tables,
        interleaved: p.interleaved,
        scale: p.scale,
        reserved: 0,
    }
}
