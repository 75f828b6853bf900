//! Errors that stop a parse or a launch. What a kernel does wrong while running is a `Finding`, not an error.

use thiserror::Error;

/// The text is no PTX that this simulator executes: syntax, or an instruction it does not know.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{file}:{line}:{column}: {message}")]
pub struct ParseError {
    /// The name given to [`crate::Module::parse`].
    pub file: String,
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// Column of the PTX text, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

/// A launch that cannot run, or cannot go on.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SimError {
    /// The module has no such kernel.
    #[error("{file}: no kernel `{kernel}`; the module has {available}")]
    UnknownKernel {
        /// File of the module.
        file: String,
        /// What was asked for.
        kernel: String,
        /// The names there are, joined by commas.
        available: String,
    },
    /// The kernel holds an instruction that is not simulated, or operands that do not fit it.
    #[error(transparent)]
    Decode(#[from] ParseError),
    /// The launch does not fit the kernel or the limits of the hardware.
    #[error("launch of `{kernel}`: {message}")]
    BadLaunch {
        /// Kernel.
        kernel: String,
        /// What does not fit.
        message: String,
    },
    /// No warp can go on: all wait at barriers that nobody completes.
    #[error("kernel `{kernel}` hangs: {message}")]
    Deadlock {
        /// Kernel.
        kernel: String,
        /// Who waits where.
        message: String,
    },
    /// The launch executed more warp instructions than `Options::instruction_limit`.
    #[error(
        "kernel `{kernel}` exceeded the limit of {limit} warp instructions (an endless loop, or raise `Options::instruction_limit`)"
    )]
    InstructionLimit {
        /// Kernel.
        kernel: String,
        /// The limit.
        limit: u64,
    },
    /// The kernel executed `trap`.
    #[error("kernel `{kernel}` trapped at {place}")]
    Trap {
        /// Kernel.
        kernel: String,
        /// Source line, block and warp.
        place: String,
    },
    /// An operation of the host on memory named no allocation or left its bounds.
    #[error("host access to device memory: {0}")]
    HostAccess(String),
}
