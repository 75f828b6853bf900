//! Products of rows with one matrix each of a stack: `out[t, j] = x[t, j] · w[experts[t, j]]ᵀ (+ bias[experts[t, j]])`.
//!
//! The parameters are [`GroupedMatmulParams`]; variants are `<weights>.<x>`. `matmul` is the case of one matrix and compiles to the same code, so a row
//! and a matrix give the same bits in both, whatever else is in the launch. Matrices that nobody selected are not read.
//!
//! Pairs of token and slot are sorted by expert and cut into items (see [`groups`]); work is (item, block of rows). The
//! grid is drawn before the experts are known, for the greatest number of items there can be, and the work there is is
//! spread over it evenly. A decoding step has an item a slot and no empty blocks; a long prompt reads each selected matrix
//! once per item of 32 or 64 rows. An expert that does not exist gives zeros.

pub(crate) mod groups;
#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use ir::types::DType;

use self::groups::{Grouping, Groups, Item};
use super::CpuKernel;
use super::isa::Isa;
use super::matmul::BLOCK_PANELS;
use super::matmul::block::{self, Multiplier, Sink};
use super::matmul::prologue::{self, Norm, ProductTypes, Rounding, Rows, select_product};
use super::matmul::tile::Product;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::GroupedMatmulParams;

/// The kernel of a variant over [`GroupedMatmulParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    select_product!(GroupedMatmul, variant, isa)
}

/// Blocks of the launch's grid; of the pointers only whether `experts` is null matters.
pub fn blocks(variant: &str, params: &GroupedMatmulParams) -> usize {
    ProductTypes::parse(variant).map_or(0, |types| blocks_of(types.activations, params))
}

/// Blocks of the grid of a product by activations of that type.
pub(super) fn blocks_of(activations: DType, params: &GroupedMatmulParams) -> usize {
    grid(&params.into(), block::item_rows(activations), params.rows as usize)
}

/// Bytes of scratch memory, for launches of at most these counts.
pub fn scratch_bytes(variant: &str, params: &GroupedMatmulParams) -> usize {
    let Some(ProductTypes { activations, rounding, .. }) = ProductTypes::parse(variant) else { return 0 };
    let (pairs, cols) = (params.tokens as usize * params.slots as usize, params.cols as usize);
    prologue::scratch_bytes(rounding, 0, cols)
        + block::staging_bytes(activations, pairs, cols)
        + groups::words(&params.into()) * size_of::<u32>()
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

/// Blocks of the grid of products of grouped pairs with matrices of `rows` rows, at most `item_rows` pairs at a time.
pub(super) fn grid(grouping: &Grouping, item_rows: usize, rows: usize) -> usize {
    groups::most_items(grouping, item_rows) * row_blocks(rows)
}

/// Blocks of rows of a matrix.
fn row_blocks(rows: usize) -> usize {
    rows.div_ceil(BLOCK_PANELS * LANES)
}

/// Hands the work that `blocks` of a [`grid`] have to `work`: an item and the panels of its matrix to multiply it by. `memory`
/// holds the words of the grouping.
///
/// # Safety
/// The experts must be valid.
pub(super) unsafe fn walk(
    grouping: Grouping,
    (item_rows, rows): (usize, usize),
    blocks: Range<usize>,
    memory: &mut [u32],
    mut work: impl FnMut(Item<'_>, Range<usize>),
) {
    // SAFETY: the caller's.
    let groups = unsafe { Groups::new(grouping, item_rows, memory) };
    let (items, per_item, panels) = (groups.len(), row_blocks(rows), rows.div_ceil(LANES));
    let share = share(blocks, items * per_item, grid(&grouping, item_rows, rows));
    let mut at = share.start;
    for item in groups.items(share.start / per_item.max(1)) {
        if at == share.end {
            break;
        }
        let end = share.end.min((at / per_item + 1) * per_item);
        let first = at % per_item;
        work(item, first * BLOCK_PANELS..panels.min((first + (end - at)) * BLOCK_PANELS));
        at = end;
    }
}

/// The grouped matmul of product `K`, for which the launch rounds x as [`Rounding::from_number`] says.
struct GroupedMatmul<K, const ROUNDING: u8>(PhantomData<K>);

impl<K: Product, const ROUNDING: u8> Body for GroupedMatmul<K, ROUNDING> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        let types = (K::ACTIVATIONS, Rounding::from_number(ROUNDING));
        // SAFETY: the caller passes a valid `GroupedMatmulParams` and blocks of its grid.
        unsafe {
            let params = &*params.cast::<GroupedMatmulParams>();
            let cols = params.cols as usize;
            let (preparing, scratch) = scratch.split_at_mut(prologue::scratch_bytes(types.1, 0, cols));
            let x = Rows::new::<S>(params.x, cols, types, Norm::NONE, preparing);
            products(params, &x, Multiplier::new::<S, K>(), blocks, scratch);
        }
    }
}

