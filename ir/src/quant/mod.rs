//! Storage formats of weights and activations, one file a format.
//!
//! A weight matrix `[rows, cols]` exists in two layouts that hold the same integers and scales:
//!
//! * **row-major**: as the checkpoint has it, blocks along `cols` (GGUF's own block layout for the GGUF types).
//! * **packed** (`rows16`): what the kernels read. Rows are cut into panels of 16; a panel interleaves its rows so that
//!   lane `r` of a 512-bit vector always belongs to row `16·panel + r`. A dot product then needs no horizontal sum, every
//!   output element is accumulated in the order of `k` on every instruction set, and so its bits do not depend on
//!   how many tokens are computed together. Rows missing from the last panel are zero in every byte.
//!
//! # Packed layout
//!
//! Panels follow each other, each [`QuantFormat::panel_bytes`] long, a multiple of 64.
//!
//! *Floats* (f32, f16, bf16): element `(r, k)` of a panel at index `k·16 + r`.
//!
//! *Quantised*: columns are cut into groups of 32. A panel is a region of integers followed by a region of scales, each
//! group after group in column order, the scale region zero-padded to a multiple of 64 bytes. Integers are stored unsigned
//! (Q8_0: `q + 128`; the 4, 5 and 6-bit types as GGUF stores them, offset 8, 16 and 32). Within a group, chunk `c` (0..8)
//! is columns `4c..4c+4`, byte lane `b = 4·r + i` is row `r`, column `4c + i`. The planes of one group, in this order:
//!
//! | plane | bytes | content |
//! |---|---|---|
//! | u4 (Q4_*, Q5_*, Q6_K) | 256 | byte `64·j + b`, j in 0..4: low nibble the low 4 bits of chunk `j`, high nibble of chunk `j + 4` |
//! | u1 (Q5_*) | 64 | byte `b`: bit `c` is bit 4 of chunk `c` |
//! | u2 (Q6_K) | 128 | byte `64·h + b`, h in 0..2: bits `2m..2m+2` are bits 4..6 of chunk `4h + m` |
//! | u8 (Q8_0) | 512 | byte `64·c + b`: chunk `c` |
//!
//! The scale region, all little-endian, lane `r` = row:
//!
//! | format | a group of 32 |
//! |---|---|
//! | Q4_0, Q5_0, Q8_0 | `d` f16 × 16 |
//! | Q4_1, Q5_1 | `d` f16 × 16, `m` f16 × 16 |
//! | Q4_K, Q5_K | before each 8 groups: `d` f16 × 16, `dmin` f16 × 16; a group: `sc` u8 × 16, `m` u8 × 16 (the 6-bit values) |
//! | Q6_K | before each 8 groups: `d` f16 × 16; a group: `sc` i8 × 16 of columns 0..16, `sc` i8 × 16 of columns 16..32 |
//!
//! # Values
//!
//! Integer `q` as GGUF counts it (before any offset), scales converted to f32, each operation rounded to f32 as written:
//!
//! | format | value |
//! |---|---|
//! | Q4_0, Q5_0 | `(q - 8) · d`, `(q - 16) · d` |
//! | Q8_0 | `q · d` |
//! | Q4_1, Q5_1 | `q · d + m`, not fused |
//! | Q4_K, Q5_K | `(d · sc) · q - (dmin · m)`, not fused |
//! | Q6_K | `(d · sc) · (q - 32)` |
//!
//! # Activations
//!
//! Activations ([`DType::Q8X32`]) are row-major only; a row of `cols` values, `G = ceil(cols / 32)` groups, is
//! `i8 × 32·G` integers, then `f32 × G` scales `d`, then `f32 × 2·G` sums: `d · Σq` of each half group of 16. The rounding is
//! fixed bit for bit in [`activations`].

mod affine_k;
mod blocks;
mod checks;
mod codes;
mod float;
mod lanes;
mod matrix;
mod planes;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod rounding;

pub mod activations;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;

use half::{bf16, f16};

