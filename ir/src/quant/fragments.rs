//! The second packed layout of weights (`fragments`): what the products of GPU devices read.
//!
//! It holds the integers and scales of [`super`]'s panels in the order in which the lanes of a warp want them for
//! `mma.m16n8k16`: a lane loads 16 bytes at a time and has the registers of its fragments after a shift and a mask. A panel
//! and a *tile* hold the same 16 rows, so one is a permutation of the other, and a matrix can be converted tile by tile
//! without loss in either direction. A format is one row of `TABLE`: its planes and its scale vectors.
//!
//! # Layout
//!
//! A matrix is its tiles of 16 rows one after the other, each [`tile_bytes`] long, a multiple of 128; rows missing from the
//! last tile have codes and scales of zero, as in the last panel. A stack of matrices is its matrices one after the other.
//! A tile is a region of codes, [`code_bytes`] long, then a region of scales, zero-padded to a multiple of 128.
//!
//! ## Codes
//!
//! Columns are cut into chunks of 64, each [`chunk_bytes`] long, in column order. Codes are unsigned, with the offsets
//! of the panels. Columns past the end of the row hold what the panel holds for them; where a chunk has 32 columns that the
//! panel does not, these hold, in all 16 rows, the integer of value 0, or 0 in the formats with a zero or minimum of
//! their own. They are worth nothing only where the activations are zero.
//!
//! Lane `4g + t` (`g` in 0..8, `t` in 0..4) holds of k16 tile `i` of the chunk (columns `16i..16i + 16`) the columns
//! `16i + 4t..16i + 4t + 4` of rows `g` and `g + 8`, as the four registers of an A fragment, `lo` the even column:
//!
//! | register | row | `lo`, `hi` |
//! |---|---|---|
//! | a0 | `g` | `4t`, `4t + 1` |
//! | a1 | `g + 8` | `4t`, `4t + 1` |
//! | a2 | `g` | `4t + 2`, `4t + 3` |
//! | a3 | `g + 8` | `4t + 2`, `4t + 3` |
//!
//! The instruction's own order of `k` is thereby permuted; the activations it is given must be permuted alike. A chunk is
//! its planes in the order of the format's row, each `[lane][bytes]`:
//!
//! | plane | bytes | content |
//! |---|---|---|
//! | u4 | 512 | 16 a lane, word `i` is k16 tile `i`: nibbles 0..8 from the lowest are a0.lo a1.lo a2.lo a3.lo a0.hi a1.hi a2.hi a3.hi |
//! | u8 | 1024 | two halves of 512, k16 tiles 0, 1, then 2, 3; 16 a lane, words `2·(i % 2)`: bytes a0.lo a1.lo a0.hi a1.hi, and `+ 1`: the same of a2, a3 |
//! | u2 | 256 | 8 a lane, word `i / 2`, from bit `8·(i % 2)` on: 2 bits each a0.lo a1.lo a2.lo a3.lo, the `.hi` ones 16 bits higher |
//! | u1 | 128 | 4 a lane, from bit `4i` on: 1 bit each a0.lo a1.lo a2.lo a3.lo, the `.hi` ones 16 bits higher |
//! | f16, bf16 | 2048 | four parts of 512, one a k16 tile; 16 a lane: words a0 a1 a2 a3, `lo` in the low half |
//! | f32 | 4096 | eight parts of 512: part `2i` rows `g`, part `2i + 1` rows `g + 8`; 16 a lane: columns `4t..4t + 4` |
//!
//! Q5_* are u4 then u1 (bit 4), Q6_K is u4 then u2 (bits 4..6).
//!
//! ## Scales
//!
//! The vectors of the panel, in its order and at its steps, but each vector of 16 has its rows in the order
//! 0, 8, 1, 9, …, 7, 15: lane `g` reads those of its two rows as one word. Steps of 32 columns are rounded up to whole
//! chunks, `2·ceil(cols / 64)` of them; of longer steps there are `ceil(cols / step)`. Steps that the panel does not have are
//! zero.

mod planes;

#[cfg(test)]
mod tests;

