//! Transposes of row-major matrices.

use ir::quant;
use ir::types::DType;

use crate::ModelError;
use crate::source::Checkpoint;

/// Transposes rows of `cols` columns: elements of floats as they are, anything else dequantised to f32. Stored column `p`
/// becomes row `order[p]`, or `p` without an order.
///
/// # Errors
/// Bytes that are no rows of `dtype`.
pub(super) fn transpose(
    checkpoint: &Checkpoint,
    module: &str,
    dtype: DType,
    bytes: &[u8],
    cols: u64,
    order: Option<&[u32]>,
) -> Result<Vec<u8>, ModelError> {
    let wrong = |problem: String| ModelError::tensor(checkpoint.path(), module, problem);
    let cols = usize::try_from(cols).unwrap_or(usize::MAX);
    let mut widened = Vec::new();
    let (bytes, element) = match dtype.element_bytes() {
        Some(element) => (bytes, element as usize),
        None => {
            let row_bytes = quant::row_bytes(dtype, cols as u64).unwrap_or(0) as usize;
            let rows = bytes.len().checked_div(row_bytes).unwrap_or(0);
            let mut values = vec![0.0; rows.checked_mul(cols).ok_or_else(|| wrong("it is too large".into()))?];
            quant::dequantize(dtype, bytes, cols, &mut values).map_err(|e| wrong(e.to_string()))?;
            widened.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            (widened.as_slice(), 4)
        }
    };
    let rows = bytes.len().checked_div(cols.saturating_mul(element)).unwrap_or(0);
    let mut out = vec![0; bytes.len()];
    for (row, elements) in bytes.chunks_exact((cols * element).max(1)).enumerate() {
        for (position, from) in elements.chunks_exact(element).enumerate() {
            let column = order.map_or(position, |order| order[position] as usize);
            out[(column * rows + row) * element..][..element].copy_from_slice(from);
        }
    }
    Ok(out)
}