/// Executes blocks of a launch by rows `x` of activations.
///
/// # Safety
/// The parameters must be valid, and the blocks of their grid.
pub(super) unsafe fn products(
    params: &GroupedMatmulParams,
    x: &Rows,
    multiplier: Multiplier,
    blocks: Range<usize>,
    scratch: &mut [u8],
) {
    let (rows, cols) = (params.rows as usize, params.cols as usize);
    let grouping = Grouping::from(params);
    let (staging, words) = split_words(scratch, groups::words(&grouping));
    let pairs_per_row = if params.slots_share_x == 0 { 1 } else { grouping.slots };
    let work = |item: Item<'_>, panels: Range<usize>| {
        let Some(matrix) = item.matrix else {
            // SAFETY: the pairs and panels exist.
            return unsafe { write_zeros(params, item, panels) };
        };
        let w = params.w.cast::<u8>().wrapping_add(matrix * multiplier.matrix_bytes(rows, cols));
        let bias = if params.bias.is_null() { params.bias } else { params.bias.wrapping_add(matrix * rows) };
        let sink = Sink::Store { out: params.out, bias, rows, pairs: item.pairs };
        // SAFETY: so they do, and the scratch memory is as long as was asked for.
        unsafe {
            let staged = multiplier.stage(x, item.pairs, pairs_per_row, staging);
            multiplier.multiply(staged, [w, std::ptr::null()], panels, &sink);
        }
    };
    // SAFETY: the caller's.
    unsafe { walk(grouping, (multiplier.item_rows, rows), blocks, words, work) };
}

/// Cuts `words` words off the end of scratch memory.
pub(super) fn split_words(scratch: &mut [u8], words: usize) -> (&mut [u8], &mut [u32]) {
    let (rest, words) = scratch.split_at_mut(scratch.len() / 4 * 4 - 4 * words);
    // SAFETY: any bits are a number; `align_to_mut` keeps to the aligned middle.
    let (_, words, _) = unsafe { words.align_to_mut::<u32>() };
    (rest, words)
}

/// The share of `work` that `blocks` of a grid of `grid` blocks have: neighbouring blocks have neighbouring shares.
fn share(blocks: Range<usize>, work: usize, grid: usize) -> Range<usize> {
    let at = |block: usize| (block as u128 * work as u128 / grid.max(1) as u128) as usize;
    at(blocks.start)..at(blocks.end)
}

/// Writes zeros to the rows of `panels` of an item's results.
///
/// # Safety
/// The output must be valid and the panels exist.
unsafe fn write_zeros(params: &GroupedMatmulParams, item: Item<'_>, panels: Range<usize>) {
    let rows = params.rows as usize;
    let (start, end) = (panels.start * LANES, rows.min(panels.end * LANES));
    for i in 0..item.pairs.len() {
        // SAFETY: the output has `rows` elements a pair.
        unsafe { params.out.add(item.pairs.get(i) * rows + start).write_bytes(0, end - start) };
    }
}
