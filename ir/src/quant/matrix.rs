//! Whole matrices: sizes, packing, values.

use super::checks::{expect_length, matrix_length, packed_length, row_length};
use super::{PANEL_ROWS, QuantError, QuantFormat, activations, format, int8_rows};
use crate::types::DType;

/// Bytes of one row-major row of `cols` elements of any type. `None` when `cols` is no multiple of the type's block or the
/// size overflows; [`DType::Q8X32`] pads its rows to whole groups and takes any `cols`.
pub fn row_bytes(dtype: DType, cols: u64) -> Option<u64> {
    match dtype {
        DType::Q8X32 => return activations::row_bytes(cols),
        DType::INT8 => return int8_rows::row_bytes(cols),
        _ => {}
    }
    if let Some(bytes) = dtype.element_bytes() {
        return cols.checked_mul(bytes);
    }
    u64::try_from(format(dtype)?.row_bytes(usize::try_from(cols).ok()?)?).ok()
}

/// Bytes of a packed matrix `[rows, cols]`, the last panel counted whole. `None` where [`row_bytes`] is, on overflow, and
/// for types that have no packed layout.
pub fn packed_bytes(dtype: DType, rows: u64, cols: u64) -> Option<u64> {
    row_bytes(dtype, cols)?;
    // No panel takes more than 128 bytes a column of whole groups, padding included, so past this its own arithmetic
    // cannot overflow.
    cols.checked_add(128)?.checked_mul(128)?;
    let panel = format(dtype)?.panel_bytes(usize::try_from(cols).ok()?);
    rows.div_ceil(PANEL_ROWS as u64).checked_mul(u64::try_from(panel).ok()?)
}

/// Bytes of a packed weight of shape `[rows, cols]`, or of `[matrices, rows, cols]`: each matrix packed by itself, one
/// after the other. `None` where [`packed_bytes`] is, on overflow, and for other ranks.
pub fn packed_bytes_of(dtype: DType, shape: &[u64]) -> Option<u64> {
    match *shape {
        [rows, cols] => packed_bytes(dtype, rows, cols),
        [matrices, rows, cols] => matrices.checked_mul(packed_bytes(dtype, rows, cols)?),
        _ => None,
    }
}

/// Packs the row-major matrix `[rows, cols]` in `bytes` to `out`, [`packed_bytes`] long. Lossless.
///
/// # Errors
/// A type without packed layout, a row length that is no multiple of its block, or a buffer of the wrong length.
pub fn pack(dtype: DType, bytes: &[u8], rows: usize, cols: usize, out: &mut [u8]) -> Result<(), QuantError> {
    let format = checked_format(dtype, bytes.len(), out.len(), rows, cols)?;
    let row_bytes = row_length(dtype, cols)?;
    if row_bytes == 0 {
        return Ok(());
    }
    let panels = out.chunks_exact_mut(packed_length(dtype, PANEL_ROWS, cols)?);
    for (panel, panel_rows) in panels.zip(bytes.chunks(PANEL_ROWS * row_bytes)) {
        let mut slices: [&[u8]; PANEL_ROWS] = [&[]; PANEL_ROWS];
        let count = panel_rows.len() / row_bytes;
        for (slice, row) in slices.iter_mut().zip(panel_rows.chunks_exact(row_bytes)) {
            *slice = row;
        }
        format.pack_panel(&slices[..count], cols, panel)?;
    }
    Ok(())
}

/// The inverse of [`pack`]: the packed matrix `[rows, cols]` to row-major `out`.
///
/// # Errors
/// As [`pack`].
pub fn unpack(dtype: DType, packed: &[u8], rows: usize, cols: usize, out: &mut [u8]) -> Result<(), QuantError> {
    let format = checked_format(dtype, out.len(), packed.len(), rows, cols)?;
    let row_bytes = row_length(dtype, cols)?;
    if row_bytes == 0 {
        return Ok(());
    }
    let panels = packed.chunks_exact(packed_length(dtype, PANEL_ROWS, cols)?);
    for (panel, rows) in panels.zip(out.chunks_mut(PANEL_ROWS * row_bytes)) {
        for (r, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
            format.unpack_row(panel, r, cols, row)?;
        }
    }
    Ok(())
}

/// Values of the row-major matrix `bytes` of `cols` columns, as many rows as `bytes` has.
///
/// # Errors
/// A type that is no weight format, a row length that is no multiple of its block, `bytes` that are no whole rows, or
/// `out` of another size than the matrix.
pub fn dequantize(dtype: DType, bytes: &[u8], cols: usize, out: &mut [f32]) -> Result<(), QuantError> {
    let row_bytes = row_length(dtype, cols)?;
    let rows = bytes.len().checked_div(row_bytes).unwrap_or(0);
    expect_length(dtype, "matrix in bytes", bytes.len(), rows * row_bytes)?;
    expect_length(dtype, "output in values", out.len(), rows * cols)?;
    if row_bytes == 0 {
        return Ok(());
    }
    let format = format(dtype).ok_or(QuantError::NoFormat { dtype })?;
    let rows = bytes.chunks_exact(row_bytes).zip(out.chunks_exact_mut(cols));
    rows.into_iter().try_for_each(|(row, out)| format.dequantize_row(row, out))
}

/// Values of row `row` of the packed matrix `packed` of `cols` columns. `scratch` holds at least [`row_bytes`] bytes, `out`
/// has `cols` elements.
///
/// # Errors
/// As [`dequantize`], and when `packed` has no such row or `scratch` is too short.
pub fn dequantize_packed_row(
    dtype: DType,
    packed: &[u8],
    row: usize,
    cols: usize,
    scratch: &mut [u8],
    out: &mut [f32],
) -> Result<(), QuantError> {
    let format = format(dtype).ok_or(QuantError::NoFormat { dtype })?;
    let row_bytes = row_length(dtype, cols)?;
    let panel_bytes = packed_length(dtype, PANEL_ROWS, cols)?;
    expect_length(dtype, "output in values", out.len(), cols)?;
    if row_bytes == 0 {
        return Ok(());
    }
    let rows = packed.len() / panel_bytes * PANEL_ROWS;
    let panel = packed.chunks_exact(panel_bytes).nth(row / PANEL_ROWS).ok_or(QuantError::Row { dtype, row, rows })?;
    let got = scratch.len();
    let blocks = scratch.get_mut(..row_bytes).ok_or(QuantError::Length {
        dtype,
        what: "scratch in bytes",
        got,
        expected: row_bytes,
    })?;
    format.unpack_row(panel, row % PANEL_ROWS, cols, blocks)?;
    format.dequantize_row(blocks, out)
}

/// The format of a matrix whose row-major and packed buffers have the lengths given.
fn checked_format(
    dtype: DType,
    row_major: usize,
    packed: usize,
    rows: usize,
    cols: usize,
) -> Result<&'static dyn QuantFormat, QuantError> {
    expect_length(dtype, "matrix in bytes", row_major, matrix_length(dtype, rows, cols)?)?;
    expect_length(dtype, "packed matrix in bytes", packed, packed_length(dtype, rows, cols)?)?;
    format(dtype).ok_or(QuantError::NoFormat { dtype })
}
