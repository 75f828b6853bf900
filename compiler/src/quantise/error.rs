//! Why weights could not be quantised.

use std::path::PathBuf;

use ir::graph::GraphError;
use ir::quant::QuantError;
use models::ModelError;
use runtime::device::DeviceError;

use crate::lower::LowerError;
use crate::plan::PlanError;

/// Why weights could not be quantised.
#[derive(Debug, thiserror::Error)]
pub enum QuantiseError {
    /// The checkpoint cannot give a weight.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A row cannot be rounded to a format.
    #[error("weight {weight}: {source}")]
    Format {
        /// The weight.
        weight: String,
        /// What does not fit.
        source: QuantError,
    },
    /// An option is out of range or does not go with another.
    #[error("{option}: {message}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it must be.
        message: String,
    },
    /// A word names no weight format.
    #[error("unknown weight format {word:?}; the formats are {known}")]
    UnknownFormat {
        /// The word.
        word: String,
        /// What there is.
        known: String,
    },
    /// The calibration text is too short to measure anything.
    #[error("{}: the calibration text has {found} tokens, and at least {needed} are needed; give a longer text", .path.display())]
    ShortText {
        /// The text.
        path: PathBuf,
        /// Tokens it has.
        found: usize,
        /// Tokens that are needed.
        needed: usize,
    },
    /// The calibration text, the tokenizer or the scratch file cannot be read or written.
    #[error("{}: cannot {action}: {message}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The answer.
        message: String,
    },
    /// The inputs of a product have no usable second moments.
    #[error(
        "weight {weight}: the Hessian of its inputs is not positive definite, even with {damping} of its mean diagonal added; use --quant-method rtn or another calibration text"
    )]
    Singular {
        /// The weight.
        weight: String,
        /// The last damping tried, as a share of the mean diagonal.
        damping: f64,
    },
    /// A calibration step gave a number that is none.
    #[error(
        "{value}: calibration gave a value that is not finite; the checkpoint is broken or its activations exceed f32"
    )]
    NotFinite {
        /// The graph value.
        value: String,
    },
    /// A weight has no rank 2 or 3, or is unknown.
    #[error("weight {weight}: {message}")]
    Weight {
        /// The weight.
        weight: String,
        /// What is wrong.
        message: String,
    },
    /// A slice of the graph cannot be built.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A slice of the graph cannot be lowered.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A slice of the graph cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A slice of the graph cannot be executed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
