//! Matrix product of activations with packed weights: `out[t, n] = Σ_k x[t, k] · w[n, k] (+ bias[n])`.
//!
//! The parameters are [`MatmulParams`]. Weights are packed (`rows16` of `ir::quant`) in any of its formats, activations
//! f32 or, for the quantised formats, q8x32. One template is compiled for each pair and instruction set; it sums every
//! output element over `k` upwards in a lane of its own, so the bits depend neither on the number of tokens, nor on the
//! split of the grid, nor on the instruction set.
//!
//! The grid cuts the weights into blocks of [`BLOCK_PANELS`] panels and the tokens into blocks that fit the second cache;
//! neighbouring blocks share their tokens and stage them once a call, so a thread should get runs of blocks.

mod activations;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tile;
pub(crate) mod weights;

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use ir::types::DType;

pub(crate) use self::activations::integer_row_bytes;
use self::tile::{FloatProduct, IntegerProduct, Product};
use self::weights::{Columns, GROUP, Panel};
use super::CpuKernel;
use super::isa::Isa;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::MatmulParams;

/// Panels of 16 rows in a block of the grid.
pub const BLOCK_PANELS: usize = 4;

/// Tokens of the greatest register tile of any instruction set.
const GREATEST_TILE: usize = 16;

/// The kernel for weights of type `weights` and activations of type `activations`, over [`MatmulParams`]; `None` if there
/// is no such kernel or this machine lacks the instruction set.
pub fn select(weights: DType, activations: DType, isa: Isa) -> Option<CpuKernel> {
    match activations {
        DType::F32 => weights::with_format!(weights, W => simd::select::<Matmul<FloatProduct<W>>>(isa)),
        DType::Q8X32 => weights::with_quantised!(weights, W => simd::select::<Matmul<IntegerProduct<W>>>(isa)),
        _ => None,
    }
}

/// Blocks of the launch's grid.
pub fn blocks(activations: DType, params: &MatmulParams) -> usize {
    (params.tokens as usize).div_ceil(block_tokens(activations)) * row_blocks(params)
}

/// Bytes of scratch memory for launches of at most `tokens` tokens of `cols` columns.
pub fn scratch_bytes(activations: DType, tokens: usize, cols: usize) -> usize {
    let record = match activations {
        DType::F32 => size_of::<activations::Numbers>(),
        _ => size_of::<activations::Integers>(),
    };
    // The last tile of a token block may be staged wider than there are tokens.
    let tokens = tokens.min(block_tokens(activations)) + GREATEST_TILE - 1;
    tokens * cols.div_ceil(GROUP) * record
}

/// Tokens of a block of the grid.
fn block_tokens(activations: DType) -> usize {
    if activations == DType::F32 { tile::NUMBER_TOKENS } else { tile::INTEGER_TOKENS }
}

fn row_blocks(params: &MatmulParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_PANELS * LANES)
}

/// The matmul of product `K`.
struct Matmul<K>(PhantomData<K>);

impl<K: Product> Body for Matmul<K> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes a valid `MatmulParams` and blocks of its grid.
        unsafe {
            let params = &*params.cast::<MatmulParams>();
            let launch = Launch::<K>::new(params, scratch);
            let row_blocks = row_blocks(params);
            let mut staged = None;
            for block in blocks {
                let tokens = launch.tokens(block / row_blocks);
                if staged.as_ref() != Some(&tokens) {
                    launch.stage::<S>(tokens.clone());
                    staged = Some(tokens.clone());
                }
                launch.block::<S>(tokens, block % row_blocks);
            }
        }
    }
}

/// A launch as one thread sees it.
struct Launch<'a, K: Product> {
    params: &'a MatmulParams,
    cols: usize,
    panel_bytes: usize,
    /// The activations of one token block: tile after tile, in a tile group after group.
    staged: *mut K::Activation,
    /// How many there is room for.
    capacity: usize,
}

