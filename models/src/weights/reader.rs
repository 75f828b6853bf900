//! Reads weights: rows of matrices in their format, vectors, column orders.
//!
//! What is stored row by row is read a range at a time. What is not (columns of GPTQ and AWQ, transposes, ternary weights) is
//! decoded as a whole and kept until another matrix is asked for, so that memory is bounded by one tensor.

use ir::quant;
use ir::types::DType;

use super::resolver::{Resolver, output_dtype};
use super::stored::{Form, Stored};
use super::{MatrixSource, RowSelection, WeightSource, WeightTable, columnwise, rowwise, ternary};
use crate::ModelError;
use crate::source::Checkpoint;

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
        self.read_matrix(weight, matrix, first, count, out).map(|_| ())
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
        out.resize(count as usize * cols as usize, 0.0);
        let read = quant::dequantize(dtype, &bytes, cols as usize, out);
        read.map_err(|e| ModelError::tensor(self.checkpoint.path(), weight, e.to_string()))
    }

    /// Replaces `out` by a vector or stack of vectors (f32) or a column order (i32), little-endian.
    ///
    /// # Errors
    /// A weight that is a matrix, a file that cannot be read, or a number that is not finite.
    pub fn read_plain(&mut self, weight: &str, out: &mut Vec<u8>) -> Result<(), ModelError> {
        out.clear();
        match self.table.get(weight) {
            Some(WeightSource::Vector { tensor, rows, add }) => self.vector(tensor, None, rows, *add, None, out),
            Some(WeightSource::VectorStack(sources)) => self.vectors(sources, out),
            Some(WeightSource::ColumnOrder { modules, stacked }) => {
                let count = if *stacked { modules.len() } else { 1 };
                modules.iter().take(count).try_for_each(|module| self.column_order(module, out))
            }
            Some(WeightSource::Matrix(_) | WeightSource::Stack(_)) => Err(self.wrong(weight, "it is no vector")),
            None if self.checkpoint.tensor(weight)?.shape.len() != 1 => Err(self.wrong(weight, "it is no vector")),
            None => self.vector(weight, None, &RowSelection::all(), 0.0, None, out),
        }
    }

    fn wrong(&self, tensor: &str, problem: impl Into<String>) -> ModelError {
        ModelError::tensor(self.checkpoint.path(), tensor, problem)
    }

    /// Appends elements of a vector, or of a row of a matrix. Without `len` as many as the selection reaches.
    fn vector(
        &self,
        tensor: &str,
        row: Option<u64>,
        rows: &RowSelection,
        add: f32,
        len: Option<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        let mut values = Vec::new();
        read_floats(self.checkpoint, tensor, &mut values)?;
        let width = self.checkpoint.tensor(tensor)?.shape.last().copied().unwrap_or(0);
        let start = row.unwrap_or(0).saturating_mul(width) as usize;
        let values =
            values.get(start..start + width as usize).ok_or_else(|| self.wrong(tensor, "it has no such row"))?;
        let selected = (0..width).map(|i| rows.row(i)).take_while(|i| *i < width).take(len.unwrap_or(usize::MAX));
        out.extend(selected.flat_map(|i| (values[i as usize] + add).to_le_bytes()));
        Ok(())
    }

    fn vectors(&self, sources: &[(String, Option<u64>, RowSelection)], out: &mut Vec<u8>) -> Result<(), ModelError> {
        sources.iter().try_for_each(|(tensor, row, rows)| self.vector(tensor, *row, rows, 0.0, None, out))
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
        let (dtype, cols) = (output_dtype(&source, &stored), self.columns(&source, &stored, weight)?);
        out.clear();
        if source.transposed && source.expert.is_none() {
            self.transposed_selection(&source, &stored, [first, count, cols], out)?;
        } else if source.transposed || is_whole(&stored.form) {
            self.decoded_rows(&source, &stored, [first, count], out)?;
        } else {
            let place = |row, rows| (source.expert.unwrap_or(0), row, rows);
            let mut i = first;
            while i < first + count {
                let (row, run) = (source.rows.row(i), source.rows.adjacent(i, first + count - i));
                self.expect_rows(weight, &stored, row, run)?;
                rowwise::read(self.checkpoint, &source.module, &stored, place(row, run), out)?;
                i += run;
            }
        }
        Ok((dtype, cols))
    }

    /// Columns of the matrix that a source gives.
    fn columns(&self, source: &MatrixSource, stored: &Stored, weight: &str) -> Result<u64, ModelError> {
        match (source.transposed, source.expert, self.table.get(weight)) {
            (false, ..) => Ok(stored.cols),
            (true, Some(_), _) => Ok(stored.rows),
            (true, None, _) => {
                source.rows.rows_in_run().ok_or_else(|| self.wrong(weight, "its columns are not bounded"))
            }
        }
    }

    fn expect_rows(&self, weight: &str, stored: &Stored, row: u64, count: u64) -> Result<(), ModelError> {
        match row.checked_add(count) {
            Some(end) if end <= stored.rows => Ok(()),
            _ => Err(self.wrong(weight, format!("rows {row}.. are not among its {}", stored.rows))),
        }
    }

    /// Rows of a matrix that is decoded as a whole.
    fn decoded_rows(
        &mut self,
        source: &MatrixSource,
        stored: &Stored,
        [first, count]: [u64; 2],
        out: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        let key = (source.module.clone(), source.expert, source.transposed);
        if self.decoded.as_ref().is_none_or(|d| d.source != key) {
            self.decoded = None;
            let bytes = self.decode(source, stored)?;
            self.decoded = Some(Decoded { source: key, bytes });
        }
        let cols = if source.transposed { stored.rows } else { stored.cols };
        let row_bytes = quant::row_bytes(output_dtype(source, stored), cols).unwrap_or(0) as usize;
        let bytes = self.decoded.as_ref().map_or(&[][..], |d| &d.bytes);
        for i in first..first + count {
            let row = source.rows.row(i) as usize;
            let range = row.saturating_mul(row_bytes)..row.saturating_add(1).saturating_mul(row_bytes);
            out.extend_from_slice(bytes.get(range).ok_or_else(|| self.wrong(&source.module, "it has no such row"))?);
        }
        Ok(())
    }

    fn decode(&self, source: &MatrixSource, stored: &Stored) -> Result<Vec<u8>, ModelError> {
        if !source.transposed {
            return match stored.form {
                Form::Gptq { .. } | Form::Awq { .. } => columnwise::decode(self.checkpoint, &source.module, stored),
                _ => ternary::decode(self.checkpoint, &source.module, stored),
            };
        }
        let mut rows = Vec::new();
        let place = (source.expert.unwrap_or(0), 0, stored.rows);
        rowwise::read(self.checkpoint, &source.module, stored, place, &mut rows)?;
        self.transpose(&source.module, stored.dtype, &rows, [stored.rows, stored.cols])
    }

    /// Part of a matrix's rows, transposed: row `i` of the result is column `i` of the rows selected.
    fn transposed_selection(
        &mut self,
        source: &MatrixSource,
        stored: &Stored,
        [first, count, cols]: [u64; 3],
        out: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        let upright = MatrixSource { transposed: false, ..source.clone() };
        let mut rows = Vec::new();
        if is_whole(&stored.form) {
            self.decoded_rows(&upright, stored, [0, cols], &mut rows)?;
        } else {
            self.expect_rows(&source.module, stored, source.rows.row(0), cols)?;
            let place = (0, source.rows.row(0), cols);
            rowwise::read(self.checkpoint, &source.module, stored, place, &mut rows)?;
        }
        let all = self.transpose(&source.module, stored.dtype, &rows, [cols, stored.cols])?;
        let row_bytes = quant::row_bytes(output_dtype(source, stored), cols).unwrap_or(0) as usize;
        let range = first as usize * row_bytes..(first + count) as usize * row_bytes;
        out.extend_from_slice(all.get(range).ok_or_else(|| self.wrong(&source.module, "it has no such row"))?);
        Ok(())
    }

    /// Transposes `[rows, cols]`: elements of floats as they are, anything else dequantised to f32.
    fn transpose(
        &self,
        module: &str,
        dtype: DType,
        bytes: &[u8],
        [rows, cols]: [u64; 2],
    ) -> Result<Vec<u8>, ModelError> {
        let (rows, cols) = (rows as usize, cols as usize);
        let mut values = Vec::new();
        let (bytes, element) = match dtype.element_bytes() {
            Some(element) => (bytes, element as usize),
            None => {
                let mut reals = vec![0.0; rows * cols];
                quant::dequantize(dtype, bytes, cols, &mut reals).map_err(|e| self.wrong(module, e.to_string()))?;
                values.extend(reals.iter().flat_map(|v| v.to_le_bytes()));
                (values.as_slice(), 4)
            }
        };
        let mut out = vec![0; rows * cols * element];
        for (row, elements) in bytes.chunks_exact((cols * element).max(1)).enumerate() {
            for (col, from) in elements.chunks_exact(element).enumerate() {
                out[(col * rows + row) * element..][..element].copy_from_slice(from);
            }
        }
        Ok(out)
    }
}

