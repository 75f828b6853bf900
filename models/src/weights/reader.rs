//! Reads weights: rows of matrices in their format, vectors, column orders.
//!
//! What is stored row by row is read a range at a time. What is not (columns of GPTQ and AWQ, transposes, ternary weights) is
//! decoded as a whole and kept until another matrix is asked for, so that memory is bounded by one tensor.

use ir::quant;
use ir::types::DType;

use super::resolver::{Resolver, output_dtype};
use super::rowwise::RowReader;
use super::stored::{Form, Stored};
use super::transpose::transpose;
use super::{MatrixSource, RowSelection, WeightSource, WeightTable, columnwise, floats, ternary};
use crate::ModelError;
use crate::source::Checkpoint;

/// Widest stride of rows that are read with those between them, rather than one by one.
const SKIMMED_STRIDE: u64 = 4;

/// Reads the weights of a graph.
#[derive(Debug)]
pub struct WeightReader<'a> {
    checkpoint: &'a Checkpoint,
    table: &'a WeightTable,
    resolver: Resolver<'a>,
    decoded: Option<Decoded>,
}

/// A matrix decoded as a whole, in the format its rows are given in.
#[derive(Debug)]
struct Decoded {
    source: (String, Option<u64>, bool),
    bytes: Vec<u8>,
}

