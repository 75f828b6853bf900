//! What can be wrong with a checkpoint, as data.
//!
//! Each message is one line that names the file and the field, key or tensor, says what was expected, and, where the
//! reader can do something about it, what.

use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused to open or read a file.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted, as "read 16 bytes at 4096".
        action: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The path given is no checkpoint.
    #[error("{}: {problem}; give a Hugging Face folder (config.json with model.safetensors) or a .gguf file", .path.display())]
    NotACheckpoint {
        /// The path given.
        path: PathBuf,
        /// What is missing there.
        problem: String,
    },
    /// A file that should be JSON is not, or has another structure.
    #[error("{}: {problem}; the file is damaged or not of this kind, download it again", .file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// The parser's complaint, with line and column.
        problem: String,
    },
    /// A field of a JSON file or a metadata key of a GGUF file is absent, of another type or out of range.
    #[error("{}: field {field}: expected {expected}, found {found}", .file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// Dotted path of the field, or the key.
        field: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The container structure of a weights file is broken.
    #[error("{}: {at}: {problem}; the file is damaged or cut short, download it again", .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Which part.
        at: String,
        /// What is wrong with it.
        problem: String,
    },
    /// One tensor's entry is unusable.
    #[error("{}: tensor {tensor}: {problem}", .file.display())]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it, and the way out.
        problem: String,
    },
    /// The model's family needs a tensor that the checkpoint lacks.
    #[error("{}: tensor {tensor} is missing{hint}", .path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Empty, or "; the nearest name is …".
        hint: String,
    },
    /// A tensor that is used as a weight has a type that is not supported.
    #[error("{}: tensor {tensor} has type {dtype}, which is not supported for weights; use a checkpoint in one of {supported}", .file.display())]
    UnsupportedDType {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type, as the file names it.
        dtype: String,
        /// The types that would do.
        supported: String,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("{}: tensor {tensor}: expected shape {expected:?}, found {found:?}; configuration and weights do not belong together", .file.display())]
    TensorShape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape from the configuration, outermost dimension first.
        expected: Vec<u64>,
        /// Shape in the file.
        found: Vec<u64>,
    },
    /// A name that selects an implementation (architecture, pre-tokenizer, activation) is not known.
    #[error("{}: {what} {name:?} is not known; known are {known}", .file.display())]
    UnknownName {
        /// The file.
        file: PathBuf,
        /// What the name selects, with its field: "field model_type: architecture".
        what: String,
        /// The name.
        name: String,
        /// The names that would do.
        known: String,
    },
    /// The checkpoint asks for something this program does not do.
    #[error("{}: {what} is not supported; {instead}", .file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The feature, with its field.
        what: String,
        /// The way out.
        instead: String,
    },
    /// The tokenizer cannot be built.
    #[error("{}: tokenizer: {problem}", .file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The hyperparameters give an op operands it cannot take.
    #[error("the configuration makes no valid model: {0}")]
    Graph(#[from] ir::graph::GraphError),
}

impl ModelError {
    /// An [`ModelError::Io`] for `path`.
    pub(crate) fn io(path: &Path, action: impl Into<String>, source: io::Error) -> ModelError {
        ModelError::Io { path: path.to_path_buf(), action: action.into(), source }
    }

    /// A [`ModelError::Json`] for `file`.
    pub(crate) fn json(file: &Path, problem: impl Into<String>) -> ModelError {
        ModelError::Json { file: file.to_path_buf(), problem: on_one_line(problem.into()) }
    }

    /// A [`ModelError::Malformed`] for `file`.
    pub(crate) fn malformed(file: &Path, at: impl Into<String>, problem: impl Into<String>) -> ModelError {
        let (at, problem) = (on_one_line(at.into()), on_one_line(problem.into()));
        ModelError::Malformed { file: file.to_path_buf(), at, problem }
    }

    /// A [`ModelError::Field`] for `file`.
    pub(crate) fn field(
        file: &Path,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> ModelError {
        let (field, expected, found) = (on_one_line(field.into()), expected.into(), on_one_line(found.into()));
        ModelError::Field { file: file.to_path_buf(), field, expected, found }
    }

    /// A [`ModelError::Tensor`] for `file`.
    pub(crate) fn tensor(file: &Path, tensor: &str, problem: impl Into<String>) -> ModelError {
        let (tensor, problem) = (on_one_line(tensor.to_owned()), on_one_line(problem.into()));
        ModelError::Tensor { file: file.to_path_buf(), tensor, problem }
    }

    /// A [`ModelError::Tokenizer`] for `file`.
    pub(crate) fn tokenizer(file: &Path, problem: impl Into<String>) -> ModelError {
        ModelError::Tokenizer { file: file.to_path_buf(), problem: on_one_line(problem.into()) }
    }
}

/// Text from a file or a parser, cut to a readable length and with control characters replaced, so that neither can
/// break a message apart or drive a terminal.
fn on_one_line(text: String) -> String {
    const SHOWN: usize = 400;
    if text.len() <= SHOWN && !text.contains(char::is_control) {
        return text;
    }
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.chars().take(SHOWN).map(printable).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
