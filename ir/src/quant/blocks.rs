//! What every block format shares: walking the blocks of a row and the groups of a panel.
//!
//! A format says how one block holds its integers and scales ([`BlockFormat`]); the loops, the checks and the panel
//! geometry stand here once.

use super::checks::{expect_importance, expect_length, expect_panel, expect_panel_row, row_length};
use super::codes::Codes;
use super::integers::{IntegerRow, RowIntegers, expect_integers, expect_zeros, half_scale, power_scale};
use super::planes::Planes;
use super::rounding::{self, SHRINKS};
use super::{GROUP, QuantError, QuantFormat, lanes, minifloat};
use crate::types::DType;

/// One block format. A block is `BLOCK_BYTES` long and holds `BLOCK_LEN / 32` groups; blocks that are written are zero
/// before.
pub(super) trait BlockFormat: Sync {
    /// The element type.
    const DTYPE: DType;
    /// Columns of a block: 32 or 256.
    const BLOCK_LEN: usize;
    /// Bytes of a row-major block.
    const BLOCK_BYTES: usize;
    /// Where the integers of a packed group stand.
    const PLANES: Planes;
    /// Bytes of 16 blocks, one a row, in the scale region.
    const SCALE_BYTES: usize;
    /// Columns that share a factor.
    const SCALE_COLUMNS: usize = GROUP;
    /// How a block of one group begins, if it can be made from integers and scales.
    const HEAD: Option<Head> = None;
    /// The greatest integer of [`BlockFormat::codes`].
    const GREATEST: u8 = 15;
    /// What a search multiplies ranges by.
    const SHRINKS: &'static [f32] = &SHRINKS;

    /// The integers of one group, unsigned.
    fn codes(block: &[u8], group: usize) -> Codes;
    /// The inverse of [`BlockFormat::codes`].
    fn set_codes(block: &mut [u8], group: usize, codes: Codes);
    /// Writes the block's scales to lane `r` of its part of the scale region.
    fn pack_scales(block: &[u8], scales: &mut [u8], r: usize);
    /// The inverse of [`BlockFormat::pack_scales`].
    fn unpack_scales(scales: &[u8], r: usize, block: &mut [u8]);
    /// The block's values.
    fn dequantize(block: &[u8], out: &mut [f32]);
    /// Rounds values to a block, for a range of `shrink` times their own.
    fn quantize(values: &[f32], shrink: f32, block: &mut [u8]);
}

/// The scales at the beginning of a block of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// `d` f16.
    Half,
    /// `d` f16, `m` f16.
    HalfAndMinimum,
    /// `e` u8: the scale is `2^(e - 127)`.
    Exponent,
}

/// Columns of the longest block of any format.
const LONGEST_BLOCK: usize = 256;

/// Bytes of the integers of one block position in a panel.
const fn code_bytes<F: BlockFormat>() -> usize {
    F::BLOCK_LEN / GROUP * F::PLANES.bytes()
}

/// Bytes of the integers and of the scales of a panel, unpadded.
fn regions<F: BlockFormat>(cols: usize) -> (usize, usize) {
    let blocks = cols / F::BLOCK_LEN;
    (blocks * code_bytes::<F>(), blocks * F::SCALE_BYTES)
}

/// Rounds one block with the shrunk range of least error.
fn quantize_searched<F: BlockFormat>(values: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let mut rounded = [0.0; LONGEST_BLOCK];
    let rounded = &mut rounded[..F::BLOCK_LEN];
    let mut quantize = |shrink: f32, rounded: &mut [f32]| {
        block.fill(0);
        F::quantize(values, shrink, block);
        F::dequantize(block, rounded);
    };
    let best = rounding::search(F::SHRINKS, |shrink| {
        quantize(shrink, rounded);
        rounding::error(values, importance, rounded.iter().copied())
    });
    quantize(best, rounded);
}

/// Writes the scales of group `g`.
fn write_head<F: BlockFormat>(
    head: Head,
    integers: &RowIntegers<'_>,
    g: usize,
    block: &mut [u8],
) -> Result<(), QuantError> {
    if head == Head::Exponent {
        block[0] = power_scale(F::DTYPE, g, integers.scales[g])?;
        return Ok(());
    }
    block[..2].copy_from_slice(&half_scale(F::DTYPE, "scale", g, integers.scales[g])?);
    if head == Head::HalfAndMinimum {
        block[2..4].copy_from_slice(&half_scale(F::DTYPE, "minimum", g, integers.minima[g])?);
    }
    Ok(())
}

impl<F: BlockFormat> QuantFormat for F {
    fn dtype(&self) -> DType {
        F::DTYPE
    }

    fn block_len(&self) -> usize {
        F::BLOCK_LEN
    }

    fn row_bytes(&self, cols: usize) -> Option<usize> {
        if cols.is_multiple_of(F::BLOCK_LEN) { (cols / F::BLOCK_LEN).checked_mul(F::BLOCK_BYTES) } else { None }
    }