use self::planes::Plane;
use super::checks::{expect_length, matrix_length, packed_length, row_length};
use super::{GROUP, PANEL_ROWS, QuantError, QuantFormat, format};
use crate::types::DType;

/// Columns of one chunk.
pub const CHUNK: usize = 64;

/// Lanes of a warp, which share a fragment.
pub const LANES: usize = 32;

/// What the length of a tile is a multiple of.
pub const TILE_ALIGNMENT: u64 = 128;

/// Bytes of the longest chunk, that of f32.
const LONGEST_CHUNK: usize = 4096;

/// How one format lies in a tile.
struct Fragments {
    dtype: DType,
    /// The planes of a chunk, the lowest bits first.
    planes: &'static [Plane],
    /// The code of columns past the last group.
    zero: u8,
    /// Columns of one step of the scale region; `None` where a row has one.
    step: Option<usize>,
    /// The vectors of 16 of one step: element bytes and how many of them follow each other.
    vectors: &'static [(usize, usize)],
}

/// Every format, in the order of [`super::FORMATS`].
static TABLE: &[Fragments] = &[
    row(DType::F32, &[Plane::Single], 0, None, &[]),
    row(DType::F16, &[Plane::Half], 0, None, &[]),
    row(DType::BF16, &[Plane::Half], 0, None, &[]),
    row(DType::Q4_0, &[Plane::U4], 8, Some(32), &[(2, 1)]),
    row(DType::Q4_1, &[Plane::U4], 0, Some(32), &[(2, 2)]),
    row(DType::Q5_0, &[Plane::U4, Plane::U1], 16, Some(32), &[(2, 1)]),
    row(DType::Q5_1, &[Plane::U4, Plane::U1], 0, Some(32), &[(2, 2)]),
    row(DType::Q8_0, &[Plane::U8], 128, Some(32), &[(2, 1)]),
    row(DType::Q4_K, &[Plane::U4], 0, Some(256), &[(2, 2), (1, 16)]),
    row(DType::Q5_K, &[Plane::U4, Plane::U1], 0, Some(256), &[(2, 2), (1, 16)]),
    row(DType::Q6_K, &[Plane::U4, Plane::U2], 32, Some(256), &[(2, 1), (1, 16)]),
    row(DType::Q4G64, &[Plane::U4], 8, Some(64), &[(2, 1)]),
    row(DType::Q4G128, &[Plane::U4], 8, Some(128), &[(2, 1)]),
    row(DType::Q4Z32, &[Plane::U4], 0, Some(32), &[(2, 1), (1, 1)]),
    row(DType::Q4Z64, &[Plane::U4], 0, Some(64), &[(2, 1), (1, 1)]),
    row(DType::Q4Z128, &[Plane::U4], 0, Some(128), &[(2, 1), (1, 1)]),
    row(DType::Q8C, &[Plane::U8], 128, None, &[(4, 1)]),
    row(DType::F8_E4M3, &[Plane::U8], 0, Some(128), &[(4, 1)]),
    row(DType::MXFP4, &[Plane::U4], 0, Some(32), &[(1, 1)]),
    row(DType::T2, &[Plane::U2], 1, None, &[(4, 1)]),
];

const fn row(
    dtype: DType,
    planes: &'static [Plane],
    zero: u8,
    step: Option<usize>,
    vectors: &'static [(usize, usize)],
) -> Fragments {
    Fragments { dtype, planes, zero, step, vectors }
}

/// The row of a type; `None` for those that are no format of weights.
fn fragments(dtype: DType) -> Option<&'static Fragments> {
    TABLE.iter().find(|row| row.dtype == dtype)
}

/// Bytes of 64 columns of 16 rows in the region of codes, a multiple of 128. `None` for types that are no format of weights.
pub fn chunk_bytes(dtype: DType) -> Option<u64> {
    Some(fragments(dtype)?.chunk_bytes() as u64)
}

/// Columns of the unit that products cut `k` at: whole chunks with whole scales, 64, 128 or 256. `None` as [`chunk_bytes`].
pub fn scale_unit_columns(dtype: DType) -> Option<u64> {
    Some(fragments(dtype)?.step.unwrap_or(CHUNK).max(CHUNK) as u64)
}

