//! A device that is chosen and open, before it is loaded: it can be asked how much it holds.

use std::sync::{Arc, Once};

use super::cuda::{self, CudaMachine, GpuOptions};
use super::{Device, DeviceChoice, DeviceError, LoadError, LoadOptions, SelectError, budget, cpu, is_gpu, select, sim};
use crate::artifact::{Artifact, Manifest};

/// Whether it was said that a GPU is passed over: once is enough for all models of a process.
static SAID: Once = Once::new();

/// A device on which an artifact can be loaded.
pub enum Opened {
    /// The processor.
    Cpu,
    /// The simulator.
    Sim,
    /// A GPU, its context open.
    Cuda(Box<CudaMachine>),
}

/// The device that `choice` means for an artifact on this machine, as far as can be told without opening one, and where `auto` passes over a
/// GPU, why.
///
/// # Errors
/// If the artifact has no programs for it.
pub fn resolve(
    choice: DeviceChoice,
    manifest: &Manifest,
    gpu: &GpuOptions,
) -> Result<(DeviceChoice, Option<DeviceError>), SelectError> {
    match choice {
        DeviceChoice::Auto if is_gpu(&manifest.target) => Ok(match cuda::usable(manifest, gpu.ordinal) {
            Ok(()) => (DeviceChoice::Cuda, None),
            Err(why) => (DeviceChoice::Cpu, Some(why)),
        }),
        choice => select(choice, &manifest.target).map(|device| (device, None)),
    }
}

/// Chooses and opens a device. With `auto`, says on standard error why a GPU that the artifact has code for is passed over.
///
/// # Errors
/// If none fits the artifact, or the one asked for is missing.
pub fn open(choice: DeviceChoice, artifact: &Arc<Artifact>, gpu: &GpuOptions) -> Result<Opened, LoadError> {
    let (device, passed_over) = resolve(choice, artifact.manifest(), gpu)?;
    if let Some(why) = passed_over {
        SAID.call_once(|| eprintln!("note: running on the cpu device: {why}"));
    }
    Ok(match device {
        DeviceChoice::Cuda => Opened::Cuda(Box::new(CudaMachine::open(artifact, *gpu)?)),
        DeviceChoice::Sim => Opened::Sim,
        DeviceChoice::Cpu | DeviceChoice::Auto => Opened::Cpu,
    })
}

impl Opened {
    /// Turns a memory budget into KV pages: as many as fit `memory` bytes beside everything else, or `pages` if those do. Without a budget a GPU
    /// takes a share of its memory; other devices give `None`: nothing says how many there are.
    ///
    /// # Errors
    /// [`DeviceError::Budget`] or [`DeviceError::GpuBudget`] if not even `least` pages fit, or not the `pages` asked for.
    pub fn pages_within(
        &self,
        artifact: &Artifact,
        memory: Option<u64>,
        pages: Option<u64>,
        least: u64,
        options: &LoadOptions,
    ) -> Result<Option<u64>, DeviceError> {
        match (self, memory) {
            (Opened::Cuda(machine), memory) => machine.pages_within(memory, pages, least).map(Some),
            (_, Some(memory)) => host_pages_within(artifact, memory, pages, least, options).map(Some),
            (_, None) => Ok(None),
        }
    }

    /// Loads an artifact, the one the device was opened for.
    ///
    /// # Errors
    /// If memory or threads are lacking.
    pub fn load(self, artifact: Arc<Artifact>, options: &LoadOptions) -> Result<Box<dyn Device>, DeviceError> {
        Ok(match self {
            Opened::Cpu => Box::new(cpu::CpuDevice::load(artifact, options)?),
            Opened::Cuda(machine) => Box::new(machine.load(options.pages)?),
            Opened::Sim => {
                let source = sim::ArtifactModules::open(&artifact, None)?;
                let options = sim::SimOptions {
                    pages: options.pages,
                    threads: options.threads,
                    counters: true,
                    ..sim::SimOptions::default()
                };
                Box::new(sim::SimDevice::load(artifact, &source, options)?)
            }
        })
    }
}

/// Pages in the host's memory, as the cpu device reserves it.
fn host_pages_within(
    artifact: &Artifact,
    budget: u64,
    pages: Option<u64>,
    least: u64,
    options: &LoadOptions,
) -> Result<u64, DeviceError> {
    let manifest = artifact.manifest();
    let mut overhead = cpu::Overhead::new(artifact.programs(), options.threads, options.isa)?;
    let mut other = |pages| overhead.bytes(pages);
    let mut needs = budget::Needs {
        weights: cpu::weight_bytes(manifest),
        arena: manifest.arena_bytes(),
        page_bytes: manifest.page_bytes(),
        most_pages: cpu::most_pages(artifact.programs()),
        other: &mut other,
    };
    let fitting = needs.pages_within(budget);
    let wanted = pages.unwrap_or(least.max(1));
    match fitting >= wanted {
        true => Ok(pages.unwrap_or(fitting)),
        false => Err(DeviceError::Budget { needs: needs.memory(wanted), budget }),
    }
}
