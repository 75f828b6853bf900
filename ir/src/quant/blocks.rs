//! What every block format shares: walking the blocks of a row and the groups of a panel.
//!
//! A format says how one block holds its integers and scales ([`BlockFormat`]); the loops, the checks and the panel
//! geometry stand here once.

use super::checks::{expect_length, expect_panel, expect_panel_row, row_length};
use super::codes::Codes;
use super::planes::Planes;
use super::{GROUP, QuantError, QuantFormat};
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
    /// Rounds values to a block.
    fn quantize(values: &[f32], block: &mut [u8]);
}

/// Bytes of the integers of one block position in a panel.
const fn code_bytes<F: BlockFormat>() -> usize {
    F::BLOCK_LEN / GROUP * F::PLANES.bytes()
}

/// Bytes of the integers and of the scales of a panel, unpadded.
fn regions<F: BlockFormat>(cols: usize) -> (usize, usize) {
    let blocks = cols / F::BLOCK_LEN;
    (blocks * code_bytes::<F>(), blocks * F::SCALE_BYTES)
}

impl<F: BlockFormat> QuantFormat for F {
    fn dtype(&self) -> DType {
        F::DTYPE
    }

    fn block_len(&self) -> usize {
        F::BLOCK_LEN
    }

    fn block_bytes(&self) -> usize {
        F::BLOCK_BYTES
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
            F::quantize(values, block);
        }
        Ok(())
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
