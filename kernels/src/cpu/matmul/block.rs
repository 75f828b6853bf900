//! Products of rows of activations with panels of matrices, tile after tile: the one walk under every kernel that multiplies.
//!
//! Rows are prepared and gathered once into scratch memory ([`Multiplier::stage`]), side by side as the register tiles read
//! them, and serve any number of panels ([`Multiplier::multiply`]). Where they came from does not show: a sum depends on its row
//! and its matrix alone. A plain product stores its sums as they leave the registers; a fused one hands each tile to an
//! [`Epilogue`], through a pointer: the code of a format is compiled once for all kernels, and a call a tile of 16 rows is
//! little against their products.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use ir::types::DType;

use super::prologue::Rows;
use super::tile::{self, Product};
use super::weights::{Columns, GROUP, Panel};
use super::{BLOCK_PANELS, activations};
use crate::cpu::CpuKernel;
use crate::cpu::grouped_matmul::groups::Pairs;
use crate::cpu::simd::{Body, LANES, Simd};

/// Tokens of the greatest register tile of any instruction set.
pub(crate) const GREATEST_TILE: usize = 16;

/// Greatest number of rows that are staged together, for any product.
pub(crate) const MOST_ROWS: usize = tile::INTEGER_TOKENS;

/// A product on an instruction set, without its type: kernels that do not multiply themselves are compiled once for all.
#[derive(Clone, Copy)]
pub(crate) struct Multiplier {
    stage: CpuKernel,
    multiply: CpuKernel,
    panel_bytes: fn(usize) -> usize,
    /// Rows staged together at most.
    pub item_rows: usize,
}

/// Greatest number of rows staged together, for a product of activations of that type.
pub(crate) fn item_rows(activations: DType) -> usize {
    if activations == DType::F32 { tile::NUMBER_TOKENS } else { tile::INTEGER_TOKENS }
}

/// Bytes of scratch memory to stage at most `rows` rows in.
pub(crate) fn staging_bytes(activations: DType, rows: usize, cols: usize) -> usize {
    // The last tile of an item may be staged wider than it has rows.
    let rows = rows.min(item_rows(activations)) + GREATEST_TILE - 1;
    rows * row_staging_bytes(activations, cols)
}

/// Bytes of scratch memory to stage a single row in.
pub(crate) fn row_staging_bytes(activations: DType, cols: usize) -> usize {
    let record = match activations {
        DType::F32 => size_of::<activations::Numbers>(),
        _ => size_of::<activations::Integers>(),
    };
    cols.div_ceil(GROUP) * record
}

/// Rows in scratch memory as tiles read them.
#[derive(Clone, Copy)]
pub(crate) struct Staged {
    records: *mut u8,
    count: usize,
    cols: usize,
}

impl Staged {
    /// A row that was staged alone, at its place in memory.
    pub fn one(records: *mut u8, cols: usize) -> Staged {
        Staged { records, count: 1, cols }
    }
}

/// Where sums go.
pub(crate) enum Sink<'a> {
    /// Plus a bias of `rows` elements, or null, to `out`: row `pairs[i]` of `rows` elements has those of the `i`-th row staged.
    Store { out: *mut f32, bias: *const f32, rows: usize, pairs: Pairs<'a> },
    /// To an epilogue.
    Finish(Finisher<'a>),
}

/// An epilogue without its type.
#[derive(Clone, Copy)]
pub(crate) struct Finisher<'a> {
    finish: CpuKernel,
    epilogue: *const c_void,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> Finisher<'a> {
    /// That epilogue on an instruction set.
    pub fn new<S: Simd, E: Epilogue>(epilogue: &'a E) -> Finisher<'a> {
        Finisher { finish: S::call::<Finish<E>>, epilogue: (&raw const *epilogue).cast(), lifetime: PhantomData }
    }

    /// Hands over one tile.
    ///
    /// # Safety
    /// The epilogue must be valid for its rows and panel.
    unsafe fn finish(&self, tile: &Tile<'_>) {
        let call: (*const c_void, &Tile<'_>) = (self.epilogue, tile);
        // SAFETY: the function takes this pair.
        unsafe { (self.finish)((&raw const call).cast(), 0..0, &mut []) };
    }

    /// Hands over the sums of `count` rows with two matrices of zeros.
    ///
    /// # Safety
    /// The epilogue must be valid for these rows and panels.
    pub unsafe fn finish_zeros(&self, count: usize, panels: Range<usize>) {
        let zeros = [[0.0; LANES]; GREATEST_TILE];
        for panel in panels {
            for first in (0..count).step_by(GREATEST_TILE) {
                let sums = &zeros[..GREATEST_TILE.min(count - first)];
                // SAFETY: as the caller says.
                unsafe { self.finish(&Tile { sums, second: sums, first, panel }) };
            }
        }
    }
}

/// The sums of some staged rows with one panel of each matrix.
pub(crate) struct Tile<'a> {
    /// Of each row, those with the panel of the first matrix.
    pub sums: &'a [[f32; LANES]],
    /// And with that of the second, or nothing.
    pub second: &'a [[f32; LANES]],
    /// Number of the first of the rows among those staged.
    pub first: usize,
    /// Number of the panel: its lanes are rows `16 · panel..` of the matrices, of which the last panel may lack some.
    pub panel: usize,
}

/// What a fused kernel does with sums. Must be `#[inline(always)]`.
pub(crate) trait Epilogue {
    /// Takes one tile.
    ///
    /// # Safety
    /// Needs the instruction set `S`; what the epilogue points to must be valid for the tile's rows and panel.
    unsafe fn finish<S: Simd>(&self, tile: &Tile<'_>);
}

struct Finish<E>(PhantomData<E>);

impl<E: Epilogue> Body for Finish<E> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, _: Range<usize>, _: &mut [u8]) {
        // SAFETY: `Multiply` passes a tile and the epilogue of this type.
        unsafe {
            let (epilogue, tile) = *params.cast::<(*const c_void, &Tile<'_>)>();
            (*epilogue.cast::<E>()).finish::<S>(tile);
        }
    }
}

/// Rows to stage.
struct StageCall<'a> {
    rows: &'a Rows,
    pairs: Pairs<'a>,
    pairs_per_row: usize,
}