impl<'a> WeightReader<'a> {
    /// A reader of the weights that `table` describes.
    ///
    /// # Errors
    /// As [`Resolver::new`].
    pub fn new(checkpoint: &'a Checkpoint, table: &'a WeightTable) -> Result<WeightReader<'a>, ModelError> {
        Ok(WeightReader { checkpoint, table, resolver: Resolver::new(checkpoint)?, decoded: None })
    }

    /// Replaces `out` by rows `first..first + count` of matrix `matrix` (0 for a weight of rank 2), row-major in the weight's
    /// format.
    ///
    /// # Errors
    /// No such matrix or rows, a file that cannot be read, or a number that is not finite.
    pub fn read_rows(
        &mut self,
        weight: &str,
        matrix: u64,
        first: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        self.read_matrix(weight, matrix, first, count, out).map(drop)
    }

    /// As [`WeightReader::read_rows`], dequantised to `[count, cols]` values.
    ///
    /// # Errors
    /// As [`WeightReader::read_rows`].
    pub fn read_values(
        &mut self,
        weight: &str,
        matrix: u64,
        first: u64,
        count: u64,
        out: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let mut bytes = Vec::new();
        let (dtype, cols) = self.read_matrix(weight, matrix, first, count, &mut bytes)?;
        out.clear();
        // Rows that were read fit in memory many times over, so their number times their length does not overflow.
        out.resize(count as usize * cols as usize, 0.0);
        quant::dequantize(dtype, &bytes, cols as usize, out).map_err(|e| self.wrong(weight, e.to_string()))
    }

    /// Replaces `out` by a vector or stack of vectors (f32) or a column order (i32), little-endian.
    ///
    /// # Errors
    /// A weight that is a matrix, a file that cannot be read, or a number that is not finite.
    pub fn read_plain(&mut self, weight: &str, out: &mut Vec<u8>) -> Result<(), ModelError> {
        out.clear();
        match self.table.get(weight) {
            Some(WeightSource::Vector { tensor, rows, add }) => self.vector(tensor, None, rows, *add, out),
            Some(WeightSource::VectorStack(sources)) => {
                sources.iter().try_for_each(|(tensor, row, rows)| self.vector(tensor, *row, rows, 0.0, out))
            }
            Some(WeightSource::ColumnOrder { modules, stacked }) => {
                let count = if *stacked { modules.len() } else { 1 };
                modules.iter().take(count).try_for_each(|module| self.column_order(module, out))
            }
            Some(WeightSource::Matrix(_) | WeightSource::Stack(_)) => Err(self.wrong(weight, "it is no vector")),
            None if self.checkpoint.tensor(weight)?.shape.len() != 1 => Err(self.wrong(weight, "it is no vector")),
            None => self.vector(weight, None, &RowSelection::all(), 0.0, out),
        }
    }

    fn wrong(&self, tensor: &str, problem: impl Into<String>) -> ModelError {
        ModelError::tensor(self.checkpoint.path(), tensor, problem)
    }

    /// Appends elements of a vector, or of a row of a matrix, as many as the selection reaches.
    fn vector(
        &self,
        tensor: &str,
        row: Option<u64>,
        rows: &RowSelection,
        add: f32,
        out: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        let width = self.checkpoint.tensor(tensor)?.shape.last().copied().unwrap_or(1);
        let first = row.unwrap_or(0).saturating_mul(width);
        let values = floats::read_elements(self.checkpoint, tensor, first, width)?;
        let selected = (0..width).map(|i| rows.row(i)).take_while(|i| *i < width);
        out.extend(selected.flat_map(|i| (values[i as usize] + add).to_le_bytes()));
        Ok(())
    }

    fn column_order(&self, module: &str, out: &mut Vec<u8>) -> Result<(), ModelError> {
        let stored = self.resolver.stored(module)?;
        let order = columnwise::column_order(self.checkpoint, module, &stored)?;
        let order = order.unwrap_or_else(|| (0..stored.cols as u32).collect());
        out.extend(order.iter().flat_map(|column| column.to_le_bytes()));
        Ok(())
    }

    /// The source of a matrix of a weight.
    fn source(&self, weight: &str, matrix: u64) -> Result<MatrixSource, ModelError> {
        let source = match self.table.get(weight) {
            Some(WeightSource::Matrix(source)) if matrix == 0 => Some(source.clone()),
            Some(WeightSource::Stack(sources)) => sources.get(matrix as usize).cloned(),
            None if matrix == 0 => Some(MatrixSource {
                module: weight.strip_suffix(".weight").unwrap_or(weight).into(),
                expert: None,
                rows: RowSelection::all(),
                transposed: false,
            }),
            _ => None,
        };
        source.ok_or_else(|| self.wrong(weight, format!("it has no matrix {matrix}")))
    }

    /// Reads rows; gives their format and columns.
    fn read_matrix(
        &mut self,
        weight: &str,
        matrix: u64,
        first: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(DType, u64), ModelError> {
        let source = self.source(weight, matrix)?;
        let stored = self.resolver.stored(&source.module)?;
        let end = first.checked_add(count).ok_or_else(|| self.wrong(weight, "it has no such rows"))?;
        out.clear();
        let cols = match (source.transposed, source.expert) {
            (false, _) => stored.cols,
            (true, Some(_)) => stored.rows,
            (true, None) => {
                source.rows.rows_in_run().ok_or_else(|| self.wrong(weight, "its columns are not bounded"))?
            }
        };
        if source.transposed && source.expert.is_none() {
            self.transposed_rows(&source, &stored, [first, end, cols], out)?;
        } else if source.transposed || stored.form.is_whole() {
            self.decoded_rows(&source, &stored, first..end, out)?;
        } else {
            self.stored_rows(&source, &stored, first..end, out)?;
        }
        Ok((output_dtype(&source, &stored), cols))
    }

    /// Appends rows of a matrix that is stored row by row.
    fn stored_rows(
        &self,
        source: &MatrixSource,
        stored: &Stored,
        range: std::ops::Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        let reader = self.row_reader(source, stored);
        match source.rows.stride().filter(|stride| *stride <= SKIMMED_STRIDE && !range.is_empty()) {
            Some(stride) => {
                let mut all = Vec::new();
                let (first, last) = (source.rows.row(range.start), source.rows.row(range.end - 1));
                reader.read(first, last - first + 1, &mut all)?;
                let row_bytes = quant::row_bytes(stored.dtype, stored.cols).unwrap_or(0).max(1) as usize;
                out.extend(all.chunks_exact(row_bytes).step_by(stride as usize).flatten());
            }
            None => {
                let mut i = range.start;
                while i < range.end {
                    let run = source.rows.adjacent(i, range.end - i);
                    reader.read(source.rows.row(i), run, out)?;
                    i += run;
                }
            }
        }
        Ok(())
    }

    fn row_reader<'b>(&self, source: &'b MatrixSource, stored: &'b Stored) -> RowReader<'b>
    where
        'a: 'b,
    {
        let matrix = source.expert.unwrap_or(0);
        RowReader { checkpoint: self.checkpoint, module: &source.module, stored, matrix }
    }

    /// Appends rows of a matrix that is decoded as a whole.
    fn decoded_rows(
        &mut self,
        source: &MatrixSource,
        stored: &Stored,
        range: std::ops::Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        let key = (source.module.clone(), source.expert, source.transposed);
        if self.decoded.as_ref().is_none_or(|decoded| decoded.source != key) {
            self.decoded = None;
            let bytes = self.decode(source, stored)?;
            self.decoded = Some(Decoded { source: key, bytes });
        }
        let cols = if source.transposed { stored.rows } else { stored.cols };
        let row_bytes = quant::row_bytes(output_dtype(source, stored), cols).unwrap_or(0) as usize;
        let bytes = self.decoded.as_ref().map_or(&[][..], |decoded| &decoded.bytes);
        for i in range {
            let row = source.rows.row(i) as usize;
            let range = row.saturating_mul(row_bytes)..row.saturating_add(1).saturating_mul(row_bytes);
            out.extend_from_slice(bytes.get(range).ok_or_else(|| self.wrong(&source.module, "it has no such row"))?);
        }
        Ok(())
    }

    fn decode(&self, source: &MatrixSource, stored: &Stored) -> Result<Vec<u8>, ModelError> {
        let (checkpoint, module) = (self.checkpoint, source.module.as_str());
        match &stored.form {
            Form::Columnwise { layout, grouping, .. } => {
                columnwise::decode(checkpoint, module, stored, *layout, *grouping)
            }
            Form::TernaryPacked { divides } => ternary::packed(checkpoint, module, stored, *divides),
            Form::TernaryOnline { tensor } => ternary::online(checkpoint, tensor, stored),
            Form::Plain { .. } | Form::PackedInt4 { .. } | Form::Fp8 { .. } | Form::Mxfp4 => {
                let mut rows = Vec::new();
                self.row_reader(source, stored).read(0, stored.rows, &mut rows)?;
                transpose(checkpoint, module, stored.dtype, &rows, stored.cols, None)
            }
        }
    }

    /// Appends rows of the transpose of `cols` stored rows.
    fn transposed_rows(
        &mut self,
        source: &MatrixSource,
        stored: &Stored,
        [first, end, cols]: [u64; 3],
        out: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        let upright = MatrixSource { transposed: false, ..source.clone() };
        let mut rows = Vec::new();
        if stored.form.is_whole() {
            self.decoded_rows(&upright, stored, 0..cols, &mut rows)?;
        } else {
            self.stored_rows(&upright, stored, 0..cols, &mut rows)?;
        }
        let order = columnwise::column_order(self.checkpoint, &source.module, stored)?;
        let all = transpose(self.checkpoint, &source.module, stored.dtype, &rows, stored.cols, order.as_deref())?;
        let row_bytes = quant::row_bytes(output_dtype(source, stored), cols).unwrap_or(0);
        let range = first.saturating_mul(row_bytes) as usize..end.saturating_mul(row_bytes) as usize;
        out.extend_from_slice(all.get(range).ok_or_else(|| self.wrong(&source.module, "it has no such row"))?);
        Ok(())
    }
}
