//! The float formats f32, f16 and bf16: little-endian elements, a panel is their transpose.

use half::{bf16, f16};

use super::checks::{expect_length, expect_panel, expect_panel_row, row_length};
use super::{PANEL_ROWS, QuantError, QuantFormat};
use crate::types::DType;

/// Columns transposed at a time: 16 rows of a tile and its panel columns stay in the first cache.
const TILE: usize = 64;

/// A float stored in `N` little-endian bytes.
pub(super) trait Element<const N: usize>: Sync {
    /// Its element type.
    const DTYPE: DType;
    /// The value as f32, exact.
    fn read(bytes: [u8; N]) -> f32;
    /// Rounds to nearest, ties to even; what is too great becomes infinite, as IEEE 754 says.
    fn write(value: f32) -> [u8; N];
}

impl Element<4> for f32 {
    const DTYPE: DType = DType::F32;

    fn read(bytes: [u8; 4]) -> f32 {
        f32::from_le_bytes(bytes)
    }

    fn write(value: f32) -> [u8; 4] {
        value.to_le_bytes()
    }
}

impl Element<2> for f16 {
    const DTYPE: DType = DType::F16;

    fn read(bytes: [u8; 2]) -> f32 {
        f16::from_le_bytes(bytes).to_f32()
    }

    fn write(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }
}

impl Element<2> for bf16 {
    const DTYPE: DType = DType::BF16;

    fn read(bytes: [u8; 2]) -> f32 {
        bf16::from_le_bytes(bytes).to_f32()
    }

    fn write(value: f32) -> [u8; 2] {
        bf16::from_f32(value).to_le_bytes()
    }
}

/// The format of matrices of `E`, `N` bytes each.
pub(super) struct Float<E, const N: usize>(pub std::marker::PhantomData<E>);

impl<E: Element<N>, const N: usize> QuantFormat for Float<E, N> {
    fn dtype(&self) -> DType {
        E::DTYPE
    }

    fn block_len(&self) -> usize {
        1
    }

    fn row_bytes(&self, cols: usize) -> Option<usize> {
        cols.checked_mul(N)
    }

    fn panel_bytes(&self, cols: usize) -> usize {
        (PANEL_ROWS * N * cols).next_multiple_of(64)
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
        expect_length(E::DTYPE, "row in bytes", row.len(), row_length(E::DTYPE, out.len())?)?;
        for (out, bytes) in out.iter_mut().zip(row.as_chunks::<N>().0) {
            *out = E::read(*bytes);
        }
        Ok(())
    }

    fn quantize_row(&self, values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
        expect_length(E::DTYPE, "row in bytes", out.len(), row_length(E::DTYPE, values.len())?)?;
        for (bytes, &value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
            *bytes = E::write(value);
        }
        Ok(())
    }

    fn pack_panel(&self, rows: &[&[u8]], cols: usize, panel: &mut [u8]) -> Result<(), QuantError> {
        expect_panel(E::DTYPE, rows, cols, panel)?;
        panel.fill(0);
        let columns = &mut panel.as_chunks_mut::<N>().0.as_chunks_mut::<PANEL_ROWS>().0[..cols];
        for (tile, columns) in columns.chunks_mut(TILE).enumerate() {
            for (r, row) in rows.iter().enumerate() {
                for (column, value) in columns.iter_mut().zip(&row.as_chunks::<N>().0[TILE * tile..]) {
                    column[r] = *value;
                }
            }
        }
        Ok(())
    }

    fn unpack_row(&self, panel: &[u8], r: usize, cols: usize, row: &mut [u8]) -> Result<(), QuantError> {
        expect_panel_row(E::DTYPE, panel, r, cols, row)?;
        let columns = panel.as_chunks::<N>().0.as_chunks::<PANEL_ROWS>().0;
        for (value, column) in row.as_chunks_mut::<N>().0.iter_mut().zip(columns) {
            *value = column[r];
        }
        Ok(())
    }
}
