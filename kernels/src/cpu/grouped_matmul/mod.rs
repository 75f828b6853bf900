//! Products of rows with one matrix each of a stack: `out[t, j] = x[t, j] · w[experts[t, j]]ᵀ (+ bias[experts[t, j]])`.
//!
//! The parameters are [`GroupedMatmulParams`]; `matmul` is the case of one matrix and compiles to the same code, so a row
//! and a matrix give the same bits in both, whatever else is in the launch. Matrices that nobody selected are not read.
//!
//! Pairs of token and slot are sorted by expert and cut into items (see [`groups`]); work is (item, block of rows). The
//! grid is drawn before the experts are known, for the greatest number of items there can be, and the work there is is
//! spread over it evenly. A decoding step has an item a slot and no empty blocks; a long prompt reads each selected matrix
//! once per item of 32 or 64 rows. An expert that does not exist gives zeros.

mod block;
mod groups;
#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use ir::types::DType;

use self::block::{GREATEST_TILE, Launch};
use self::groups::{Groups, Item};
use super::CpuKernel;
use super::isa::Isa;
use super::matmul::tile::{self, FloatProduct, IntegerProduct, Product};
use super::matmul::weights::{self, GROUP};
use super::matmul::{BLOCK_PANELS, activations};
use super::simd::{self, Body, LANES, Simd};
use crate::abi::GroupedMatmulParams;

/// The kernel for weights of type `weights` and activations of type `activations`, over [`GroupedMatmulParams`]; `None` if
/// there is no such kernel or this machine lacks the instruction set.
pub fn select(weights: DType, activations: DType, isa: Isa) -> Option<CpuKernel> {
    match activations {
        DType::F32 => weights::with_format!(weights, W => simd::select::<GroupedMatmul<FloatProduct<W>>>(isa)),
        DType::Q8X32 => weights::with_quantised!(weights, W => simd::select::<GroupedMatmul<IntegerProduct<W>>>(isa)),
        _ => None,
    }
}

/// Blocks of the launch's grid; of the pointers only whether `experts` is null matters.
pub fn blocks(activations: DType, params: &GroupedMatmulParams) -> usize {
    groups::most_items(params, item_pairs(activations)) * row_blocks(params)
}

/// Bytes of scratch memory, for launches of at most these counts.
pub fn scratch_bytes(activations: DType, params: &GroupedMatmulParams) -> usize {
    let pairs = params.tokens as usize * params.slots as usize;
    staging_bytes(activations, pairs, params.cols as usize) + groups::words(params) * size_of::<u32>()
}

/// How many different matrices a launch reads.
///
/// # Safety
/// The experts must be valid for the counts beside them, or null.
pub unsafe fn matrices_read(params: &GroupedMatmulParams) -> usize {
    let (tokens, slots, matrices) = (params.tokens as usize, params.slots as usize, params.matrices as usize);
    if params.experts.is_null() {
        return if tokens == 0 { 0 } else { slots.min(matrices) };
    }
    // SAFETY: the caller's.
    let experts = unsafe { std::slice::from_raw_parts(params.experts, tokens * slots) };
    let is_matrix = |expert: &i32| usize::try_from(*expert).is_ok_and(|e| e < matrices);
    // Whichever of the two has fewer members is walked, the other searched.
    if matrices < experts.len() {
        (0..matrices).filter(|e| experts.contains(&(*e as i32))).count()
    } else {
        experts.iter().enumerate().filter(|(i, e)| is_matrix(e) && !experts[..*i].contains(e)).count()
    }
}

/// Bytes for the activations of an item of at most `pairs` rows.
pub(super) fn staging_bytes(activations: DType, pairs: usize, cols: usize) -> usize {
    let record = match activations {
        DType::F32 => size_of::<activations::Numbers>(),
        _ => size_of::<activations::Integers>(),
    };
    // The last tile of an item may be staged wider than it has pairs.
    let pairs = pairs.min(item_pairs(activations)) + GREATEST_TILE - 1;
    pairs * cols.div_ceil(GROUP) * record
}

/// Greatest number of pairs in an item.
fn item_pairs(activations: DType) -> usize {
    if activations == DType::F32 { tile::NUMBER_TOKENS } else { tile::INTEGER_TOKENS }
}

fn row_blocks(params: &GroupedMatmulParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_PANELS * LANES)
}

/// The grouped matmul of product `K`.
pub(super) struct GroupedMatmul<K>(PhantomData<K>);

impl<K: Product> Body for GroupedMatmul<K> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes a valid `GroupedMatmulParams` and blocks of its grid.
        unsafe {
            let params = &*params.cast::<GroupedMatmulParams>();
            let (staging, words) = split_scratch(params, scratch);
            let launch = Launch::<K>::new(params, staging);
            let groups = Groups::new(params, K::TOKENS, words);
            let (items, per_item) = (groups.len(), row_blocks(params));
            let work = share(blocks, items * per_item, groups::most_items(params, K::TOKENS) * per_item);
            let mut at = work.start;
            for item in groups.items(work.start / per_item.max(1)) {
                if at == work.end {
                    break;
                }
                let end = work.end.min((at / per_item + 1) * per_item);
                let row_blocks = at % per_item..at % per_item + (end - at);
                match item.matrix {
                    Some(matrix) => launch.products::<S>(matrix, item.pairs, row_blocks),
                    None => write_zeros(params, item, row_blocks),
                }
                at = end;
            }
        }
    }
}

/// Cuts the scratch memory into that of the activations and that of the sort; a launch without experts does not sort.
fn split_scratch<'a>(params: &GroupedMatmulParams, scratch: &'a mut [u8]) -> (&'a mut [u8], &'a mut [u32]) {
    let words = if params.experts.is_null() { 0 } else { groups::words(params) };
    let (staging, rest) = scratch.split_at_mut(scratch.len() / 4 * 4 - 4 * words);
    // SAFETY: any bits are a number; `align_to_mut` keeps to the aligned middle.
    let (_, words, _) = unsafe { rest.align_to_mut::<u32>() };
    (staging, words)
}

/// The share of `work` that `blocks` of a grid of `grid` blocks have: neighbouring blocks have neighbouring shares.
fn share(blocks: Range<usize>, work: usize, grid: usize) -> Range<usize> {
    let at = |block: usize| (block as u128 * work as u128 / grid.max(1) as u128) as usize;
    at(blocks.start)..at(blocks.end)
}

/// Writes zeros to the rows of `row_blocks` of an item's results.
///
/// # Safety
/// The output must be valid and the row blocks exist.
unsafe fn write_zeros(params: &GroupedMatmulParams, item: Item<'_>, row_blocks: Range<usize>) {
    let rows = params.rows as usize;
    let (start, end) = (row_blocks.start * BLOCK_PANELS * LANES, rows.min(row_blocks.end * BLOCK_PANELS * LANES));
    for i in 0..item.pairs.len() {
        // SAFETY: the output has `rows` elements a pair.
        unsafe { params.out.add(item.pairs.get(i) * rows + start).write_bytes(0, end - start) };
    }
}
