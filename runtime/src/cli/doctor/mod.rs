//! `doctor`: what this machine offers, with advice; and, if asked, what it does in a second.
//!
//! What is found is plain data ([`machine::Machine`]), so that report and advice are tested on machines nobody here has. Nothing is fetched or
//! changed: a doctor that repaired something would hide it.

mod advice;
mod calibrate;
mod folder;
mod machine;
mod processor;
mod report;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::path::PathBuf;

use super::args::DoctorArgs;
use crate::calibrate::TargetSpec;

/// What a binary that links the compiler knows beside the runtime.
#[derive(Clone, Debug)]
pub struct CompilerFacts {
    /// The row of the compiler's cost table that stands for this processor.
    pub assumed: TargetSpec,
    /// Names of the GPU targets it compiles for, the oldest first: `sm_80`.
    pub targets: Vec<&'static str>,
    /// Looks for NVRTC, fetching nothing.
    pub find_nvrtc: fn() -> Result<NvrtcFacts, String>,
}

/// The NVRTC that kernels would be compiled with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvrtcFacts {
    /// The library.
    pub path: PathBuf,
    /// Its version, as `12.9`.
    pub version: String,
    /// How it was found, in words.
    pub origin: &'static str,
}

/// Prints processor, memory, GPUs, NVRTC and cache folder with advice, or measures the processor and prints what it does beside the
/// compiler's assumption.
///
/// # Errors
/// If a measurement fails or its table cannot be written.
pub fn doctor(args: &DoctorArgs, compiler: Option<&CompilerFacts>) -> Result<(), Box<dyn Error>> {
    if args.calibrate {
        return calibrate::calibrate(args, compiler.map(|facts| &facts.assumed));
    }
    let machine = machine::Machine::look(compiler);
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report::json(&machine))?),
        false => print!("{}", report::text(&machine)),
    }
    Ok(())
}
