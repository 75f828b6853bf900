//! BitNet's ternary weights, packed or made so when read.
//!
//! Packed: `weight` U8 `[out / 4, in]`, bits `2k..2k + 2` of row `r` are row `k · out / 4 + r` plus 1; `weight_scale` `[1]`. Online: with
//! `s = mean |W|` over the matrix, a weight is `clamp(round(W / s), -1, 1) · s` (Ma et al. 2024, "The Era of 1-bit LLMs").

use ir::quant;
use ir::types::DType;

use super::reader::{expect_finite, read_floats};
use super::rowwise::append_row;
use super::stored::{Form, Stored};
use crate::ModelError;
use crate::source::Checkpoint;

/// Rows of online weights that are read at a time.
const CHUNK_ROWS: u64 = 256;

/// Least mean that is divided by, as the reference implementation has it.
const SMALLEST_SCALE: f64 = 1e-5;

/// The rows of a whole module, one after the other.
pub(super) fn decode(checkpoint: &Checkpoint, module: &str, stored: &Stored) -> Result<Vec<u8>, ModelError> {
    match &stored.form {
        Form::TernaryOnline { tensor } => online(checkpoint, tensor, stored),
        _ => packed(checkpoint, module, stored),
    }
}

fn packed(checkpoint: &Checkpoint, module: &str, stored: &Stored) -> Result<Vec<u8>, ModelError> {
    let tensor = format!("{module}.weight");
    let mut bytes = vec![0; checkpoint.tensor(&tensor)?.bytes as usize];
    checkpoint.read_bytes(&tensor, 0, &mut bytes)?;
    let mut scale = Vec::new();
    read_floats(checkpoint, &format!("{module}.weight_scale"), &mut scale)?;
    let (cols, quarter) = (stored.cols as usize, (stored.rows / 4) as usize);
    let (mut out, mut codes) = (Vec::new(), vec![0; cols]);
    for row in 0..stored.rows as usize {
        let (bits, stored_row) = (2 * (row / quarter.max(1)), row % quarter.max(1));
        for (code, byte) in codes.iter_mut().zip(&bytes[stored_row * cols..]) {
            *code = byte >> bits & 3;
        }
        append_row(checkpoint, &tensor, DType::T2, &codes, &scale, &mut out)?;
    }
    Ok(out)
}

fn online(checkpoint: &Checkpoint, tensor: &str, stored: &Stored) -> Result<Vec<u8>, ModelError> {
    let cols = stored.cols as usize;
    let mut sum = 0f64;
    for_each_row(checkpoint, tensor, stored, |row| {
        sum += row.iter().map(|w| f64::from(w.abs())).sum::<f64>();
        Ok(())
    })?;
    let scale = (sum / (stored.rows * stored.cols).max(1) as f64).max(SMALLEST_SCALE) as f32;
    let (mut out, mut codes) = (Vec::new(), vec![0; cols]);
    for_each_row(checkpoint, tensor, stored, |row| {
        for (code, w) in codes.iter_mut().zip(row) {
            *code = ((w / scale).round_ties_even().clamp(-1.0, 1.0) + 1.0) as u8;
        }
        append_row(checkpoint, tensor, DType::T2, &codes, &[scale], &mut out)
    })?;
    Ok(out)
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
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for first in (0..stored.rows).step_by(CHUNK_ROWS as usize) {
        let count = CHUNK_ROWS.min(stored.rows - first);
        bytes.resize((count * row_bytes) as usize, 0);
        checkpoint.read_bytes(tensor, first * row_bytes, &mut bytes)?;
        expect_finite(checkpoint, tensor, dtype, &bytes)?;
        values.resize(count as usize * cols, 0.0);
        quant::dequantize(dtype, &bytes, cols, &mut values)
            .map_err(|e| ModelError::tensor(checkpoint.path(), tensor, e.to_string()))?;
        values.chunks_exact(cols.max(1)).try_for_each(&mut visit)?;
    }
    Ok(())
}