/// Panels to multiply staged rows by.
struct MultiplyCall<'a> {
    staged: Staged,
    matrices: [*const u8; 2],
    panels: Range<usize>,
    sink: &'a Sink<'a>,
}

impl Multiplier {
    /// The product `K` on `S`.
    pub fn new<S: Simd, K: Product>() -> Multiplier {
        Multiplier {
            stage: S::call::<Stage<K>>,
            multiply: S::call::<Multiply<K>>,
            panel_bytes: K::Weights::panel_bytes,
            item_rows: K::TOKENS,
        }
    }

    /// Bytes of a matrix of `rows` rows.
    pub fn matrix_bytes(&self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(LANES) * (self.panel_bytes)(cols)
    }

    /// Prepares the rows `pair / pairs_per_row` of at most [`Multiplier::item_rows`] pairs and gathers them in `scratch`, which holds
    /// [`staging_bytes`], aligned to 4.
    ///
    /// # Safety
    /// The rows must be valid.
    pub unsafe fn stage(&self, rows: &Rows, pairs: Pairs<'_>, pairs_per_row: usize, scratch: &mut [u8]) -> Staged {
        let (count, cols) = (pairs.len(), rows.cols());
        debug_assert!(count <= self.item_rows, "too many rows");
        let call = StageCall { rows, pairs, pairs_per_row };
        // SAFETY: the function takes this call.
        unsafe { (self.stage)((&raw const call).cast(), 0..0, scratch) };
        Staged { records: scratch.as_mut_ptr(), count, cols }
    }

    /// Multiplies staged rows by the panels `panels` of one matrix, or of two: the second may be null.
    ///
    /// # Safety
    /// The rows must still be in scratch memory, the matrices have the panels, and the sink be valid for both.
    pub unsafe fn multiply(&self, staged: Staged, matrices: [*const u8; 2], panels: Range<usize>, sink: &Sink<'_>) {
        let call = MultiplyCall { staged, matrices, panels, sink };
        // SAFETY: the function takes this call.
        unsafe { (self.multiply)((&raw const call).cast(), 0..0, &mut []) };
    }
}

/// Stages rows of product `K`, the last tile filled up with zeros.
struct Stage<K>(PhantomData<K>);

impl<K: Product> Body for Stage<K> {
    #[inline(always)]
    unsafe fn run<S: Simd>(call: *const c_void, _: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: `Multiplier::stage` passes its call, whose rows are valid; scratch holds all tiles of an item; zero bytes are a
        // valid record.
        unsafe {
            let StageCall { rows, pairs, pairs_per_row } = *call.cast::<StageCall<'_>>();
            let groups = rows.cols().div_ceil(GROUP);
            let records = scratch.as_mut_ptr().cast::<K::Activation>();
            for first in (0..pairs.len()).step_by(greatest_tile::<S>()) {
                let count = greatest_tile::<S>().min(pairs.len() - first);
                let tile = tile_for::<S>(count);
                let to = records.add(first * groups);
                let capacity = scratch.len() / size_of::<K::Activation>();
                debug_assert!((first + tile) * groups <= capacity, "scratch memory is too short");
                for t in 0..count {
                    let row = rows.get(pairs.get(first + t) / pairs_per_row);
                    K::stage::<S>(row, rows.cols(), to.add(t), tile);
                }
                for group in 0..if count < tile { groups } else { 0 } {
                    to.add(group * tile + count).write_bytes(0, tile - count);
                }
            }
        }
    }
}

/// Multiplies staged rows of product `K`.
struct Multiply<K>(PhantomData<K>);

