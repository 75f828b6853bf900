//! The tensor table of a checkpoint: what is stored under each name, and where.

use crate::ModelError;
use ir::types::DType;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Element type of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorDType {
    /// A type the compiler has a format for.
    Known(DType),
    /// Any other, by the name its container gives it. Such a tensor may stand in a file, but not be used as a weight.
    Other(String),
}

impl fmt::Display for TensorDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorDType::Known(dtype) => dtype.fmt(f),
            TensorDType::Other(name) => f.write_str(name),
        }
    }
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, as the checkpoint has it.
    pub name: String,
    /// Element type.
    pub dtype: TensorDType,
    /// Dimensions, row-major, outermost first (a GGUF file has them reversed).
    pub shape: Vec<u64>,
    /// Length of the data. For GGUF block types: whole blocks along the last dimension.
    pub bytes: u64,
}

/// A weights file, open for positioned reads.
#[derive(Debug)]
pub(super) struct DataFile {
    pub path: PathBuf,
    pub file: File,
    pub len: u64,
}

impl DataFile {
    /// Opens a regular file (a pipe or device would block or never end).
    pub fn open(path: &Path) -> Result<DataFile, ModelError> {
        let meta = fs::metadata(path).map_err(|e| ModelError::io(path, "open", e))?;
        if !meta.is_file() {
            return Err(ModelError::NotACheckpoint { path: path.into(), problem: "not a regular file".into() });
        }
        let file = File::open(path).map_err(|e| ModelError::io(path, "open", e))?;
        Ok(DataFile { path: path.to_path_buf(), file, len: meta.len() })
    }

    /// Fills `out` from `offset`.
    pub fn read_at(&self, out: &mut [u8], offset: u64) -> Result<(), ModelError> {
        self.file
            .read_exact_at(out, offset)
            .map_err(|e| ModelError::io(&self.path, format!("read {} bytes at {offset}", out.len()), e))
    }

    /// Reads sequentially from the start.
    pub fn reader(&self) -> impl Read + '_ {
        &self.file
    }
}

/// Where a tensor's data lies.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub info: TensorInfo,
    /// Index into the checkpoint's files.
    pub file: usize,
    /// Byte offset in that file.
    pub offset: u64,
}

/// All tensors, by name.
#[derive(Debug, Default)]
pub(super) struct TensorTable {
    entries: BTreeMap<String, Entry>,
}

impl TensorTable {
    /// Adds a tensor. A name that is already there is handed back.
    pub fn insert(&mut self, entry: Entry) -> Result<(), Entry> {
        match self.entries.entry(entry.info.name.clone()) {
            std::collections::btree_map::Entry::Occupied(_) => Err(entry),
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(entry);
                Ok(())
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.values()
    }

    /// The name that shares the longest beginning with `name`, and most of its end.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        let shared = |other: &str| {
            let front = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            let back = name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
            front + back
        };
        self.entries.keys().map(String::as_str).max_by_key(|other| shared(other)).filter(|other| shared(other) > 3)
    }
}

/// Product of the dimensions; `None` on overflow.
pub(super) fn elements(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |a, &d| a.checked_mul(d))
}
