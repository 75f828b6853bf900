//! Formats whose rows follow each other, so that only those asked for are read.
//!
//! * A plain tensor: its own bytes.
//! * compressed-tensors "pack-quantized": `weight_packed` I32 `[out, in / 8]`, nibble `j` of word `c` is input `8c + j`;
//!   `weight_scale` `[out, groups]`; `weight_zero_point`, if any, I32 `[out / 8, groups]` packed along the outputs. Integers and zeros
//!   are stored plus 8.
//! * FP8: `weight` E4M3 `[out, in]`, a scale for each block of rows and columns.
//! * MXFP4: `_blocks` U8 `[experts, out, in / 32, 16]`, byte `b` holds inputs `2b` (low nibble) and `2b + 1`; `_scales` U8, the
//!   exponents plus 127 (Open Compute Project, Microscaling Formats 1.0).

use ir::quant::minifloat::{E4M3_NAN, power};
use ir::quant::{self, RowIntegers};
use ir::types::DType;

use super::assembler::{Assembler, Rows};
use super::floats;
use super::groups::Grouping;
use super::stored::{Form, Stored};
use crate::ModelError;
use crate::source::Checkpoint;

/// Columns that share a scale in the format for E4M3.
const F8_COLUMNS: u64 = 128;

/// The exponent of MXFP4 that stands for NaN.
const MXFP4_NAN: u8 = 0xff;

/// Rows of a module.
pub(super) struct RowReader<'a> {
    pub checkpoint: &'a Checkpoint,
    pub module: &'a str,
    pub stored: &'a Stored,
    /// Which matrix of a tensor of rank 3, else 0.
    pub matrix: u64,
}