impl<K: Product> Body for Multiply<K> {
    #[inline(always)]
    unsafe fn run<S: Simd>(call: *const c_void, _: Range<usize>, _: &mut [u8]) {
        // SAFETY: `Multiplier::multiply` passes its call: panels exist, rows are staged for tiles of these sizes.
        unsafe {
            let MultiplyCall { staged, matrices, panels, sink } = &*call.cast::<MultiplyCall<'_>>();
            let panel_bytes = K::Weights::panel_bytes(staged.cols);
            let groups = staged.cols.div_ceil(GROUP);
            for start in panels.clone().step_by(BLOCK_PANELS) {
                let panels = start..panels.end.min(start + BLOCK_PANELS);
                for first in (0..staged.count).step_by(greatest_tile::<S>()) {
                    let count = greatest_tile::<S>().min(staged.count - first);
                    let x = staged.records.cast::<K::Activation>().add(first * groups);
                    let column =
                        Column::<K> { x, matrices: *matrices, panel_bytes, cols: staged.cols, first, count, sink };
                    match tile_for::<S>(count) {
                        1 => column.single::<S>(panels.clone()),
                        4 if greatest_tile::<S>() >= 4 => column.tiles::<S, 4, 1>(panels.clone()),
                        6 if greatest_tile::<S>() == 6 => column.tiles::<S, 6, 1>(panels.clone()),
                        8 if greatest_tile::<S>() == 16 => column.tiles::<S, 8, 1>(panels.clone()),
                        16 if greatest_tile::<S>() == 16 => column.tiles::<S, 16, 1>(panels.clone()),
                        tile => unreachable!("no instruction set has a tile of {tile} tokens"),
                    }
                }
            }
        }
    }
}

/// A column of tiles: `count` staged rows from the `first`-th on, down the matrices.
struct Column<'a, K: Product> {
    x: *const K::Activation,
    matrices: [*const u8; 2],
    panel_bytes: usize,
    cols: usize,
    first: usize,
    count: usize,
    sink: &'a Sink<'a>,
}

impl<K: Product> Column<'_, K> {
    /// One row: all panels of a block at a time, where the product gains by that.
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

    /// Computes the tiles of `T` rows, as far as they exist, with all panels, `P` at a time.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const T: usize, const P: usize>(&self, panels: Range<usize>) {
        let mut sums = MaybeUninit::<[[[f32; LANES]; GREATEST_TILE]; 2]>::uninit();
        let sums = sums.as_mut_ptr().cast::<[f32; LANES]>();
        for panel in panels.step_by(P) {
            // Once or twice in a loop: the code of a tile is large.
            for (m, matrix) in self.matrices.iter().enumerate() {
                if matrix.is_null() {
                    break;
                }
                // SAFETY: the panels exist; panels of weights follow each other. There is room for T · P sums of each matrix.
                unsafe {
                    let start = matrix.add(panel * self.panel_bytes);
                    let tile =
                        K::tile::<S, T, P>(Panel { start, cols: self.cols }, self.panel_bytes, self.x, self.first == 0);
                    for (p, tile) in tile.iter().enumerate() {
                        if let Sink::Store { out, bias, rows, pairs } = self.sink {
                            self.store::<S, T>(tile, (*out, *bias, *rows), pairs, (panel + p) * LANES);
                        } else {
                            for (t, &sum) in tile.iter().enumerate() {
                                S::store(sums.add(m * GREATEST_TILE + p * T + t).cast(), sum);
                            }
                        }
                    }
                }
            }
            if let Sink::Finish(finisher) = self.sink {
                for p in 0..P {
                    // SAFETY: the sums of the matrices there are have been written.
                    unsafe { self.finish(finisher, sums.add(p * T), panel + p) };
                }
            }
        }
    }

    /// Hands the sums of a panel over.
    ///
    /// # Safety
    /// There are `count` sums at `sums` and, of a second matrix, a greatest tile behind them.
    #[inline(always)]
    unsafe fn finish(&self, finisher: &Finisher<'_>, sums: *const [f32; LANES], panel: usize) {
        // SAFETY: as the caller says.
        unsafe {
            let second = if self.matrices[1].is_null() { 0 } else { self.count };
            let tile = Tile {
                sums: std::slice::from_raw_parts(sums, self.count),
                second: std::slice::from_raw_parts(sums.add(GREATEST_TILE), second),
                first: self.first,
                panel,
            };
            finisher.finish(&tile);
        }
    }

    /// Adds the bias and stores rows `row..` of the sums, as far as pairs and rows exist.
    #[inline(always)]
    unsafe fn store<S: Simd, const T: usize>(
        &self,
        sums: &[S::F; T],
        (out, bias, rows): (*mut f32, *const f32, usize),
        pairs: &Pairs<'_>,
        row: usize,
    ) {
        let count = LANES.min(rows - row);
        // SAFETY: rows and pairs stay within bias and output.
        unsafe {
            let bias = if bias.is_null() {
                None
            } else {
                let mut lanes = [0.0; LANES];
                bias.add(row).copy_to_nonoverlapping(lanes.as_mut_ptr(), count);
                Some(S::load(lanes.as_ptr()))
            };
            for (t, &sum) in sums.iter().enumerate().take(self.count) {
                let out = out.add(pairs.get(self.first + t) * rows + row);
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
