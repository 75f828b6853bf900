//! Why a synthetic model could not be written, as data.

use std::io;
use std::path::{Path, PathBuf};

use crate::ModelError;

/// Why a synthetic model could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// The name is in no table.
    #[error("no preset is called {name:?}; there are {known}")]
    UnknownPreset {
        /// The name given.
        name: String,
        /// All names.
        known: String,
    },
    /// An option has a value outside its range.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        found: u64,
    },
    /// A quantised matrix does not consist of whole groups.
    #[error(
        "tensor {tensor}: {columns} columns are no multiple of the group of {group}; choose a smaller --group-size"
    )]
    Group {
        /// The matrix.
        tensor: String,
        /// Its columns.
        columns: u64,
        /// Columns of a group.
        group: u64,
    },
    /// The vocabulary has a size for which there is no tokenizer.
    #[error("a synthetic tokenizer has {least} to {most} tokens, not {found}")]
    Vocabulary {
        /// Least number of tokens.
        least: usize,
        /// Greatest number of tokens.
        most: usize,
        /// The number asked for.
        found: u64,
    },
    /// Something stands where the folder should be written.
    #[error("{}: stands there already and is not empty; name another folder or remove it", .path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A file or folder could not be written.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A preset's configuration lacks a field.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file's description cannot be written as JSON.
    #[error("{file}: {detail}")]
    Json {
        /// The file.
        file: String,
        /// What JSON cannot express.
        detail: String,
    },
}

impl SynthError {
    pub(super) fn json(file: &str, detail: impl ToString) -> SynthError {
        SynthError::Json { file: file.to_owned(), detail: detail.to_string() }
    }
}

/// Wraps an error of the system.
pub(super) fn at(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SynthError {
    let path = path.to_path_buf();
    move |source| SynthError::Io { path, action, source }
}
