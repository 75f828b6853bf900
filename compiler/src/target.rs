//! Targets: what a program is compiled for.
//!
//! A target decides costs, and with them what is fused; it does not decide what a program means. The cpu device therefore runs
//! the programs of every target, with its own kernels.

use std::collections::BTreeSet;
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

    /// Its number in compilers' lists: 90 for 9.0.
    pub const fn number(self) -> u32 {
        match self {
            Arch::Sm80 => 80,
            Arch::Sm86 => 86,
            Arch::Sm89 => 89,
            Arch::Sm90 => 90,
            Arch::Sm100 => 100,
            Arch::Sm120 => 120,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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

    /// The GPU it is, if it is one.
    pub const fn arch(self) -> Option<Arch> {
        match self {
            Target::Cpu => None,
            Target::Cuda(arch) => Some(arch),
        }
    }
}

/// What one artifact is compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// What programs are costed for: the oldest architecture, or the cpu.
    pub target: Target,
    /// Architectures that kernels are compiled for, the oldest first; none for the cpu.
    pub architectures: Vec<Arch>,
}

impl From<Target> for Targets {
    fn from(target: Target) -> Targets {
        Targets { target, architectures: target.arch().into_iter().collect() }
    }
}

/// Words that name no targets for one artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetsError {
    /// One of them names none.
    #[error(transparent)]
    Unknown(#[from] UnknownTarget),
    /// Processor and GPU together.
    #[error(
        "--target cpu cannot stand beside {0}: weights are packed for one kind of device; compile one artifact for each"
    )]
    Mixed(Arch),
    /// None at all.
    #[error("--target: no target is named")]
    None,
}

impl Targets {
    /// The targets of several words, in any order; `cuda` is every architecture.
    ///
    /// # Errors
    /// No word, an unknown one, or cpu beside a GPU.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Targets, TargetsError> {
        let (mut cpu, mut architectures) = (false, BTreeSet::new());
        for word in words.iter().map(AsRef::as_ref) {
            match word.parse()? {
                Target::Cuda(_) if word == "cuda" => architectures.extend(Arch::ALL),
                Target::Cuda(arch) => drop(architectures.insert(arch)),
                Target::Cpu => cpu = true,
            }
        }
        match (cpu, architectures.first().copied()) {
            (true, Some(arch)) => Err(TargetsError::Mixed(arch)),
            (true, None) => Ok(Target::Cpu.into()),
            (false, None) => Err(TargetsError::None),
            (false, Some(oldest)) => {
                Ok(Targets { target: Target::Cuda(oldest), architectures: architectures.into_iter().collect() })
            }
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
    /// f32 throughout, and by default an f32 cache: for parity with a reference.
    F32,
    /// Rounded to f16 under a power of two for each row before products, f32 elsewhere.
    F16,
    /// Rounded to 8 bits in blocks of 32 before products with quantised weights, f32 elsewhere.
    Int8,
}

impl Activations {
    /// Every choice, the most exact first.
    pub const ALL: [Activations; 3] = [Activations::F32, Activations::F16, Activations::Int8];

    /// The fastest that changes a model's answers no more than its own training did. A GPU's tensor cores multiply f16 as fast as a step
    /// can read its weights; a cpu multiplies 8 bits several times faster than anything else.
    pub fn default_for(target: Target) -> Activations {
        match target {
            Target::Cpu => Activations::Int8,
            Target::Cuda(_) => Activations::F16,
        }
    }

    /// Its name in options and manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Activations::F32 => "f32",
            Activations::F16 => "f16",
            Activations::Int8 => "int8",
        }
    }
}

impl FromStr for Activations {
    type Err = String;

    fn from_str(text: &str) -> Result<Activations, String> {
        let names = || Activations::ALL.map(Activations::name).join(", ");
        let found = Activations::ALL.into_iter().find(|a| a.name() == text);
        found.ok_or_else(|| format!("unknown activations {text:?}; there are: {}", names()))
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_are_found_by_name() {
        for activations in Activations::ALL {
            assert_eq!(activations.to_string().parse(), Ok(activations));
        }
        let message = "bf16".parse::<Activations>().unwrap_err();
        assert_eq!(message, "unknown activations \"bf16\"; there are: f32, f16, int8");
        assert_eq!(Activations::default_for(Target::Cuda(Arch::Sm90)), Activations::F16);
    }

    #[test]
    fn several_targets_are_gpus_in_any_order() {
        let parsed = Targets::parse(&["sm_90", "sm_80", "sm_90"]).unwrap();
        let expected = Targets { target: Target::Cuda(Arch::Sm80), architectures: vec![Arch::Sm80, Arch::Sm90] };
        assert_eq!(parsed, expected);
        assert_eq!(Targets::parse(&["cuda"]).unwrap().architectures, Arch::ALL);
        assert_eq!(Targets::parse(&["cpu"]), Ok(Target::Cpu.into()));
        assert_eq!(Targets::parse(&["cpu", "sm_89"]), Err(TargetsError::Mixed(Arch::Sm89)));
        assert_eq!(Targets::parse::<&str>(&[]), Err(TargetsError::None));
        assert!(Targets::parse(&["sm_80", "sm_70"]).unwrap_err().to_string().contains("\"sm_70\""));
        assert!(Arch::ALL.iter().all(|a| a.name() == format!("sm_{}", a.number())));
    }

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
