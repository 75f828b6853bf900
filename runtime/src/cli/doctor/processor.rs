//! The processor: its name, how many of it there are, and the instructions that matter to multiplying.

use std::collections::BTreeSet;
use std::fs;

use kernels::cpu::isa::Isa;

use crate::device::cpu::usable_cores;

/// Names that Linux gives features in `/proc/cpuinfo`, with those that people know, slowest first.
const FEATURES: &[(&str, &str)] = &[
    ("avx2", "AVX2"),
    ("fma", "FMA"),
    ("f16c", "F16C"),
    ("avx_vnni", "AVX-VNNI"),
    ("avx512f", "AVX-512"),
    ("avx512_vnni", "AVX-512 VNNI"),
    ("avx512_bf16", "AVX-512 BF16"),
    ("avx512_fp16", "AVX-512 FP16"),
    ("amx_tile", "AMX"),
    ("amx_int8", "AMX INT8"),
    ("amx_bf16", "AMX BF16"),
    ("asimd", "NEON"),
    ("asimddp", "dot product"),
    ("i8mm", "I8MM"),
    ("sve", "SVE"),
];

/// A processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Processor {
    /// What its maker calls it, where the system tells.
    pub model: Option<String>,
    /// Physical cores this process may use.
    pub cores: usize,
    /// Hardware threads of the whole machine, where the system tells.
    pub threads: Option<usize>,
    /// Features of the instruction set, where the system tells.
    pub features: Vec<&'static str>,
    /// Instruction sets of kernels it executes, fastest first.
    pub kernels: Vec<&'static str>,
    /// Whether its architecture is x86-64, for which there are faster kernels than the portable ones.
    pub x86: bool,
}

impl Processor {
    /// This machine's.
    pub fn look() -> Processor {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Processor {
            cores: usable_cores(),
            kernels: Isa::available().iter().map(|isa| isa.name()).collect(),
            x86: cfg!(target_arch = "x86_64"),
            ..Processor::parse(&text)
        }
    }

    /// What `/proc/cpuinfo` says.
    pub fn parse(cpuinfo: &str) -> Processor {
        let fields = || cpuinfo.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.trim(), v.trim()));
        let first = |names: &[&str]| fields().find(|(name, _)| names.contains(name)).map(|(_, value)| value);
        let flags: BTreeSet<&str> =
            first(&["flags", "Features"]).map(|flags| flags.split_whitespace().collect()).unwrap_or_default();
        let threads = fields().filter(|(name, _)| *name == "processor").count();
        Processor {
            model: first(&["model name"]).filter(|name| !name.is_empty()).map(str::to_string),
            threads: (threads > 0).then_some(threads),
            features: FEATURES.iter().filter(|(flag, _)| flags.contains(flag)).map(|(_, name)| *name).collect(),
            ..Processor::default()
        }
    }
}