impl<K: Product> Launch<'_, K> {
    fn new<'a>(params: &'a MatmulParams, scratch: &mut [u8]) -> Launch<'a, K> {
        let cols = params.cols as usize;
        let panel_bytes = K::Weights::panel_bytes(cols);
        let capacity = scratch.len() / size_of::<K::Activation>();
        Launch { params, cols, panel_bytes, staged: scratch.as_mut_ptr().cast(), capacity }
    }

    /// The tokens of a token block.
    fn tokens(&self, block: usize) -> Range<usize> {
        block * K::TOKENS..((block + 1) * K::TOKENS).min(self.params.tokens as usize)
    }

    /// The staged records of the tile that begins with the `first`-th token of its block.
    #[inline(always)]
    fn records(&self, first: usize) -> *mut K::Activation {
        self.staged.wrapping_add(first * self.cols.div_ceil(GROUP))
    }

    /// Stages the activations of `tokens`, the last tile filled up with zeros.
    #[inline(always)]
    unsafe fn stage<S: Simd>(&self, tokens: Range<usize>) {
        let row_bytes = K::row_bytes(self.cols);
        let groups = self.cols.div_ceil(GROUP);
        let x = self.params.x.cast::<u8>();
        for first in (0..tokens.len()).step_by(greatest_tile::<S>()) {
            let count = greatest_tile::<S>().min(tokens.len() - first);
            let tile = tile_for::<S>(count);
            let to = self.records(first);
            debug_assert!((first + tile) * groups <= self.capacity, "scratch memory is too short");
            // SAFETY: scratch holds all tiles of a token block, x all tokens; zero bytes are a valid record.
            unsafe {
                for t in 0..count {
                    K::stage::<S>(x.add((tokens.start + first + t) * row_bytes), self.cols, to.add(t), tile);
                }
                for group in 0..if count < tile { groups } else { 0 } {
                    to.add(group * tile + count).write_bytes(0, tile - count);
                }
            }
        }
    }

    /// Computes the products of `tokens`, which are staged, with the panels of a row block.
    #[inline(always)]
    unsafe fn block<S: Simd>(&self, tokens: Range<usize>, row_block: usize) {
        let panels = (self.params.rows as usize).div_ceil(LANES);
        let panels = row_block * BLOCK_PANELS..panels.min((row_block + 1) * BLOCK_PANELS);
        for first in (0..tokens.len()).step_by(greatest_tile::<S>()) {
            let count = greatest_tile::<S>().min(tokens.len() - first);
            let token = tokens.start + first..tokens.start + first + count;
            let x = self.records(first);
            // SAFETY: the panels exist, x is staged for a tile of this size.
            unsafe {
                match tile_for::<S>(count) {
                    1 => self.single::<S>(panels.clone(), x, token),
                    4 if greatest_tile::<S>() >= 4 => self.tiles::<S, 4, 1>(panels.clone(), x, token),
                    6 if greatest_tile::<S>() == 6 => self.tiles::<S, 6, 1>(panels.clone(), x, token),
                    8 if greatest_tile::<S>() == 16 => self.tiles::<S, 8, 1>(panels.clone(), x, token),
                    16 if greatest_tile::<S>() == 16 => self.tiles::<S, 16, 1>(panels.clone(), x, token),
                    tile => unreachable!("no instruction set has a tile of {tile} tokens"),
                }
            }
        }
    }

    /// One token: all panels of a block at a time, where the product gains by that.
    #[inline(always)]
    unsafe fn single<S: Simd>(&self, panels: Range<usize>, x: *const K::Activation, token: Range<usize>) {
        const { assert!(K::PANELS == 1 || K::PANELS == BLOCK_PANELS) };
        // SAFETY: passed on.
        unsafe {
            if greatest_tile::<S>() > 1 && K::PANELS > 1 && panels.len() == BLOCK_PANELS {
                self.tiles::<S, 1, BLOCK_PANELS>(panels, x, token);
            } else {
                self.tiles::<S, 1, 1>(panels, x, token);
            }
        }
    }

    /// Computes and stores the tiles of `T` tokens, of which `tokens` exist, with all panels, `P` at a time.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const T: usize, const P: usize>(
        &self,
        panels: Range<usize>,
        x: *const K::Activation,
        tokens: Range<usize>,
    ) {
        for index in panels.step_by(P) {
            // SAFETY: the panels exist; panels of weights follow each other.
            unsafe {
                let panel = Panel { start: self.params.w.cast::<u8>().add(index * self.panel_bytes), cols: self.cols };
                let tile = K::tile::<S, T, P>(panel, self.panel_bytes, x);
                for (p, sums) in tile.iter().enumerate() {
                    self.store::<S, T>(sums, (index + p) * LANES, tokens.clone());
                }
            }
        }
    }

    /// Adds the bias and stores rows `row..` of the sums, as far as tokens and rows exist.
    #[inline(always)]
    unsafe fn store<S: Simd, const T: usize>(&self, sums: &[S::F; T], row: usize, tokens: Range<usize>) {
        let rows = self.params.rows as usize;
        let count = LANES.min(rows - row);
        // SAFETY: rows and tokens stay within bias and output.
        unsafe {
            let bias = if self.params.bias.is_null() {
                None
            } else {
                let mut lanes = [0.0; LANES];
                self.params.bias.add(row).copy_to_nonoverlapping(lanes.as_mut_ptr(), count);
                Some(S::load(lanes.as_ptr()))
            };
            for (t, &sum) in sums.iter().enumerate().take(tokens.len()) {
                let out = self.params.out.add((tokens.start + t) * rows + row);
                // No closure: it would not inherit the instruction set.
                let sum = match bias {
                    Some(bias) => S::add(sum, bias),
                    None => sum,
                };
                if count == LANES {
                    S::store(out, sum);
                } else {
                    let mut lanes = [0.0; LANES];
                    S::store(lanes.as_mut_ptr(), sum);
                    out.copy_from_nonoverlapping(lanes.as_ptr(), count);
                }
            }
        }
    }
}

/// The smallest tile of at least `count` tokens.
#[inline(always)]
fn tile_for<S: Simd>(count: usize) -> usize {
    let mut tile = greatest_tile::<S>();
    for &smaller in S::TILES.iter().rev() {
        if smaller >= count {
            tile = smaller;
        }
    }
    tile
}

/// Tokens of the greatest tile.
#[inline(always)]
const fn greatest_tile<S: Simd>() -> usize {
    const { S::TILES[S::TILES.len() - 1] }
}