/// Bytes of the region of codes of a tile of `cols` columns, where its scales begin. `None` where [`super::packed_bytes`]
/// of a matrix of that many columns is.
pub fn code_bytes(dtype: DType, cols: u64) -> Option<u64> {
    // Bounds `cols` such that no size of a tile overflows: none has more than 128 bytes a column of whole units.
    super::packed_bytes(dtype, PANEL_ROWS as u64, cols)?;
    cols.div_ceil(CHUNK as u64).checked_mul(chunk_bytes(dtype)?)
}

/// Bytes of a tile: 16 rows of `cols` columns. `None` as [`code_bytes`].
pub fn tile_bytes(dtype: DType, cols: u64) -> Option<u64> {
    let (codes, row) = (code_bytes(dtype, cols)?, fragments(dtype)?);
    let scales = row.steps(cols).checked_mul(row.step_bytes() as u64)?;
    codes.checked_add(scales.checked_next_multiple_of(TILE_ALIGNMENT)?)
}

/// Bytes of a matrix `[rows, cols]`, the last tile counted whole. `None` as [`code_bytes`], and on overflow.
pub fn packed_bytes(dtype: DType, rows: u64, cols: u64) -> Option<u64> {
    rows.div_ceil(PANEL_ROWS as u64).checked_mul(tile_bytes(dtype, cols)?)
}

/// Bytes of a weight of shape `[rows, cols]`, or of `[matrices, rows, cols]`. `None` as [`packed_bytes`], and for other
/// ranks.
pub fn packed_bytes_of(dtype: DType, shape: &[u64]) -> Option<u64> {
    match *shape {
        [rows, cols] => packed_bytes(dtype, rows, cols),
        [matrices, rows, cols] => matrices.checked_mul(packed_bytes(dtype, rows, cols)?),
        _ => None,
    }
}

/// Converts a panel of `cols` columns to the tile of the same rows; every byte of `tile` is written.
///
/// # Errors
/// A type that is no format of weights, a row length that is no multiple of its block, or a buffer of the wrong length.
pub fn from_panel(dtype: DType, panel: &[u8], cols: usize, tile: &mut [u8]) -> Result<(), QuantError> {
    let row = checked_row(dtype, panel.len(), cols, tile.len())?;
    let (codes, scales) = tile.split_at_mut(row.code_bytes(cols));
    let (panel_codes, panel_scales) = panel.split_at(row.panel_code_bytes(cols));
    let mut whole = [0; LONGEST_CHUNK];
    for (tile, panel) in codes.chunks_exact_mut(row.chunk_bytes()).zip(panel_codes.chunks(row.chunk_bytes())) {
        if panel.len() == row.chunk_bytes() {
            row.chunk_from_panel(panel, tile);
        } else {
            let whole = &mut whole[..row.chunk_bytes()];
            row.fill_with_zero(whole);
            whole[..panel.len()].copy_from_slice(panel);
            row.chunk_from_panel(whole, tile);
        }
    }
    let used = row.panel_steps(cols) * row.step_bytes();
    let (present, missing) = scales.split_at_mut(used);
    row.each_vector(present, &panel_scales[..used], |bytes, out, vector| match bytes {
        1 => planes::pair_rows::<1>(vector, out),
        2 => planes::pair_rows::<2>(vector, out),
        _ => planes::pair_rows::<4>(vector, out),
    });
    missing.fill(0);
    Ok(())
}

