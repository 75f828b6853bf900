//! Targets: what a program is compiled for.
//!
//! A target decides costs, and with them what is fused; it does not decide what a program means. The cpu device therefore runs
//! the programs of every target, with its own kernels.

use std::fmt;
use std::str::FromStr;

/// A device family that programs are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// The embedded device: native kernels, any instruction set, chosen when the artifact is loaded.
    Cpu,
    /// A GPU of one compute capability.
    Cuda(Arch),
}

/// Compute capability of a CUDA GPU. Code for one runs on later minor versions of the same major version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// 8.0: A100.
    Sm80,
    /// 8.6: RTX 30, A40.
    Sm86,
    /// 8.9: RTX 40, L40.
    Sm89,
    /// 9.0: H100, H200.
    Sm90,
    /// 10.0: B200.
    Sm100,
    /// 12.0: RTX 50.
    Sm120,
}

impl Arch {
    /// Every architecture, oldest first.
    pub const ALL: [Arch; 6] = [Arch::Sm80, Arch::Sm86, Arch::Sm89, Arch::Sm90, Arch::Sm100, Arch::Sm120];

    /// The name compilers give it: `sm_90`.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Sm80 => "sm_80",
            Arch::Sm86 => "sm_86",
            Arch::Sm89 => "sm_89",
            Arch::Sm90 => "sm_90",
            Arch::Sm100 => "sm_100",
            Arch::Sm120 => "sm_120",
        }
    }
}

impl Target {
    /// Every target, in the order of the cost table.
    pub fn all() -> impl Iterator<Item = Target> {
        std::iter::once(Target::Cpu).chain(Arch::ALL.map(Target::Cuda))
    }

    /// Its name in options, manifests and cost tables.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Cpu => "cpu",
            Target::Cuda(arch) => arch.name(),
        }
    }
}

/// A word that names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown target {word:?}; this build compiles for: {}, or cuda for {cuda}", names(), cuda = OLDEST.name())]
pub struct UnknownTarget {
    /// The word.
    pub word: String,
}

/// What `cuda` stands for: code for it runs on every GPU that has kernels, if only after translation by the driver.
const OLDEST: Arch = Arch::Sm80;

fn names() -> String {
    Target::all().map(Target::name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Target, UnknownTarget> {
        if text == "cuda" {
            return Ok(Target::Cuda(OLDEST));
        }
        Target::all().find(|t| t.name() == text).ok_or_else(|| UnknownTarget { word: text.into() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
            Target::Cuda(_) => Activations::F32,
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
            other => Err(format!("unknown activations {other:?}; there are: f32, int8")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_words_agree() {
        for target in Target::all() {
            assert_eq!(target.to_string().parse::<Target>(), Ok(target));
        }
        assert_eq!(Target::all().count(), 7);
        assert_eq!("cuda".parse(), Ok(Target::Cuda(Arch::Sm80)));
        let message = "sm_70".parse::<Target>().unwrap_err().to_string();
        let expected = "unknown target \"sm_70\"; this build compiles for: cpu, sm_80, sm_86, sm_89, sm_90, sm_100, \
                        sm_120, or cuda for sm_80";
        assert_eq!(message, expected);
    }
}
