//! Targets: what a program is compiled for.

use std::fmt;
use std::str::FromStr;

/// A device family that programs are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// The embedded device: native kernels, any instruction set, chosen when the artifact is loaded.
    Cpu,
}

/// A word that names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown target {0:?}; this build compiles for: cpu")]
pub struct UnknownTarget(String);

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Target, UnknownTarget> {
        match text {
            "cpu" => Ok(Target::Cpu),
            other => Err(UnknownTarget(other.into())),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Cpu => "cpu",
        })
    }
}

/// How matmuls see their activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activations {
    /// f32 throughout, and an f32 cache: for parity with a reference.
    F32,
    /// Rounded to 8 bits in blocks of 32 before products with quantised weights, f32 elsewhere; an f16 cache.
    Int8,
}

impl Activations {
    /// The fastest on a target.
    pub fn default_for(target: Target) -> Activations {
        match target {
            Target::Cpu => Activations::Int8,
        }
    }

    /// Element type of the KV cache.
    pub fn kv_dtype(self) -> ir::types::DType {
        match self {
            Activations::F32 => ir::types::DType::F32,
            Activations::Int8 => ir::types::DType::F16,
        }
    }
}

impl FromStr for Activations {
    type Err = String;

    fn from_str(text: &str) -> Result<Activations, String> {
        match text {
            "f32" => Ok(Activations::F32),
            "int8" => Ok(Activations::Int8),
            other => Err(format!("unknown activations {other:?}; the cpu target has: f32, int8")),
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activations::F32 => "f32",
            Activations::Int8 => "int8",
        })
    }
}