/// The inverse of [`from_panel`]; every byte of `panel` is written.
///
/// # Errors
/// As [`from_panel`].
pub fn to_panel(dtype: DType, tile: &[u8], cols: usize, panel: &mut [u8]) -> Result<(), QuantError> {
    let row = checked_row(dtype, panel.len(), cols, tile.len())?;
    let (codes, scales) = tile.split_at(row.code_bytes(cols));
    let (panel_codes, panel_scales) = panel.split_at_mut(row.panel_code_bytes(cols));
    let mut whole = [0; LONGEST_CHUNK];
    for (tile, panel) in codes.chunks_exact(row.chunk_bytes()).zip(panel_codes.chunks_mut(row.chunk_bytes())) {
        if panel.len() == row.chunk_bytes() {
            row.chunk_to_panel(tile, panel);
        } else {
            row.chunk_to_panel(tile, &mut whole[..row.chunk_bytes()]);
            panel.copy_from_slice(&whole[..panel.len()]);
        }
    }
    let used = row.panel_steps(cols) * row.step_bytes();
    let (present, padding) = panel_scales.split_at_mut(used);
    row.each_vector(present, &scales[..used], |bytes, out, vector| match bytes {
        1 => planes::part_rows::<1>(vector, out),
        2 => planes::part_rows::<2>(vector, out),
        _ => planes::part_rows::<4>(vector, out),
    });
    padding.fill(0);
    Ok(())
}

/// Packs the row-major matrix `[rows, cols]` in `bytes` to `out`, [`packed_bytes`] long. Lossless.
///
/// # Errors
/// As [`from_panel`].
pub fn pack(dtype: DType, bytes: &[u8], rows: usize, cols: usize, out: &mut [u8]) -> Result<(), QuantError> {
    let (format, tile_bytes) = checked_matrix(dtype, bytes.len(), out.len(), rows, cols)?;
    let row_bytes = row_length(dtype, cols)?;
    if row_bytes == 0 {
        return Ok(());
    }
    let mut panel = vec![0; format.panel_bytes(cols)];
    for (tile, tile_rows) in out.chunks_exact_mut(tile_bytes).zip(bytes.chunks(PANEL_ROWS * row_bytes)) {
        let mut slices: [&[u8]; PANEL_ROWS] = [&[]; PANEL_ROWS];
        for (slice, row) in slices.iter_mut().zip(tile_rows.chunks_exact(row_bytes)) {
            *slice = row;
        }
        format.pack_panel(&slices[..tile_rows.len() / row_bytes], cols, &mut panel)?;
        from_panel(dtype, &panel, cols, tile)?;
    }
    Ok(())
}

/// The inverse of [`pack`]: the matrix `[rows, cols]` to row-major `out`.
///
/// # Errors
/// As [`from_panel`].
pub fn unpack(dtype: DType, packed: &[u8], rows: usize, cols: usize, out: &mut [u8]) -> Result<(), QuantError> {
    let (format, tile_bytes) = checked_matrix(dtype, out.len(), packed.len(), rows, cols)?;
    let row_bytes = row_length(dtype, cols)?;
    if row_bytes == 0 {
        return Ok(());
    }
    let mut panel = vec![0; format.panel_bytes(cols)];
    for (tile, rows) in packed.chunks_exact(tile_bytes).zip(out.chunks_mut(PANEL_ROWS * row_bytes)) {
        to_panel(dtype, tile, cols, &mut panel)?;
        for (r, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
            format.unpack_row(&panel, r, cols, row)?;
        }
    }
    Ok(())
}

impl Fragments {
    /// Bytes of a chunk, in a panel as in a tile.
    fn chunk_bytes(&self) -> usize {
        self.planes.iter().map(|plane| plane.chunk_bytes()).sum()
    }

    /// Bytes of the vectors of one step.
    fn step_bytes(&self) -> usize {
        self.vectors.iter().map(|(bytes, count)| PANEL_ROWS * bytes * count).sum()
    }

    /// Steps of a tile's scale region.
    fn steps(&self, cols: u64) -> u64 {
        match self.step {
            None => cols.min(1),
            Some(GROUP) => 2 * cols.div_ceil(CHUNK as u64),
            Some(step) => cols.div_ceil(step as u64),
        }
    }

    /// Steps of a panel's scale region.
    fn panel_steps(&self, cols: usize) -> usize {
        self.step.map_or(cols.min(1), |step| cols.div_ceil(step))
    }

    /// Bytes of a tile's codes.
    fn code_bytes(&self, cols: usize) -> usize {
        cols.div_ceil(CHUNK) * self.chunk_bytes()
    }

    /// Bytes of a panel's codes: floats end with the last column, integers with its group.
    fn panel_code_bytes(&self, cols: usize) -> usize {
        let is_float = self.planes.iter().any(|plane| plane.is_float());
        let columns = if is_float { cols } else { cols.next_multiple_of(GROUP) };
        columns * self.chunk_bytes() / CHUNK
    }

