//! Why a compilation failed.

use std::path::PathBuf;

use ir::text::Diagnostics;
use ir::verify::Invalid;
use models::ModelError;

use crate::budget::BudgetError;
use crate::emit::EmitError;
use crate::fuse::FuseError;
use crate::lower::LowerError;
use crate::package::PackageError;
use crate::plan::PlanError;
use crate::quantise::QuantiseError;

/// Why a compilation failed.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The checkpoint cannot be read or is of no known kind.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A weight cannot be quantised as asked.
    #[error(transparent)]
    Quantise(#[from] QuantiseError),
    /// A pass made a graph or program that cannot be: a bug of that pass.
    #[error("after {pass}: {source}")]
    Invalid {
        /// The pass.
        pass: &'static str,
        /// Everything that is wrong.
        source: Invalid,
    },
    /// A pass could not rebuild the graph.
    #[error(transparent)]
    Graph(#[from] ir::graph::GraphError),
    /// Ops could not be fused, or what was asked of fusion cannot be answered.
    #[error(transparent)]
    Fuse(#[from] FuseError),
    /// An op has no lowering.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A program does not fit any memory.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Programs have no machine code.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// The model does not fit the memory it was to be compiled for.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The artifact could not be written.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A dump, report or text to begin with could not be written or read.
    #[error("{}: cannot {action}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The text to begin with is no graph or program that can be.
    #[error("{}: {diagnostics}", .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        diagnostics: Diagnostics,
    },
    /// The text to begin with does not fit the model that its weights are to come from.
    #[error("{}: {message}", .path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// Which weight differs, and the way out.
        message: String,
    },
    /// A pass does not take what the one before it gives.
    #[error("{pass} takes {expected}, not {found}")]
    Order {
        /// The pass.
        pass: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What it was given.
        found: &'static str,
    },
    /// An option is out of range.
    #[error("{option}: {message}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it must be.
        message: String,
    },
}
