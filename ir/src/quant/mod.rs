//! Storage formats of weights and activations, one file a format.
//!
//! A weight matrix `[rows, cols]` exists in three layouts that hold the same integers and scales:
//!
//! * **row-major**: one row after the other. The GGUF types and MXFP4 in GGUF's own blocks along `cols`; the others
//!   ([`planar`]) as the row's integers, then its scales, then its zeros.
//! * **packed** (`rows16`): what the kernels read. Rows are cut into panels of 16; a panel interleaves its rows so that
//!   lane `r` of a 512-bit vector always belongs to row `16·panel + r`. A dot product then needs no horizontal sum, every
//!   output element is accumulated in the order of `k` on every instruction set, and so its bits do not depend on
//!   how many tokens are computed together. Rows missing from the last panel are zero in every byte.
//! * **[`fragments`]**: the packed panels in the order in which the tensor cores of a GPU take them.
//!
//! # Packed layout
//!
//! Panels follow each other, each [`QuantFormat::panel_bytes`] long, a multiple of 64.
//!
//! *Floats* (f32, f16, bf16): element `(r, k)` of a panel at index `k·16 + r`.
//!
//! *Quantised*: columns are cut into groups of 32, the last of which may be partial in the formats without blocks: its
//! missing columns have the integer of value 0. A panel is a region of integers followed by a region of scales, each
//! group after group in column order, the scale region zero-padded to a multiple of 64 bytes. Integers are stored unsigned
//! (Q8_0, q8c: `q + 128`; the 4, 5 and 6-bit types as GGUF stores them, offset 8, 16 and 32; q4g*, t2: `q + 8`, `q + 1`;
//! f8_e4m3, mxfp4: the bits). Within a group, chunk `c` (0..8)
//! is columns `4c..4c+4`, byte lane `b = 4·r + i` is row `r`, column `4c + i`. The planes of one group, in this order:
//!
//! | plane | bytes | content |
//! |---|---|---|
//! | u4 (Q4_*, Q5_*, Q6_K, q4g*, q4z*, mxfp4) | 256 | byte `64·j + b`, j in 0..4: low nibble the low 4 bits of chunk `j`, high nibble of chunk `j + 4` |
//! | u1 (Q5_*) | 64 | byte `b`: bit `c` is bit 4 of chunk `c` |
//! | u2 (Q6_K) | 128 | byte `64·h + b`, h in 0..2: bits `2m..2m+2` are bits 4..6 of chunk `4h + m` |
//! | u2 (t2) | 128 | byte `64·h + b`, h in 0..2: bits `2m..2m+2` are chunk `4h + m` |
//! | u8 (Q8_0, q8c, f8_e4m3) | 512 | byte `64·c + b`: chunk `c` |
//!
//! The scale region, all little-endian, lane `r` = row:
//!
//! | format | a group of 32 |
//! |---|---|
//! | Q4_0, Q5_0, Q8_0 | `d` f16 × 16 |
//! | Q4_1, Q5_1 | `d` f16 × 16, `m` f16 × 16 |
//! | Q4_K, Q5_K | before each 8 groups: `d` f16 × 16, `dmin` f16 × 16; a group: `sc` u8 × 16, `m` u8 × 16 (the 6-bit values) |
//! | Q6_K | before each 8 groups: `d` f16 × 16; a group: `sc` i8 × 16 of columns 0..16, `sc` i8 × 16 of columns 16..32 |
//! | mxfp4 | `e` u8 × 16 |
//! | q4g64, q4g128 | once every 64 or 128 columns: `d` f16 × 16 |
//! | q4z32, q4z64, q4z128 | once every 32, 64 or 128 columns: `d` f16 × 16, `z` u8 × 16 |
//! | f8_e4m3 | once every 128 columns: `d` f32 × 16 |
//! | q8c, t2 | once a panel: `d` f32 × 16 |
//!
//! # Values
//!
//! Integer `q` as stored in rows (before any offset), scales converted to f32, each operation rounded to f32 as written:
//!
//! | format | value |
//! |---|---|
//! | Q4_0, q4g* | `(q - 8) · d` |
//! | Q5_0 | `(q - 16) · d` |
//! | Q8_0, q8c | `q · d` |
//! | t2 | `(q - 1) · d` |
//! | q4z* | `q · d - z · d`, z in 0..=16, exact |
//! | f8_e4m3 | `e4m3(q) · d` |
//! | mxfp4 | `(2 · e2m1(q)) · (2^(e - 127) / 2)`, exact; its integer is `2 · e2m1(q)`, -12..=12 |
//! | Q4_1, Q5_1 | `q · d + m`, not fused |
//! | Q4_K, Q5_K | `(d · sc) · q - (dmin · m)`, not fused |
//! | Q6_K | `(d · sc) · (q - 32)` |
//!
//! # Activations
//!
//! Activations ([`DType::Q8X32`]) are row-major only; a row of `cols` values, `G = ceil(cols / 32)` groups, is
//! `i8 × 32·G` integers, then `f32 × G` scales `d`, then `f32 × 2·G` sums: `d · Σq` of each half group of 16. The rounding is
//! fixed bit for bit in [`activations`]. So is that of the 8-bit KV cache ([`DType::INT8`]) in [`int8_rows`].

