//! What there is on a machine, as data.

use std::fs;

use super::folder::CacheFolder;
use super::processor::Processor;
use super::{CompilerFacts, NvrtcFacts};
use crate::device::cuda::nvml::{GpuState, Management};
use crate::device::cuda::{self, CudaGpu, CudaStatus};
use crate::memory;

/// Where Linux tells the version of NVIDIA's kernel module.
const MODULE_VERSION: &str = "/proc/driver/nvidia/version";

/// A machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub processor: Processor,
    /// Bytes of memory: that programs may still take, and that a process may ever have.
    pub memory_available: Option<u64>,
    pub memory_limit: Option<u64>,
    pub cuda: CudaStatus,
    pub driver: Driver,
    /// What the management library tells of each GPU of `cuda`.
    pub states: Vec<GpuState>,
    /// Whether that library is there, which `bench` reads energy from.
    pub management: bool,
    /// What kernels are compiled with; `None` if this binary links no compiler.
    pub compiler: Option<Compiler>,
    pub cache: CacheFolder,
}

/// NVIDIA's driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Driver {
    /// As `550.54.14`, where the system tells.
    pub version: Option<String>,
    /// The newest CUDA it executes.
    pub cuda: Option<(u32, u32)>,
}

/// The compiler's side.
#[derive(Clone, Debug)]
pub(super) struct Compiler {
    pub nvrtc: Result<NvrtcFacts, String>,
    pub targets: Vec<&'static str>,
}

impl Machine {
    /// This one.
    pub fn look(compiler: Option<&CompilerFacts>) -> Machine {
        let (cuda, management) = (cuda::probe(), Management::open());
        let state = |gpu: &CudaGpu| management.as_ref().map(|m| m.state(&gpu.pci_bus_id)).unwrap_or_default();
        Machine {
            processor: Processor::look(),
            memory_available: memory::available_bytes(),
            memory_limit: memory::limit_bytes(),
            states: gpus(&cuda).iter().map(state).collect(),
            driver: Driver::look(management.as_ref()),
            management: management.is_some(),
            compiler: compiler.map(|c| Compiler { nvrtc: (c.find_nvrtc)(), targets: c.targets.clone() }),
            cache: CacheFolder::look(),
            cuda,
        }
    }

    /// The GPUs the driver gives.
    pub fn gpus(&self) -> &[CudaGpu] {
        gpus(&self.cuda)
    }
}

fn gpus(cuda: &CudaStatus) -> &[CudaGpu] {
    match cuda {
        CudaStatus::Gpus(gpus) => gpus,
        _ => &[],
    }
}

impl Driver {
    fn look(management: Option<&Management>) -> Driver {
        let module = || parse_module_version(&fs::read_to_string(MODULE_VERSION).ok()?);
        Driver {
            version: management.and_then(Management::driver_version).or_else(module),
            cuda: cuda::driver_cuda_version(),
        }
    }
}

/// The version in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 …`.
pub(super) fn parse_module_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    let is_version = |word: &&str| {
        let parts: Vec<&str> = word.split('.').collect();
        parts.len() >= 2 && parts.iter().all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
    };
    line.split_whitespace().find(is_version).map(str::to_string)
}
