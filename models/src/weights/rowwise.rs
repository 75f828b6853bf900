//! Formats whose rows follow each other, so that only those asked for are read.
//!
//! * A plain tensor: its own bytes.
//! * compressed-tensors "pack-quantized": `weight_packed` I32 `[out, in / 8]`, nibble `j` of word `c` is input `8c + j`;
//!   `weight_scale` `[out, groups]`; `weight_zero_point`, if any, I32 `[out / 8, groups]` packed along the outputs. Integers and zeros
//!   are stored plus 8.
//! * FP8: `weight` E4M3 `[out, in]`, a scale for each block of rows and columns.
//! * MXFP4: `_blocks` U8 `[experts, out, in / 32, 16]`, byte `b` holds inputs `2b` (low nibble) and `2b + 1`; `_scales` U8, the
//!   exponents plus 127 (Open Compute Project, Microscaling Formats 1.0).

use ir::quant::{self, RowIntegers};
use ir::types::DType;

use super::columnwise::Assembler;
use super::reader::{expect_finite, read_floats};
use super::stored::{Form, Stored};
use crate::ModelError;
use crate::source::Checkpoint;

/// Columns that share a scale in the format for E4M3.
const F8_COLUMNS: u64 = 128;

/// Appends rows `first..first + count` of matrix `matrix` of a module.
pub(super) fn read(
    checkpoint: &Checkpoint,
    module: &str,
    stored: &Stored,
    (matrix, first, count): (u64, u64, u64),
    out: &mut Vec<u8>,
) -> Result<(), ModelError> {
    let row = matrix * stored.rows + first;
    match &stored.form {
        Form::Plain { tensor } => plain(checkpoint, tensor, stored, row, count, out),
        Form::PackedInt4 { .. } => packed_int4(checkpoint, module, stored, first, count, out),
        Form::Fp8 { scales, block } => fp8(checkpoint, module, stored, (scales, *block), (first, count), out),
        Form::Mxfp4 => mxfp4(checkpoint, module, stored, row, count, out),
        _ => Err(ModelError::tensor(checkpoint.path(), module, "it is not stored row by row")),
    }
}

fn plain(
    checkpoint: &Checkpoint,
    tensor: &str,
    stored: &Stored,
    first: u64,
    count: u64,
    out: &mut Vec<u8>,
) -> Result<(), ModelError> {
    let row_bytes = quant::row_bytes(stored.dtype, stored.cols).ok_or_else(|| {
        let problem = format!("{} columns are no whole blocks of {}", stored.cols, stored.dtype);
        ModelError::tensor(checkpoint.path(), tensor, problem)
    })?;
    let start = out.len();
    out.resize(start + (count * row_bytes) as usize, 0);
    checkpoint.read_bytes(tensor, first * row_bytes, &mut out[start..])?;
    expect_finite(checkpoint, tensor, stored.dtype, &out[start..])
}

fn packed_int4(
    checkpoint: &Checkpoint,
    module: &str,
    stored: &Stored,
    first: u64,
    count: u64,
    out: &mut Vec<u8>,
) -> Result<(), ModelError> {
    let Form::PackedInt4 { grouping } = stored.form else { return Ok(()) };
    let groups = grouping.count() as usize;
    let (cols, words) = (stored.cols as usize, stored.cols.div_ceil(8) as usize);
    let mut packed = vec![0; count as usize * words * 4];
    checkpoint.read_bytes(&format!("{module}.weight_packed"), first * words as u64 * 4, &mut packed)?;
    let scales = rows_of_floats(checkpoint, &format!("{module}.weight_scale"), groups, first, count)?;
    let zero_point = format!("{module}.weight_zero_point");
    let mut zeros = Vec::new();
    if checkpoint.find(&zero_point).is_some() {
        zeros.resize((first + count).div_ceil(8) as usize * groups * 4, 0);
        checkpoint.read_bytes(&zero_point, 0, &mut zeros)?;
    }
    let mut assembler = Assembler::new(checkpoint, module, stored, grouping)?;
    let mut codes = vec![0; cols];
    for (i, row) in packed.chunks_exact((words * 4).max(1)).enumerate() {
        for (column, code) in codes.iter_mut().enumerate() {
            // Nibbles of little-endian words stand in the order of their bytes.
            *code = row[column / 2] >> (4 * (column % 2)) & 15;
        }
        let output = first as usize + i;
        let zero = |g: usize| match zeros.get((output / 8 * groups + g) * 4 + output % 8 / 2) {
            Some(byte) => byte >> (4 * (output % 2)) & 15,
            None => 8,
        };
        assembler.push(&codes, |g| scales[i * groups + g], zero)?;
    }
    out.append(&mut assembler.bytes);
    Ok(())
}

