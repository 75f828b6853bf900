//! What can be wrong with an artifact: always a file, mostly a field, and what was expected of it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ir::text::ParseError;
use ir::verify::Invalid;

/// An artifact that cannot be used. Prints as one line that names file and field.
#[derive(Debug)]
pub struct ArtifactError {
    /// The file.
    pub file: PathBuf,
    /// The field of the manifest, or the tensor, launch or symbol; empty where the whole file is meant.
    pub field: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// The kinds of faults.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The folder has no manifest.
    #[error("no such file; an artifact is a folder with a manifest, made by `moesaic compile`")]
    NoManifest,
    /// The system refused an operation.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The text is no JSON, or not of the expected structure.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The manifest has another structure than this build reads.
    #[error("version {found}, but this build reads version {supported}; compile the model again with this version")]
    Schema {
        /// The version found.
        found: u64,
        /// The version this build reads.
        supported: u32,
    },
    /// A name that leads out of the folder, or to something that is no regular file.
    #[error("{0}")]
    Path(&'static str),
    /// A file is named that the manifest's `files` does not list.
    #[error("{0:?} is not listed in files")]
    Unlisted(String),
    /// The file is shorter or longer than it must be.
    #[error("{found} bytes, expected {expected}; the file is incomplete or was changed: copy or compile it again")]
    Length {
        /// The length the manifest states.
        expected: u64,
        /// The file's length.
        found: u64,
    },
    /// The content is not what the compiler wrote.
    #[error("BLAKE3 is {found}, expected {expected}; the file is damaged or was changed: copy or compile it again")]
    Hash {
        /// The hash the manifest states.
        expected: String,
        /// The file's hash.
        found: String,
    },
    /// A safetensors file whose header cannot be read.
    #[error("bad safetensors header: {0}")]
    Header(String),
    /// A program whose text cannot be read.
    #[error("{0}")]
    Parse(#[from] ParseError),
    /// A program that breaks the rules of programs.
    #[error("{0}")]
    Verify(#[from] Invalid),
    /// Something is not what another part of the artifact, or the kernel catalog, says.
    #[error("{found}, expected {expected}")]
    Mismatch {
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A value that cannot be.
    #[error("{0}")]
    Invalid(String),
}

impl Fault {
    /// A [`Fault::Mismatch`] of two printable values.
    pub(crate) fn mismatch(expected: impl fmt::Display, found: impl fmt::Display) -> Fault {
        Fault::Mismatch { expected: expected.to_string(), found: found.to_string() }
    }

    /// A [`Fault::Io`] of an operation.
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Fault {
        move |source| Fault::Io { action, source }
    }

    /// The fault at a place.
    pub(crate) fn at(self, file: &Path, field: impl Into<String>) -> ArtifactError {
        ArtifactError { file: file.to_path_buf(), field: field.into(), fault: self }
    }
}

impl fmt::Display for ArtifactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.field.is_empty() { "" } else { ": " };
        let text = format!("{}: {}{separator}{}", self.file.display(), self.field, self.fault);
        // Names in a damaged artifact may hold anything; the message stays one line.
        text.chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

impl std::error::Error for ArtifactError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source()
    }
}