    /// Fills the groups of a panel with the code of columns past the end.
    fn fill_with_zero(&self, groups: &mut [u8]) {
        for group in groups.chunks_exact_mut(self.chunk_bytes() / 2) {
            let (mut rest, mut code) = (group, u32::from(self.zero));
            for plane in self.planes {
                let (integers, others) = rest.split_at_mut(plane.chunk_bytes() / 2);
                integers.fill(plane.repeated(code as u8));
                (rest, code) = (others, code >> plane.bits().min(8));
            }
        }
    }

    /// Two groups of a panel to a chunk.
    fn chunk_from_panel(&self, panel: &[u8], tile: &mut [u8]) {
        let (first, second) = panel.split_at(self.chunk_bytes() / 2);
        let (mut from, mut to) = (0, 0);
        for plane in self.planes {
            let (half, bytes) = (plane.chunk_bytes() / 2, plane.chunk_bytes());
            plane.gather([&first[from..from + half], &second[from..from + half]], &mut tile[to..to + bytes]);
            (from, to) = (from + half, to + bytes);
        }
    }

    /// The inverse of [`Fragments::chunk_from_panel`].
    fn chunk_to_panel(&self, tile: &[u8], panel: &mut [u8]) {
        let (first, second) = panel.split_at_mut(self.chunk_bytes() / 2);
        let (mut from, mut to) = (0, 0);
        for plane in self.planes {
            let (half, bytes) = (plane.chunk_bytes() / 2, plane.chunk_bytes());
            plane.scatter(&tile[to..to + bytes], [&mut first[from..from + half], &mut second[from..from + half]]);
            (from, to) = (from + half, to + bytes);
        }
    }

    /// Calls `convert` with the element bytes, the destination and the source of every vector of 16.
    fn each_vector(&self, out: &mut [u8], source: &[u8], convert: impl Fn(usize, &mut [u8], &[u8])) {
        // A format without scales has steps of no bytes.
        let step = self.step_bytes().max(1);
        for (mut out, mut source) in out.chunks_exact_mut(step).zip(source.chunks_exact(step)) {
            for &(bytes, count) in self.vectors {
                for _ in 0..count {
                    let (vector, rest) = source.split_at(PANEL_ROWS * bytes);
                    let (to, out_rest) = out.split_at_mut(PANEL_ROWS * bytes);
                    convert(bytes, to, vector);
                    (source, out) = (rest, out_rest);
                }
            }
        }
    }
}

/// The row of a type whose panel and tile of `cols` columns have the lengths given.
fn checked_row(dtype: DType, panel: usize, cols: usize, tile: usize) -> Result<&'static Fragments, QuantError> {
    expect_length(dtype, "panel in bytes", panel, packed_length(dtype, PANEL_ROWS, cols)?)?;
    expect_length(dtype, "tile in bytes", tile, tile_length(dtype, PANEL_ROWS, cols)?)?;
    fragments(dtype).ok_or(QuantError::NoFormat { dtype })
}

/// The format and the tile length of a matrix whose row-major and packed buffers have the lengths given.
fn checked_matrix(
    dtype: DType,
    row_major: usize,
    packed: usize,
    rows: usize,
    cols: usize,
) -> Result<(&'static dyn QuantFormat, usize), QuantError> {
    expect_length(dtype, "matrix in bytes", row_major, matrix_length(dtype, rows, cols)?)?;
    expect_length(dtype, "packed matrix in bytes", packed, tile_length(dtype, rows, cols)?)?;
    let format = format(dtype).ok_or(QuantError::NoFormat { dtype })?;
    Ok((format, tile_length(dtype, PANEL_ROWS, cols)?))
}

/// Bytes of the tiles of a matrix.
fn tile_length(dtype: DType, rows: usize, cols: usize) -> Result<usize, QuantError> {
    row_length(dtype, cols)?;
    let bytes = packed_bytes(dtype, rows as u64, cols as u64).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or(QuantError::TooLarge { dtype, rows, cols })
}
