//! Checks of shapes and buffer lengths, shared by all formats: past them no index is out of range.

use super::{PANEL_ROWS, QuantError, packed_bytes};
use crate::types::DType;

/// Fails unless the buffer `what` has the expected length.
pub(super) fn expect_length(dtype: DType, what: &'static str, got: usize, expected: usize) -> Result<(), QuantError> {
    if got == expected { Ok(()) } else { Err(QuantError::Length { dtype, what, got, expected }) }
}

/// The operands of [`super::QuantFormat::quantize_row_searched`].
pub(super) fn expect_importance(dtype: DType, values: &[f32], importance: Option<&[f32]>) -> Result<(), QuantError> {
    importance.map_or(Ok(()), |importance| expect_length(dtype, "importance", importance.len(), values.len()))
}

/// Bytes of a row-major row.
pub(super) fn row_length(dtype: DType, cols: usize) -> Result<usize, QuantError> {
    let format = super::format(dtype).ok_or(QuantError::NoFormat { dtype })?;
    let block = format.block_len();
    if !cols.is_multiple_of(block) {
        return Err(QuantError::Columns { dtype, block, cols });
    }
    format.row_bytes(cols).ok_or(QuantError::TooLarge { dtype, rows: 1, cols })
}

/// Bytes of a packed matrix.
pub(super) fn packed_length(dtype: DType, rows: usize, cols: usize) -> Result<usize, QuantError> {
    row_length(dtype, cols)?;
    to_usize(packed_bytes(dtype, rows as u64, cols as u64)).ok_or(QuantError::TooLarge { dtype, rows, cols })
}

/// Bytes of a row-major matrix.
pub(super) fn matrix_length(dtype: DType, rows: usize, cols: usize) -> Result<usize, QuantError> {
    row_length(dtype, cols)?.checked_mul(rows).ok_or(QuantError::TooLarge { dtype, rows, cols })
}

/// The operands of [`super::QuantFormat::pack_panel`].
pub(super) fn expect_panel(dtype: DType, rows: &[&[u8]], cols: usize, panel: &[u8]) -> Result<(), QuantError> {
    let row_bytes = row_length(dtype, cols)?;
    if rows.len() > PANEL_ROWS {
        return Err(QuantError::Row { dtype, row: rows.len() - 1, rows: PANEL_ROWS });
    }
    rows.iter().try_for_each(|row| expect_length(dtype, "row in bytes", row.len(), row_bytes))?;
    expect_length(dtype, "panel in bytes", panel.len(), packed_length(dtype, PANEL_ROWS, cols)?)
}

/// The operands of [`super::QuantFormat::unpack_row`].
pub(super) fn expect_panel_row(
    dtype: DType,
    panel: &[u8],
    r: usize,
    cols: usize,
    row: &[u8],
) -> Result<(), QuantError> {
    if r >= PANEL_ROWS {
        return Err(QuantError::Row { dtype, row: r, rows: PANEL_ROWS });
    }
    expect_length(dtype, "row in bytes", row.len(), row_length(dtype, cols)?)?;
    expect_length(dtype, "panel in bytes", panel.len(), packed_length(dtype, PANEL_ROWS, cols)?)
}

fn to_usize(bytes: Option<u64>) -> Option<usize> {
    usize::try_from(bytes?).ok()
}
