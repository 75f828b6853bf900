//! BitNet's ternary weights, packed or made so when read.
//!
//! Packed: `weight` U8 `[out / 4, in]`, bits `2k..2k + 2` of row `r` are row `k · out / 4 + r` plus 1; `weight_scale` `[1]`. Online: with
//! `s = mean |W|` over the matrix, a weight is `clamp(round(W / s), -1, 1) · s` (Ma et al. 2024, "The Era of 1-bit LLMs").

use ir::quant::{self, RowIntegers};
use ir::types::DType;

use super::assembler::Rows;
use super::floats;
use super::stored::Stored;
use crate::ModelError;
use crate::source::Checkpoint;

/// Rows of online weights that are read at a time.
const CHUNK_ROWS: u64 = 256;

/// Least mean that is divided by, as the reference implementation has it.
const SMALLEST_SCALE: f64 = 1e-5;

/// The rows of a whole packed module, one after the other. `divides`: weights are divided by the stored scale.
///
/// # Errors
/// A file that cannot be read, a scale that is not finite, an integer other than 0, 1 and 2.
pub(super) fn packed(
    checkpoint: &Checkpoint,
    module: &str,
    stored: &Stored,
    divides: bool,
) -> Result<Vec<u8>, ModelError> {
    let (tensor, scale_name) = (format!("{module}.weight"), format!("{module}.weight_scale"));
    let mut bytes = vec![0; checkpoint.tensor(&tensor)?.bytes as usize];
    checkpoint.read_bytes(&tensor, 0, &mut bytes)?;
    let mut scales = floats::read_all(checkpoint, &scale_name)?;
    if divides {
        scales.iter_mut().for_each(|scale| *scale = scale.recip());
    }
    if scales.iter().any(|scale| !scale.is_finite()) {
        return Err(ModelError::tensor(checkpoint.path(), &scale_name, "is 0, but divides the weights"));
    }
    let (cols, quarter) = (stored.cols as usize, (stored.rows / 4).max(1) as usize);
    let (mut out, mut codes) = (Rows::new(checkpoint, &tensor, DType::T2, stored.cols)?, vec![0; cols]);
    for row in 0..stored.rows as usize {
        let from = &bytes[row % quarter * cols..][..cols];
        for (code, byte) in codes.iter_mut().zip(from) {
            *code = byte >> (2 * (row / quarter)) & 3;
        }
        out.push(&RowIntegers { codes: &codes, scales: &scales, ..RowIntegers::default() })?;
    }
    Ok(out.finish())
}

/// The rows of a float tensor made ternary, one after the other.
///
/// # Errors
/// A file that cannot be read, or a weight that is not finite.
pub(super) fn online(checkpoint: &Checkpoint, tensor: &str, stored: &Stored) -> Result<Vec<u8>, ModelError> {
    let cols = stored.cols as usize;
    let mut sum = 0f64;
    for_each_row(checkpoint, tensor, stored, |row| {
        sum += row.iter().map(|w| f64::from(w.abs())).sum::<f64>();
        Ok(())
    })?;
    let count = stored.rows.saturating_mul(stored.cols).max(1);
    let scale = (sum / count as f64).max(SMALLEST_SCALE) as f32;
    let (mut out, mut codes) = (Rows::new(checkpoint, tensor, DType::T2, stored.cols)?, vec![0; cols]);
    for_each_row(checkpoint, tensor, stored, |row| {
        for (code, w) in codes.iter_mut().zip(row) {
            *code = ((w / scale).round_ties_even().clamp(-1.0, 1.0) + 1.0) as u8;
        }
        out.push(&RowIntegers { codes: &codes, scales: &[scale], ..RowIntegers::default() })
    })?;
    Ok(out.finish())
}

/// Calls `visit` with the values of each row.
fn for_each_row(
    checkpoint: &Checkpoint,
    tensor: &str,
    stored: &Stored,
    mut visit: impl FnMut(&[f32]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let (dtype, cols) = (checkpoint.dtype(tensor)?, stored.cols as usize);
    let row_bytes = quant::row_bytes(dtype, stored.cols).unwrap_or(0);
    let mut bytes = Vec::new();
    for first in (0..stored.rows).step_by(CHUNK_ROWS as usize) {
        let count = CHUNK_ROWS.min(stored.rows - first);
        bytes.resize((count * row_bytes) as usize, 0);
        checkpoint.read_bytes(tensor, first * row_bytes, &mut bytes)?;
        let values = floats::widen(checkpoint, tensor, dtype, &bytes, cols)?;
        values.chunks_exact(cols.max(1)).try_for_each(&mut visit)?;
    }
    Ok(())
}