mod affine_k;
mod blocks;
mod checks;
mod codes;
mod float;
mod integers;
mod lanes;
mod matrix;
mod mxfp4;
mod planar;
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
pub mod fragments;
pub mod half_rows;
pub mod int8_rows;
pub mod minifloat;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;

use half::{bf16, f16};

pub use integers::{IntegerRow, RowIntegers};
pub use matrix::{dequantize, dequantize_packed_row, pack, packed_bytes, packed_bytes_of, row_bytes, unpack};

use self::planar::{Numbers, Planar};
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
    &planar(DType::Q4G64, Numbers::Signed4, Some(64)),
    &planar(DType::Q4G128, Numbers::Signed4, Some(128)),
    &planar(DType::Q4Z32, Numbers::Zeroed4, Some(32)),
    &planar(DType::Q4Z64, Numbers::Zeroed4, Some(64)),
    &planar(DType::Q4Z128, Numbers::Zeroed4, Some(128)),
    &planar(DType::Q8C, Numbers::Signed8, None),
    &planar(DType::F8_E4M3, Numbers::Float8, Some(128)),
    &mxfp4::Mxfp4,
    &planar(DType::T2, Numbers::Ternary, None),
];

const fn planar(dtype: DType, numbers: Numbers, columns: Option<usize>) -> Planar {
    Planar { dtype, numbers, columns }
}

/// The format of weights of type `dtype`; `None` for those that are none: [`DType::I32`], [`DType::Q8X32`], [`DType::INT8`].
pub fn format(dtype: DType) -> Option<&'static dyn QuantFormat> {
    FORMATS.iter().copied().find(|format| format.dtype() == dtype)
}

/// The names of all formats, for messages.
fn format_names() -> String {
    FORMATS.iter().map(|format| format.dtype().name()).collect::<Vec<_>>().join(", ")
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
    #[error("{dtype} is no storage format of weights; the formats are {}", format_names())]
    NoFormat {
        /// The type.
        dtype: DType,
    },
    /// The format cannot be made from integers and scales.
    #[error("{dtype} rows cannot be made from integers and scales, only rounded from values")]
    NoIntegers {
        /// The format.
        dtype: DType,
    },
    /// An integer, zero, scale or minimum is out of the format's range.
    #[error("{dtype} cannot hold {what} {index}, which is {value}")]
    Unfit {
        /// The format.
        dtype: DType,
        /// Integer, number, zero, scale or minimum.
        what: &'static str,
        /// Which of the row's.
        index: usize,
        /// Its value.
        value: String,
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
/// [`FORMATS`], one in [`DType`], one in the table of [`fragments`], and a loader for the matmul kernels.
pub trait QuantFormat: Sync {
    /// The element type this format stores.
    fn dtype(&self) -> DType;

    /// Columns that a row length must be a multiple of: those of a row-major block, or 1.
    fn block_len(&self) -> usize;

    /// Bytes of a row-major row of `cols` columns; `None` where they are no multiple of the block, or on overflow.
    fn row_bytes(&self, cols: usize) -> Option<usize>;

    /// Columns of one scale: 16 (Q6_K), 32, 64 or 128; `None` where a row has one scale or none.
    fn scale_columns(&self) -> Option<usize> {
        None
    }

    /// Whether its integers can be multiplied by 8-bit activations without going over f32.
    fn is_integer(&self) -> bool {
        false
    }

    /// Bytes of one packed panel of 16 rows of `cols` columns, a multiple of the block; the result is one of 64.
    fn panel_bytes(&self, cols: usize) -> usize;

    /// Values of one row-major row: `row` is `row_bytes(cols)` long, `out` has `cols` elements.
    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) -> Result<(), QuantError>;

    /// Rounds a row to the nearest representable values: per block a scale (and minimum) from its range, no search.
    fn quantize_row(&self, values: &[f32], out: &mut [u8]) -> Result<(), QuantError>;

    /// As [`QuantFormat::quantize_row`], but of some 20 ranges, from the block's own down to 0.6 of it, takes the one of
    /// least squared error, each column's error times its `importance` (1 without). Formats without scales have nothing to
    /// search.
    ///
    /// # Errors
    /// A buffer of the wrong length.
    fn quantize_row_searched(
        &self,
        values: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), QuantError> {
        checks::expect_importance(self.dtype(), values, importance)?;
        self.quantize_row(values, out)
    }

    /// Lays out given integers and scales as a row-major row. Integers are kept as they are.
    ///
    /// # Errors
    /// A list of the wrong length, an integer or scale that the format cannot hold, or a format that is not made of one
    /// integer a column and one scale a group: [`QuantError::NoIntegers`].
    fn assemble_row(&self, _integers: &RowIntegers<'_>, _out: &mut [u8]) -> Result<(), QuantError> {
        Err(QuantError::NoIntegers { dtype: self.dtype() })
    }

    /// The inverse of [`QuantFormat::assemble_row`]: integers and scales of a row of `cols` columns, as stored.
    ///
    /// # Errors
    /// A row of the wrong length, or [`QuantError::NoIntegers`].
    fn disassemble_row(&self, _row: &[u8], _cols: usize) -> Result<IntegerRow, QuantError> {
        Err(QuantError::NoIntegers { dtype: self.dtype() })
    }

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
