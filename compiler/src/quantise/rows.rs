//! Where packaging gets the bytes of weights: read and rounded on the way, or taken from what a calibration stored.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use models::Checkpoint;
use models::weights::{WeightReader, WeightTable};

use super::assign::Assignment;
use super::rounding::{Weighting, round_to_nearest};
use super::{QuantiseError, WeightRows};

/// Weights as the checkpoint has them.
pub struct SourceRows<'a>(WeightReader<'a>);

impl<'a> SourceRows<'a> {
    /// Over a checkpoint and the sources of its weights.
    ///
    /// # Errors
    /// A quantisation scheme that is unknown.
    pub fn new(checkpoint: &'a Checkpoint, weights: &'a WeightTable) -> Result<SourceRows<'a>, QuantiseError> {
        Ok(SourceRows(WeightReader::new(checkpoint, weights)?))
    }

    /// Replaces `out` by the values of rows of a matrix.
    ///
    /// # Errors
    /// A weight that cannot be read.
    pub fn values(
        &mut self,
        weight: &str,
        matrix: u64,
        first: u64,
        count: u64,
        out: &mut Vec<f32>,
    ) -> Result<(), QuantiseError> {
        Ok(self.0.read_values(weight, matrix, first, count, out)?)
    }
}

impl WeightRows for SourceRows<'_> {
    fn rows(
        &mut self,
        weight: &str,
        matrix: u64,
        first: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), QuantiseError> {
        Ok(self.0.read_rows(weight, matrix, first, count, out)?)
    }

    fn plain(&mut self, weight: &str, out: &mut Vec<u8>) -> Result<(), QuantiseError> {
        Ok(self.0.read_plain(weight, out)?)
    }
}

/// Weights as assigned: as the checkpoint has them, or rounded to nearest as they are read.
pub struct StreamedRows<'a> {
    source: SourceRows<'a>,
    assignment: Assignment,
    threads: usize,
    values: Vec<f32>,
}

impl<'a> StreamedRows<'a> {
    /// Over a checkpoint, the sources of its weights and their formats.
    ///
    /// # Errors
    /// A quantisation scheme that is unknown.
    pub fn new(
        checkpoint: &'a Checkpoint,
        weights: &'a WeightTable,
        assignment: &Assignment,
        threads: usize,
    ) -> Result<StreamedRows<'a>, QuantiseError> {
        let source = SourceRows::new(checkpoint, weights)?;
        Ok(StreamedRows { source, assignment: assignment.clone(), threads, values: Vec::new() })
    }
}

impl WeightRows for StreamedRows<'_> {
    fn rows(
        &mut self,
        weight: &str,
        matrix: u64,
        first: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), QuantiseError> {
        let to = match self.assignment.get(weight) {
            Some(decision) if decision.from != decision.to => decision.to,
            _ => return self.source.rows(weight, matrix, first, count, out),
        };
        self.source.values(weight, matrix, first, count, &mut self.values)?;
        let cols = self.values.len().checked_div(count as usize).unwrap_or(0);
        *out = if cols == 0 {
            Vec::new()
        } else {
            round_to_nearest(&self.values, cols, to, Weighting::Squares, weight, self.threads)?
        };
        Ok(())
    }

    fn plain(&mut self, weight: &str, out: &mut Vec<u8>) -> Result<(), QuantiseError> {
        self.source.plain(weight, out)
    }
}

/// A calibrated matrix or stack in the scratch file.
struct Stored {
    offset: u64,
    row_bytes: u64,
    rows: u64,
    bytes: u64,
}

/// Weights that a calibration worked out, in a scratch file without a name; all others as [`StreamedRows`].
pub struct CalibratedRows<'a> {
    rest: StreamedRows<'a>,
    folder: PathBuf,
    file: File,
    end: u64,
    stored: HashMap<String, Stored>,
    plain: HashMap<String, Vec<f32>>,
}

impl<'a> CalibratedRows<'a> {
    /// Nothing calibrated yet; the scratch file is made in `folder` and is gone when this is dropped.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn new(rest: StreamedRows<'a>, folder: &Path) -> Result<CalibratedRows<'a>, QuantiseError> {
        let file = tempfile::tempfile_in(folder).map_err(|e| scratch(folder, "create a scratch file in it", e))?;
        let folder = folder.to_path_buf();
        Ok(CalibratedRows { rest, folder, file, end: 0, stored: HashMap::new(), plain: HashMap::new() })
    }

    /// The formats in force.
    pub fn assignment(&self) -> &Assignment {
        &self.rest.assignment
    }

    pub(super) fn assignment_mut(&mut self) -> &mut Assignment {
        &mut self.rest.assignment
    }

    pub(super) fn source(&mut self) -> &mut SourceRows<'a> {
        &mut self.rest.source
    }

    /// Whether a weight has been calibrated.
    pub(super) fn has(&self, weight: &str) -> bool {
        self.stored.contains_key(weight) || self.plain.contains_key(weight)
    }

    /// Appends the next matrix of a weight: row-major rows. Matrices of one weight come one after the other.
    pub(super) fn store(&mut self, weight: &str, rows: u64, bytes: &[u8]) -> Result<(), QuantiseError> {
        let written = self.file.seek(SeekFrom::Start(self.end)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|e| scratch(&self.folder, "write the scratch file in it", e))?;
        let (offset, row_bytes) = (self.end, bytes.len() as u64 / rows.max(1));
        let stored = self.stored.entry(weight.into()).or_insert(Stored { offset, row_bytes, rows, bytes: 0 });
        stored.bytes += bytes.len() as u64;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Replaces a vector.
    pub(super) fn store_plain(&mut self, weight: &str, values: Vec<f32>) {
        self.plain.insert(weight.into(), values);
    }

    /// A vector's values, replaced or not.
    pub(super) fn plain_values(&mut self, weight: &str) -> Result<Vec<f32>, QuantiseError> {
        let mut bytes = Vec::new();
        self.plain(weight, &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}

fn scratch(folder: &Path, action: &'static str, error: std::io::Error) -> QuantiseError {
    QuantiseError::File { path: folder.into(), action, message: error.to_string() }
}

impl WeightRows for CalibratedRows<'_> {
    fn rows(
        &mut self,
        weight: &str,
        matrix: u64,
        first: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), QuantiseError> {
        let Some(stored) = self.stored.get(weight) else {
            return self.rest.rows(weight, matrix, first, count, out);
        };
        let start = (matrix * stored.rows + first) * stored.row_bytes;
        let len = count * stored.row_bytes;
        if start + len > stored.bytes {
            let message = format!("rows {first}.. of matrix {matrix} were not calibrated");
            return Err(QuantiseError::Weight { weight: weight.into(), message });
        }
        out.resize(len as usize, 0);
        let read = self.file.read_exact_at(out, stored.offset + start);
        read.map_err(|e| scratch(&self.folder, "read the scratch file in it", e))
    }

    fn plain(&mut self, weight: &str, out: &mut Vec<u8>) -> Result<(), QuantiseError> {
        match self.plain.get(weight) {
            None => self.rest.plain(weight, out),
            Some(values) => {
                out.clear();
                out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                Ok(())
            }
        }
    }
}
