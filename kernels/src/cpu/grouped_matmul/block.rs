//! Products of listed rows of activations with row blocks of one matrix, tile after tile.
//!
//! The rows of an item are gathered once into scratch memory, side by side as the register tiles read them, and serve all
//! row blocks of a call. Where they came from does not show: a result depends on its row and its matrix alone.

use std::ops::Range;

use super::groups::Pairs;
use crate::abi::GroupedMatmulParams;
use crate::cpu::matmul::BLOCK_PANELS;
use crate::cpu::matmul::tile::Product;
use crate::cpu::matmul::weights::{Columns, GROUP, Panel};
use crate::cpu::simd::{LANES, Simd};

/// Tokens of the greatest register tile of any instruction set.
pub(super) const GREATEST_TILE: usize = 16;

/// A launch as one thread sees it.
pub(super) struct Launch<'a, K: Product> {
    params: &'a GroupedMatmulParams,
    cols: usize,
    panel_bytes: usize,
    /// The activations of one item: tile after tile, in a tile group after group.
    staged: *mut K::Activation,
    /// How many there is room for.
    capacity: usize,
}

/// A matrix and its bias, if it has one.
#[derive(Clone, Copy)]
struct Matrix {
    w: *const u8,
    bias: *const f32,
}

impl<'a, K: Product> Launch<'a, K> {
    pub fn new(params: &'a GroupedMatmulParams, scratch: &mut [u8]) -> Launch<'a, K> {
        let cols = params.cols as usize;
        let panel_bytes = K::Weights::panel_bytes(cols);
        let capacity = scratch.len() / size_of::<K::Activation>();
        Launch { params, cols, panel_bytes, staged: scratch.as_mut_ptr().cast(), capacity }
    }

    /// Computes rows of the products of `pairs` with a matrix: those of the row blocks `row_blocks`.
    ///
    /// # Safety
    /// The launch's parameters must be valid, matrix and row blocks exist, and the machine have the instruction set.
    #[inline(always)]
    pub unsafe fn products<S: Simd>(&self, matrix: usize, pairs: Pairs<'_>, row_blocks: Range<usize>) {
        let rows = self.params.rows as usize;
        let panels = rows.div_ceil(LANES);
        let w = self.params.w.cast::<u8>().wrapping_add(matrix * panels * self.panel_bytes);
        let bias = self.params.bias;
        let bias = if bias.is_null() { bias } else { bias.wrapping_add(matrix * rows) };
        // SAFETY: passed on.
        unsafe {
            self.stage::<S>(pairs);
            for row_block in row_blocks {
                let panels = row_block * BLOCK_PANELS..panels.min((row_block + 1) * BLOCK_PANELS);
                self.block::<S>(Matrix { w, bias }, pairs, panels);
            }
        }
    }

    /// The staged records of the tile that begins with the `first`-th pair.
    #[inline(always)]
    fn records(&self, first: usize) -> *mut K::Activation {
        self.staged.wrapping_add(first * self.cols.div_ceil(GROUP))
    }

    /// The activations of a pair.
    #[inline(always)]
    fn activations(&self, pair: usize) -> *const u8 {
        let row = if self.params.slots_share_x == 0 { pair } else { pair / self.params.slots as usize };
        self.params.x.cast::<u8>().wrapping_add(row * K::row_bytes(self.cols))
    }

    /// Stages the activations of `pairs`, the last tile filled up with zeros.
    #[inline(always)]
    unsafe fn stage<S: Simd>(&self, pairs: Pairs<'_>) {
        let groups = self.cols.div_ceil(GROUP);
        for first in (0..pairs.len()).step_by(greatest_tile::<S>()) {
            let count = greatest_tile::<S>().min(pairs.len() - first);
            let tile = tile_for::<S>(count);
            let to = self.records(first);
            debug_assert!((first + tile) * groups <= self.capacity, "scratch memory is too short");
            // SAFETY: scratch holds all tiles of an item, x a row for each pair; zero bytes are a valid record.
            unsafe {
                for t in 0..count {
                    K::stage::<S>(self.activations(pairs.get(first + t)), self.cols, to.add(t), tile);
                }
                for group in 0..if count < tile { groups } else { 0 } {
                    to.add(group * tile + count).write_bytes(0, tile - count);
                }
            }
        }
    }

    /// Computes the products of `pairs`, which are staged, with the panels of a row block.
    #[inline(always)]
    unsafe fn block<S: Simd>(&self, matrix: Matrix, pairs: Pairs<'_>, panels: Range<usize>) {
        for first in (0..pairs.len()).step_by(greatest_tile::<S>()) {
            let count = greatest_tile::<S>().min(pairs.len() - first);
            let place = Place { launch: self, matrix, pairs, first, count };
            // SAFETY: the panels exist, the pairs are staged for a tile of this size.
            unsafe {
                match tile_for::<S>(count) {
                    1 => place.single::<S>(panels.clone()),
                    4 if greatest_tile::<S>() >= 4 => place.tiles::<S, 4, 1>(panels.clone()),
                    6 if greatest_tile::<S>() == 6 => place.tiles::<S, 6, 1>(panels.clone()),
                    8 if greatest_tile::<S>() == 16 => place.tiles::<S, 8, 1>(panels.clone()),
                    16 if greatest_tile::<S>() == 16 => place.tiles::<S, 16, 1>(panels.clone()),
                    tile => unreachable!("no instruction set has a tile of {tile} tokens"),
                }
            }
        }
    }
}

/// A column of tiles: `count` pairs from the `first`-th on, down a matrix.
struct Place<'a, K: Product> {
    launch: &'a Launch<'a, K>,
    matrix: Matrix,
    pairs: Pairs<'a>,
    first: usize,
    count: usize,
}