    fn scale_columns(&self) -> Option<usize> {
        Some(F::SCALE_COLUMNS)
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn panel_bytes(&self, cols: usize) -> usize {
        let (codes, scales) = regions::<F>(cols);
        codes + scales.next_multiple_of(64)
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
        expect_length(F::DTYPE, "row in bytes", row.len(), row_length(F::DTYPE, out.len())?)?;
        for (block, out) in row.chunks_exact(F::BLOCK_BYTES).zip(out.chunks_exact_mut(F::BLOCK_LEN)) {
            F::dequantize(block, out);
        }
        Ok(())
    }

    fn quantize_row(&self, values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
        expect_length(F::DTYPE, "row in bytes", out.len(), row_length(F::DTYPE, values.len())?)?;
        out.fill(0);
        for (block, values) in out.chunks_exact_mut(F::BLOCK_BYTES).zip(values.chunks_exact(F::BLOCK_LEN)) {
            F::quantize(values, 1.0, block);
        }
        Ok(())
    }

    fn quantize_row_searched(
        &self,
        values: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), QuantError> {
        expect_length(F::DTYPE, "row in bytes", out.len(), row_length(F::DTYPE, values.len())?)?;
        expect_importance(F::DTYPE, values, importance)?;
        for (n, block) in out.chunks_exact_mut(F::BLOCK_BYTES).enumerate() {
            let columns = n * F::BLOCK_LEN..(n + 1) * F::BLOCK_LEN;
            quantize_searched::<F>(&values[columns.clone()], importance.map(|all| &all[columns]), block);
        }
        Ok(())
    }

    fn assemble_row(&self, integers: &RowIntegers<'_>, out: &mut [u8]) -> Result<(), QuantError> {
        let head = F::HEAD.ok_or(QuantError::NoIntegers { dtype: F::DTYPE })?;
        let cols = integers.codes.len();
        expect_length(F::DTYPE, "row in bytes", out.len(), row_length(F::DTYPE, cols)?)?;
        expect_integers(F::DTYPE, integers, cols / GROUP, F::GREATEST)?;
        expect_zeros(F::DTYPE, integers, 0)?;
        let minima = if head == Head::HalfAndMinimum { cols / GROUP } else { 0 };
        expect_length(F::DTYPE, "minima", integers.minima.len(), minima)?;
        out.fill(0);
        for (g, (block, codes)) in out.chunks_exact_mut(F::BLOCK_BYTES).zip(integers.codes.as_chunks().0).enumerate() {
            write_head::<F>(head, integers, g, block)?;
            F::set_codes(block, 0, Codes::from_bytes(codes));
        }
        Ok(())
    }

    fn disassemble_row(&self, row: &[u8], cols: usize) -> Result<IntegerRow, QuantError> {
        let head = F::HEAD.ok_or(QuantError::NoIntegers { dtype: F::DTYPE })?;
        expect_length(F::DTYPE, "row in bytes", row.len(), row_length(F::DTYPE, cols)?)?;
        let mut integers = IntegerRow::default();
        for block in row.chunks_exact(F::BLOCK_BYTES) {
            integers.codes.extend(F::codes(block, 0).bytes());
            integers.scales.push(match head {
                Head::Half | Head::HalfAndMinimum => lanes::f16_at(block, 0),
                Head::Exponent => minifloat::power(block[0]),
            });
            if head == Head::HalfAndMinimum {
                integers.minima.push(lanes::f16_at(block, 2));
            }
        }
        Ok(integers)
    }

    fn pack_panel(&self, rows: &[&[u8]], cols: usize, panel: &mut [u8]) -> Result<(), QuantError> {
        expect_panel(F::DTYPE, rows, cols, panel)?;
        panel.fill(0);
        let (codes, scales) = panel.split_at_mut(regions::<F>(cols).0);
        let positions = codes.chunks_exact_mut(code_bytes::<F>()).zip(scales.chunks_exact_mut(F::SCALE_BYTES));
        for (position, (codes, scales)) in positions.enumerate() {
            for (r, row) in rows.iter().enumerate() {
                let block = &row[position * F::BLOCK_BYTES..][..F::BLOCK_BYTES];
                F::pack_scales(block, scales, r);
                for (group, planes) in codes.chunks_exact_mut(F::PLANES.bytes()).enumerate() {
                    F::PLANES.put(F::codes(block, group), r, planes);
                }
            }
        }
        Ok(())
    }

    fn unpack_row(&self, panel: &[u8], r: usize, cols: usize, row: &mut [u8]) -> Result<(), QuantError> {
        expect_panel_row(F::DTYPE, panel, r, cols, row)?;
        row.fill(0);
        let (codes, scales) = panel.split_at(regions::<F>(cols).0);
        let positions = codes.chunks_exact(code_bytes::<F>()).zip(scales.chunks_exact(F::SCALE_BYTES));
        for (block, (codes, scales)) in row.chunks_exact_mut(F::BLOCK_BYTES).zip(positions) {
            F::unpack_scales(scales, r, block);
            for (group, planes) in codes.chunks_exact(F::PLANES.bytes()).enumerate() {
                F::set_codes(block, group, F::PLANES.get(planes, r));
            }
        }
        Ok(())
    }
}