/// Rows of a float tensor of `cols` columns.
fn rows_of_floats(
    checkpoint: &Checkpoint,
    tensor: &str,
    cols: usize,
    first: u64,
    count: u64,
) -> Result<Vec<f32>, ModelError> {
    let dtype = checkpoint.dtype(tensor)?;
    let row_bytes = cols as u64 * dtype.element_bytes().unwrap_or(4);
    let mut bytes = vec![0; (count * row_bytes) as usize];
    checkpoint.read_bytes(tensor, first * row_bytes, &mut bytes)?;
    expect_finite(checkpoint, tensor, dtype, &bytes)?;
    let mut values = vec![0.0; count as usize * cols];
    quant::dequantize(dtype, &bytes, cols, &mut values)
        .map_err(|e| ModelError::tensor(checkpoint.path(), tensor, e.to_string()))?;
    Ok(values)
}

fn fp8(
    checkpoint: &Checkpoint,
    module: &str,
    stored: &Stored,
    (scales, block): (&str, [u64; 2]),
    (first, count): (u64, u64),
    out: &mut Vec<u8>,
) -> Result<(), ModelError> {
    let cols = stored.cols as usize;
    let tensor = format!("{module}.weight");
    let mut codes = vec![0; count as usize * cols];
    checkpoint.read_bytes(&tensor, first * stored.cols, &mut codes)?;
    if codes.iter().any(|c| c & 0x7f == 0x7f) {
        return Err(ModelError::tensor(checkpoint.path(), &tensor, "holds a NaN; the checkpoint is damaged"));
    }
    let mut all = Vec::new();
    read_floats(checkpoint, scales, &mut all)?;
    let blocks = stored.cols.div_ceil(block[1]);
    let groups = stored.cols.div_ceil(F8_COLUMNS);
    let mut row_scales = vec![0.0; groups as usize];
    for (i, codes) in codes.chunks_exact(cols.max(1)).enumerate() {
        let row_block = (first + i as u64) / block[0] * blocks;
        for (group, scale) in row_scales.iter_mut().enumerate() {
            *scale = all[(row_block + group as u64 * F8_COLUMNS / block[1]) as usize];
        }
        append_row(checkpoint, &tensor, DType::F8_E4M3, codes, &row_scales, out)?;
    }
    Ok(())
}

fn mxfp4(
    checkpoint: &Checkpoint,
    module: &str,
    stored: &Stored,
    first: u64,
    count: u64,
    out: &mut Vec<u8>,
) -> Result<(), ModelError> {
    let groups = (stored.cols / 32) as usize;
    let (blocks, scales) = (format!("{module}_blocks"), format!("{module}_scales"));
    let mut nibbles = vec![0; count as usize * groups * 16];
    checkpoint.read_bytes(&blocks, first * groups as u64 * 16, &mut nibbles)?;
    let mut exponents = vec![0; count as usize * groups];
    checkpoint.read_bytes(&scales, first * groups as u64, &mut exponents)?;
    if exponents.contains(&0xff) {
        return Err(ModelError::tensor(checkpoint.path(), &scales, "holds a NaN; the checkpoint is damaged"));
    }
    let (mut codes, mut powers) = (vec![0; stored.cols as usize], vec![0.0; groups]);
    for (row, exponents) in nibbles.chunks_exact((groups * 16).max(1)).zip(exponents.chunks_exact(groups.max(1))) {
        for (pair, byte) in codes.chunks_exact_mut(2).zip(row) {
            pair.copy_from_slice(&[byte & 15, byte >> 4]);
        }
        for (power, exponent) in powers.iter_mut().zip(exponents) {
            *power = f64::from(f32::from(*exponent) - 127.0).exp2() as f32;
        }
        append_row(checkpoint, &blocks, DType::MXFP4, &codes, &powers, out)?;
    }
    Ok(())
}

/// Appends one row of codes and scales.
pub(super) fn append_row(
    checkpoint: &Checkpoint,
    tensor: &str,
    dtype: DType,
    codes: &[u8],
    scales: &[f32],
    out: &mut Vec<u8>,
) -> Result<(), ModelError> {
    let wrong = |problem: String| ModelError::tensor(checkpoint.path(), tensor, problem);
    let format = quant::format(dtype).ok_or_else(|| wrong(format!("{dtype} is no format of weights")))?;
    let bytes = quant::row_bytes(dtype, codes.len() as u64);
    let bytes = bytes.ok_or_else(|| wrong(format!("{} columns cannot be stored as {dtype}", codes.len())))?;
    let start = out.len();
    out.resize(start + bytes as usize, 0);
    let integers = RowIntegers { codes, scales, ..RowIntegers::default() };
    format.assemble_row(&integers, &mut out[start..]).map_err(|e| wrong(e.to_string()))
}