impl<K: Product> Place<'_, K> {
    /// One pair: all panels of a block at a time, where the product gains by that.
    #[inline(always)]
    unsafe fn single<S: Simd>(&self, panels: Range<usize>) {
        const { assert!(K::PANELS == 1 || K::PANELS == BLOCK_PANELS) };
        // SAFETY: passed on.
        unsafe {
            if greatest_tile::<S>() > 1 && K::PANELS > 1 && panels.len() == BLOCK_PANELS {
                self.tiles::<S, 1, BLOCK_PANELS>(panels);
            } else {
                self.tiles::<S, 1, 1>(panels);
            }
        }
    }

    /// Computes and stores the tiles of `T` pairs, as far as they exist, with all panels, `P` at a time.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const T: usize, const P: usize>(&self, panels: Range<usize>) {
        let Launch { cols, panel_bytes, .. } = *self.launch;
        let x = self.launch.records(self.first);
        for index in panels.step_by(P) {
            // SAFETY: the panels exist; panels of weights follow each other.
            unsafe {
                let panel = Panel { start: self.matrix.w.add(index * panel_bytes), cols };
                let tile = K::tile::<S, T, P>(panel, panel_bytes, x);
                for (p, sums) in tile.iter().enumerate() {
                    self.store::<S, T>(sums, (index + p) * LANES);
                }
            }
        }
    }

    /// Adds the bias and stores rows `row..` of the sums, as far as pairs and rows exist.
    #[inline(always)]
    unsafe fn store<S: Simd, const T: usize>(&self, sums: &[S::F; T], row: usize) {
        let params = self.launch.params;
        let rows = params.rows as usize;
        let count = LANES.min(rows - row);
        // SAFETY: rows and pairs stay within bias and output.
        unsafe {
            let bias = if self.matrix.bias.is_null() {
                None
            } else {
                let mut lanes = [0.0; LANES];
                self.matrix.bias.add(row).copy_to_nonoverlapping(lanes.as_mut_ptr(), count);
                Some(S::load(lanes.as_ptr()))
            };
            for (t, &sum) in sums.iter().enumerate().take(self.count) {
                let out = params.out.add(self.pairs.get(self.first + t) * rows + row);
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