impl RowReader<'_> {
    /// Appends rows `first..first + count`.
    ///
    /// # Errors
    /// No such matrix or rows, a file that cannot be read, or a number that is not finite.
    pub fn read(&self, first: u64, count: u64, out: &mut Vec<u8>) -> Result<(), ModelError> {
        let (rows, matrices) = (self.stored.rows, self.stored.matrices.unwrap_or(1));
        if first.checked_add(count).is_none_or(|end| end > rows) || self.matrix >= matrices {
            let problem =
                format!("it has no rows {first}.. of matrix {}; it is {matrices} of {rows} rows", self.matrix);
            return Err(ModelError::tensor(self.checkpoint.path(), self.module, problem));
        }
        let stacked = self.matrix * rows + first;
        match &self.stored.form {
            Form::Plain { tensor } => self.plain(tensor, stacked, count, out),
            Form::PackedInt4 { grouping, symmetric } => self.packed_int4(*grouping, *symmetric, [first, count], out),
            Form::Fp8 { scales, block } => self.fp8(scales, *block, [first, count], out),
            Form::Mxfp4 => self.mxfp4(stacked, count, out),
            Form::Columnwise { .. } | Form::TernaryPacked { .. } | Form::TernaryOnline { .. } => {
                Err(ModelError::tensor(self.checkpoint.path(), self.module, "it is not stored row by row"))
            }
        }
    }

    /// `count` elements of `each` bytes from element `first` on.
    fn bytes(&self, tensor: &str, first: u64, count: u64, each: u64) -> Result<Vec<u8>, ModelError> {
        let range = first.checked_mul(each).zip(count.checked_mul(each));
        let range = range.filter(|(_, len)| self.checkpoint.find(tensor).is_some_and(|info| *len <= info.bytes));
        let (offset, len) = range.ok_or_else(|| {
            ModelError::tensor(self.checkpoint.path(), tensor, format!("it has no {count} rows of {each} bytes"))
        })?;
        let mut bytes = vec![0; len as usize];
        self.checkpoint.read_bytes(tensor, offset, &mut bytes)?;
        Ok(bytes)
    }

    fn plain(&self, tensor: &str, first: u64, count: u64, out: &mut Vec<u8>) -> Result<(), ModelError> {
        let (dtype, cols) = (self.stored.dtype, self.stored.cols);
        let row_bytes = quant::row_bytes(dtype, cols).ok_or_else(|| {
            let problem = format!("{cols} columns are no whole blocks of {dtype}");
            ModelError::tensor(self.checkpoint.path(), tensor, problem)
        })?;
        let mut bytes = self.bytes(tensor, first, count, row_bytes)?;
        floats::expect_finite(self.checkpoint, tensor, dtype, &bytes)?;
        out.append(&mut bytes);
        Ok(())
    }

    fn packed_int4(
        &self,
        grouping: Grouping,
        symmetric: bool,
        [first, count]: [u64; 2],
        out: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        let part = |name: &str| format!("{}.weight_{name}", self.module);
        let (groups, words) = (grouping.count(), self.stored.cols.div_ceil(8));
        let packed = self.bytes(&part("packed"), first, count, words * 4)?;
        let scales = floats::read_elements(self.checkpoint, &part("scale"), first * groups, count * groups)?;
        let first_word = first / 8;
        let zeros = match symmetric {
            true => Vec::new(),
            false => {
                self.bytes(&part("zero_point"), first_word, (first + count).div_ceil(8) - first_word, groups * 4)?
            }
        };
        let mut assembler = Assembler::new(self.checkpoint, self.module, self.stored, grouping)?;
        let (groups, mut codes) = (groups as usize, vec![0; self.stored.cols as usize]);
        for (i, row) in packed.chunks_exact((words * 4).max(1) as usize).enumerate() {
            // Nibbles of little-endian words stand in the order of their bytes.
            for (column, code) in codes.iter_mut().enumerate() {
                *code = row[column / 2] >> (4 * (column % 2)) & 15;
            }
            let output = (first % 8) as usize + i;
            let zero = |g: usize| zeros[(output / 8 * groups + g) * 4 + output % 8 / 2] >> (4 * (output % 2)) & 15;
            assembler.push(&codes, |g| scales[i * groups + g], |g| if symmetric { 8 } else { zero(g) })?;
        }
        out.extend(assembler.finish());
        Ok(())
    }

    fn fp8(
        &self,
        scales: &str,
        block: [u64; 2],
        [first, count]: [u64; 2],
        out: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        let (tensor, cols) = (format!("{}.weight", self.module), self.stored.cols);
        let codes = self.bytes(&tensor, first, count, cols)?;
        if codes.iter().any(|code| code & 0x7f == E4M3_NAN) {
            return Err(floats::not_finite(self.checkpoint, &tensor));
        }
        let (blocks, first_block) = (cols.div_ceil(block[1]), first / block[0]);
        let block_rows = (first + count).div_ceil(block[0]) - first_block;
        let scales = floats::read_elements(self.checkpoint, scales, first_block * blocks, block_rows * blocks)?;
        let mut row_scales = vec![0.0; cols.div_ceil(F8_COLUMNS) as usize];
        let mut rows = Rows::new(self.checkpoint, &tensor, DType::F8_E4M3, cols)?;
        for (row, codes) in (first..).zip(codes.chunks_exact(cols.max(1) as usize)) {
            let block_row = (row / block[0] - first_block) * blocks;
            for (group, scale) in (0..).zip(&mut row_scales) {
                *scale = scales[(block_row + group * F8_COLUMNS / block[1]) as usize];
            }
            rows.push(&RowIntegers { codes, scales: &row_scales, ..RowIntegers::default() })?;
        }
        out.extend(rows.finish());
        Ok(())
    }

    fn mxfp4(&self, first: u64, count: u64, out: &mut Vec<u8>) -> Result<(), ModelError> {
        let groups = self.stored.cols / 32;
        let (blocks, scales) = (format!("{}_blocks", self.module), format!("{}_scales", self.module));
        let nibbles = self.bytes(&blocks, first, count, groups * 16)?;
        let exponents = self.bytes(&scales, first, count, groups)?;
        if exponents.contains(&MXFP4_NAN) {
            return Err(floats::not_finite(self.checkpoint, &scales));
        }
        let groups = groups.max(1) as usize;
        let mut rows = Rows::new(self.checkpoint, &blocks, DType::MXFP4, self.stored.cols)?;
        for (row, exponents) in nibbles.chunks_exact(groups * 16).zip(exponents.chunks_exact(groups)) {
            let codes: Vec<u8> = row.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
            let powers: Vec<f32> = exponents.iter().map(|exponent| power(*exponent)).collect();
            rows.push(&RowIntegers { codes: &codes, scales: &powers, ..RowIntegers::default() })?;
        }
        out.extend(rows.finish());
        Ok(())
    }
}
