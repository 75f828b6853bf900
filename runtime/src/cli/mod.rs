//! The verbs of a machine that runs models, shared by `moesaic` and `moesaic-runtime`.

mod args;
mod bench;
mod bench_energy;
mod bench_prefix;
mod chat;
mod compare;
mod divergence;
mod doctor;
mod logits;
mod perplexity;
mod run;
mod serve;
mod serve_args;
mod session;
mod simulate;
mod windows;

use std::error::Error;
use std::process::ExitCode;

pub use args::{
    BenchArgs, ChatArgs, CompareArgs, DeviceArgs, DoctorArgs, LogitsArgs, PerplexityArgs, RunArgs, SamplingArgs,
    SimulateArgs, parse_count,
};
pub use bench::bench;
pub use chat::chat;
pub use compare::{CompareError, compare};
pub use divergence::{Divergence, DivergenceSummary, kl_divergence};
pub use doctor::{CompilerFacts, NvrtcFacts, doctor};
pub use logits::logits;
pub use perplexity::perplexity;
pub use run::run;
pub use serve::serve;
pub use serve_args::{LogFormat, ServeArgs};
pub use simulate::{PageWriter, Simulation, simulate};

/// A problem of the command line that is not one of an artifact, device or text.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// An option's value cannot be used.
    #[error("{option}: {message}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it must be.
        message: String,
    },
    /// A file cannot be read or written.
    #[error("{}: cannot {action}: {source}", .path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The artifact lacks what the verb needs.
    #[error("{}: the artifact has no {what}; compile it from a checkpoint that has one", .artifact.display())]
    Missing {
        /// The artifact.
        artifact: std::path::PathBuf,
        /// What is missing.
        what: &'static str,
    },
}

/// Lets a closed pipe on standard output (`moesaic inspect … | head`) end the process silently, as it does other tools, where
/// Rust would have the next print panic.
pub fn end_with_closed_pipe() {
    // SAFETY: called before any other thread is started; the default action is no handler that could run.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Ends a process: 0, or 1 after one line on standard error. A closed pipe is no error worth a message.
pub fn exit(result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let io = error.downcast_ref::<std::io::Error>();
    if io.is_none_or(|e| e.kind() != std::io::ErrorKind::BrokenPipe) {
        eprintln!("error: {}", one_line(&error.to_string()));
    }
    ExitCode::FAILURE
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
