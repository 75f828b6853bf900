//! Floats of a checkpoint: widened to f32, and refused where they are not finite.

use half::f16;
use ir::quant;
use ir::types::DType;

use crate::ModelError;
use crate::source::Checkpoint;

/// The values of a whole tensor of floats.
///
/// # Errors
/// A tensor that is missing, holds no floats or one that is not finite, or a file that cannot be read.
pub(super) fn read_all(checkpoint: &Checkpoint, tensor: &str) -> Result<Vec<f32>, ModelError> {
    let (bytes, dtype) = (checkpoint.tensor(tensor)?.bytes, checkpoint.dtype(tensor)?);
    read_elements(checkpoint, tensor, 0, bytes / dtype.element_bytes().unwrap_or(1))
}

/// `count` values from element `first` on.
///
/// # Errors
/// As [`read_all`], or a tensor that has fewer.
pub(super) fn read_elements(
    checkpoint: &Checkpoint,
    tensor: &str,
    first: u64,
    count: u64,
) -> Result<Vec<f32>, ModelError> {
    let wrong = |problem: &str| ModelError::tensor(checkpoint.path(), tensor, problem);
    let dtype = checkpoint.dtype(tensor)?;
    let element = dtype.element_bytes().filter(|_| dtype.is_real()).ok_or_else(|| wrong("it holds no plain floats"))?;
    let range = first.checked_mul(element).zip(count.checked_mul(element));
    let (offset, len) = range
        .filter(|(offset, len)| {
            let end = offset.checked_add(*len);
            end.zip(checkpoint.find(tensor)).is_some_and(|(end, info)| end <= info.bytes)
        })
        .ok_or_else(|| wrong(&format!("it has no {count} elements from {first} on")))?;
    let mut bytes = vec![0; len as usize];
    checkpoint.read_bytes(tensor, offset, &mut bytes)?;
    widen(checkpoint, tensor, dtype, &bytes, count as usize)
}

/// The values of rows of `cols` columns.
///
/// # Errors
/// One that is not finite, or rows that `dtype` cannot have.
pub(super) fn widen(
    checkpoint: &Checkpoint,
    tensor: &str,
    dtype: DType,
    bytes: &[u8],
    cols: usize,
) -> Result<Vec<f32>, ModelError> {
    expect_finite(checkpoint, tensor, dtype, bytes)?;
    let row_bytes = quant::row_bytes(dtype, cols as u64).unwrap_or(0) as usize;
    let mut values = vec![0.0; bytes.len().checked_div(row_bytes).unwrap_or(0) * cols];
    quant::dequantize(dtype, bytes, cols, &mut values)
        .map_err(|e| ModelError::tensor(checkpoint.path(), tensor, e.to_string()))?;
    Ok(values)
}

/// Fails if row-major `bytes` hold a NaN or an infinity, as elements or as scales of blocks.
pub(super) fn expect_finite(
    checkpoint: &Checkpoint,
    tensor: &str,
    dtype: DType,
    bytes: &[u8],
) -> Result<(), ModelError> {
    let is_finite = match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().all(|b| f32::from_le_bytes(*b).is_finite()),
        DType::F16 => bytes.as_chunks::<2>().0.iter().all(|b| f16::from_le_bytes(*b).is_finite()),
        DType::BF16 => bytes.as_chunks::<2>().0.iter().all(|b| half::bf16::from_le_bytes(*b).is_finite()),
        DType::MXFP4 => bytes.iter().step_by(17).all(|exponent| *exponent != 0xff),
        _ => block_scales(dtype).is_none_or(|(block, scales)| {
            let finite = |b: &[u8], at: usize| f16::from_le_bytes([b[at], b[at + 1]]).is_finite();
            bytes.chunks_exact(block).all(|b| scales.iter().all(|at| finite(b, *at)))
        }),
    };
    if is_finite { Ok(()) } else { Err(not_finite(checkpoint, tensor)) }
}

/// The error for a tensor that holds a NaN or an infinity.
pub(super) fn not_finite(checkpoint: &Checkpoint, tensor: &str) -> ModelError {
    let problem = "holds a NaN or an infinity; the checkpoint is damaged, download it again";
    ModelError::tensor(checkpoint.path(), tensor, problem)
}

/// Bytes of a GGUF block, and where its f16 scales and minima stand.
fn block_scales(dtype: DType) -> Option<(usize, &'static [usize])> {
    Some(match dtype {
        DType::Q4_0 => (18, &[0]),
        DType::Q4_1 => (20, &[0, 2]),
        DType::Q5_0 => (22, &[0]),
        DType::Q5_1 => (24, &[0, 2]),
        DType::Q8_0 => (34, &[0]),
        DType::Q4_K => (144, &[0, 2]),
        DType::Q5_K => (176, &[0, 2]),
        DType::Q6_K => (210, &[208]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scales found are those that the formats use: the values of a block are all finite just if they are.
    #[test]
    fn block_scales_are_where_the_formats_have_them() {
        for dtype in DType::ALL {
            let Some((block, scales)) = block_scales(*dtype) else { continue };
            let cols = quant::format(*dtype).unwrap().block_len();
            assert_eq!(quant::row_bytes(*dtype, cols as u64), Some(block as u64), "{dtype}");
            let finite = |bytes: &[u8]| {
                let mut values = vec![0.0; cols];
                quant::dequantize(*dtype, bytes, cols, &mut values).unwrap();
                values.iter().all(|v| v.is_finite())
            };
            // Of all ones none is a NaN but the scales.
            let mut bytes = vec![0xff; block];
            assert!(!finite(&bytes), "{dtype}");
            for at in scales {
                bytes[*at + 1] = 0x3c;
            }
            assert!(finite(&bytes), "{dtype}");
        }
    }
}
