//! Rows put together from integers, scales and zeros.

use ir::quant::{self, QuantFormat, RowIntegers};
use ir::types::DType;

use super::groups::{Grouping, has_zeros};
use super::stored::Stored;
use crate::ModelError;
use crate::source::Checkpoint;

/// Puts rows of 4-bit integers in groups together. Where the format's groups are smaller than the checkpoint's, scales and
/// zeros are repeated.
pub(super) struct Assembler<'a> {
    rows: Rows<'a>,
    grouping: Grouping,
    scales: Vec<f32>,
    zeros: Vec<u8>,
}

impl<'a> Assembler<'a> {
    /// Of rows of a module.
    ///
    /// # Errors
    /// Columns that the format cannot have.
    pub fn new(
        checkpoint: &'a Checkpoint,
        module: &'a str,
        stored: &Stored,
        grouping: Grouping,
    ) -> Result<Assembler<'a>, ModelError> {
        let rows = Rows::new(checkpoint, module, stored.dtype, stored.cols)?;
        let zeros = if has_zeros(stored.dtype) { grouping.stored_count() } else { 0 };
        Ok(Assembler { rows, grouping, scales: vec![0.0; grouping.stored_count()], zeros: vec![0; zeros] })
    }

    /// Appends a row, given its integers and the scale and zero of each group.
    ///
    /// # Errors
    /// A scale that the format cannot hold.
    pub fn push(
        &mut self,
        codes: &[u8],
        scale: impl Fn(usize) -> f32,
        zero: impl Fn(usize) -> u8,
    ) -> Result<(), ModelError> {
        for (group, slot) in self.scales.iter_mut().enumerate() {
            *slot = scale(self.grouping.of_stored(group));
        }
        for (group, slot) in self.zeros.iter_mut().enumerate() {
            *slot = zero(self.grouping.of_stored(group));
        }
        self.rows.push(&RowIntegers { codes, scales: &self.scales, zeros: &self.zeros, minima: &[] })
    }

    /// The rows, row-major.
    pub fn finish(self) -> Vec<u8> {
        self.rows.finish()
    }
}

/// Rows of one format, one after the other.
pub(super) struct Rows<'a> {
    checkpoint: &'a Checkpoint,
    /// What errors name.
    tensor: &'a str,
    format: &'static dyn QuantFormat,
    row_bytes: usize,
    bytes: Vec<u8>,
}

impl<'a> Rows<'a> {
    /// Rows of `cols` columns.
    ///
    /// # Errors
    /// Columns that the format cannot have.
    pub fn new(checkpoint: &'a Checkpoint, tensor: &'a str, dtype: DType, cols: u64) -> Result<Rows<'a>, ModelError> {
        let format = quant::format(dtype).zip(usize::try_from(cols).ok());
        let sized = format.and_then(|(format, cols)| format.row_bytes(cols).map(|bytes| (format, bytes)));
        let (format, row_bytes) = sized.ok_or_else(|| {
            ModelError::tensor(checkpoint.path(), tensor, format!("{cols} columns cannot be stored as {dtype}"))
        })?;
        Ok(Rows { checkpoint, tensor, format, row_bytes, bytes: Vec::new() })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// An integer or scale that the format cannot hold.
    pub fn push(&mut self, integers: &RowIntegers<'_>) -> Result<(), ModelError> {
        let start = self.bytes.len();
        self.bytes.resize(start + self.row_bytes, 0);
        self.format
            .assemble_row(integers, &mut self.bytes[start..])
            .map_err(|e| ModelError::tensor(self.checkpoint.path(), self.tensor, e.to_string()))
    }

    /// The rows, row-major.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