pub use matrix::{dequantize, dequantize_packed_row, pack, packed_bytes, row_bytes, unpack};

use crate::types::DType;

/// Every storage format of weights, in the order of [`DType::ALL`].
pub static FORMATS: &[&dyn QuantFormat] = &[
    &float::Float::<f32, 4>(PhantomData),
    &float::Float::<f16, 2>(PhantomData),
    &float::Float::<bf16, 2>(PhantomData),
    &q4_0::Q4_0,
    &q4_1::Q4_1,
    &q5_0::Q5_0,
    &q5_1::Q5_1,
    &q8_0::Q8_0,
    &q4_k::Q4K,
    &q5_k::Q5K,
    &q6_k::Q6K,
];

/// The format of weights of type `dtype`; `None` for those that are none: [`DType::I32`], [`DType::Q8X32`].
pub fn format(dtype: DType) -> Option<&'static dyn QuantFormat> {
    FORMATS.iter().copied().find(|format| format.dtype() == dtype)
}

/// Rows of one panel of the packed layout.
pub const PANEL_ROWS: usize = 16;

/// Columns of one group of the packed layout.
pub const GROUP: usize = 32;

/// What is wrong with the bytes or shape handed to a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// The number of columns is no multiple of the format's block.
    #[error("{dtype} needs a row length that is a multiple of {block}, not {cols}")]
    Columns {
        /// The format.
        dtype: DType,
        /// Its block length.
        block: usize,
        /// The row length given.
        cols: usize,
    },
    /// A buffer has the wrong length.
    #[error("{dtype}: length of the {what} is {got}, expected {expected}")]
    Length {
        /// The format.
        dtype: DType,
        /// Which buffer, and the unit of its length.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The length it must have.
        expected: usize,
    },
    /// The matrix or panel has no such row.
    #[error("{dtype}: no row {row}, there are {rows}")]
    Row {
        /// The format.
        dtype: DType,
        /// The row asked for.
        row: usize,
        /// How many there are.
        rows: usize,
    },
    /// The type is no storage format of weights.
    #[error("{dtype} is no storage format of weights; the formats are f32, f16, bf16 and the GGUF types")]
    NoFormat {
        /// The type.
        dtype: DType,
    },
    /// The size does not fit in the address space.
    #[error("{dtype}: a matrix of {rows} rows and {cols} columns does not fit in memory")]
    TooLarge {
        /// The format.
        dtype: DType,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
    },
}

/// One storage format of weight matrices: its row-major blocks and its packed panels.
///
/// Adding a format is one file that implements this (block formats do through `blocks::BlockFormat`), one line in
/// [`FORMATS`], one in [`DType`], and a loader for the matmul kernels.
pub trait QuantFormat: Sync {
    /// The element type this format stores.
    fn dtype(&self) -> DType;

    /// Columns of one row-major block (1 for floats).
    fn block_len(&self) -> usize;

    /// Bytes of one row-major block.
    fn block_bytes(&self) -> usize;

    /// Bytes of one packed panel of 16 rows of `cols` columns, a multiple of the block; the result is one of 64.
    fn panel_bytes(&self, cols: usize) -> usize;

    /// Values of one row-major row: `row` is `row_bytes(cols)` long, `out` has `cols` elements.
    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) -> Result<(), QuantError>;

    /// Rounds a row to the nearest representable values: per block a scale (and minimum) from its range, no search.
    fn quantize_row(&self, values: &[f32], out: &mut [u8]) -> Result<(), QuantError>;

    /// Packs at most 16 row-major rows into one panel. Lossless.
    fn pack_panel(&self, rows: &[&[u8]], cols: usize, panel: &mut [u8]) -> Result<(), QuantError>;

    /// The inverse of [`QuantFormat::pack_panel`]: row `r` of a panel as a row-major row.
    fn unpack_row(&self, panel: &[u8], r: usize, cols: usize, row: &mut [u8]) -> Result<(), QuantError>;
}

impl fmt::Debug for dyn QuantFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dtype().fmt(f)
    }
}