/// Whether a form can only be decoded as a whole.
fn is_whole(form: &Form) -> bool {
    matches!(form, Form::Gptq { .. } | Form::Awq { .. } | Form::TernaryPacked | Form::TernaryOnline { .. })
}

/// Replaces `out` by the values of a whole tensor of floats.
pub(super) fn read_floats(checkpoint: &Checkpoint, tensor: &str, out: &mut Vec<f32>) -> Result<(), ModelError> {
    let (mut bytes, dtype) = (Vec::new(), checkpoint.dtype(tensor)?);
    checkpoint.read(tensor, &mut bytes)?;
    expect_finite(checkpoint, tensor, dtype, &bytes)?;
    let elements = dtype.element_bytes().map_or(0, |n| bytes.len() / n as usize);
    out.clear();
    out.resize(elements, 0.0);
    quant::dequantize(dtype, &bytes, elements, out)
        .map_err(|e| ModelError::tensor(checkpoint.path(), tensor, e.to_string()))
}

/// Fails if little-endian floats hold a NaN or an infinity. Other types pass.
pub(super) fn expect_finite(
    checkpoint: &Checkpoint,
    tensor: &str,
    dtype: DType,
    bytes: &[u8],
) -> Result<(), ModelError> {
    let halves = |mask: u16| bytes.as_chunks::<2>().0.iter().position(|b| u16::from_le_bytes(*b) & mask == mask);
    let bad = match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().position(|b| !f32::from_le_bytes(*b).is_finite()),
        DType::F16 => halves(0x7c00),
        DType::BF16 => halves(0x7f80),
        _ => None,
    };
    match bad {
        None => Ok(()),
        Some(_) => {
            let problem = "holds a NaN or an infinity; the checkpoint is damaged, download it again";
            Err(ModelError::tensor(checkpoint.path(), tensor, problem))
        }
    }
}
