//! The instruction sets the CPU kernels are compiled for, chosen when the program runs.
//!
//! One binary holds every kernel for every set of its architecture. All sets give the same bits, so the choice is one of
//! speed alone and tests may compare them for equality.

use std::fmt;
use std::sync::OnceLock;

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// AVX-512 F, BW, VL, DQ and VNNI: 16 f32 lanes, 64-element byte dot products.
    Avx512Vnni,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// Plain Rust, whatever the architecture: the reference for the others.
    Portable,
}

impl Isa {
    /// Every instruction set, fastest first.
    pub const ALL: &'static [Isa] = &[Isa::Avx512Vnni, Isa::Avx2, Isa::Portable];

    /// Those this machine can execute, fastest first; [`Isa::Portable`] is always among them.
    pub fn available() -> &'static [Isa] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| Isa::ALL.iter().copied().filter(|isa| isa.detect()).collect())
    }

    /// The fastest this machine can execute.
    pub fn best() -> Isa {
        Isa::available()[0]
    }

    /// Whether this machine can execute it.
    pub fn is_available(self) -> bool {
        Isa::available().contains(&self)
    }

    /// Its name on the command line and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }

    /// Looks a set up by [`Isa::name`].
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.iter().copied().find(|isa| isa.name() == name)
    }

    #[cfg(target_arch = "x86_64")]
    fn detect(self) -> bool {
        let avx2 =
            || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Isa::Avx512Vnni => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Isa::Avx2 => avx2(),
            Isa::Portable => true,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detect(self) -> bool {
        self == Isa::Portable
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for &isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("sse9"), None);
    }

    #[test]
    fn portable_is_always_there_and_last() {
        assert_eq!(Isa::available().last(), Some(&Isa::Portable));
        assert_eq!(Isa::best(), Isa::available()[0]);
        assert!(Isa::available().iter().all(|isa| isa.is_available()));
    }
}
