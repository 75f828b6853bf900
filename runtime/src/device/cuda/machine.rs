//! A GPU found fit for an artifact, before anything of the artifact is on it.

use std::fmt;
use std::sync::Arc;

use super::CudaDevice;
use super::code::CodeChoice;
use super::driver::codes;
use super::driver::{CudaVersion, Driver, DriverError, GpuProperties};
use super::error::GpuError;
use super::needs::{CONTEXT_BYTES, Sizes};
use super::real::CudaDriver;
use super::resources::Gpu;
use crate::artifact::{Artifact, Manifest};
use crate::device::{DeviceError, DeviceMemory, launches};

/// Share of the free memory that is taken unless another is asked for.
pub const DEFAULT_UTILIZATION: f64 = 0.9;

/// Which GPU is used, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuOptions {
    /// Its number, from 0.
    pub ordinal: u32,
    /// Share of the memory that is free when it is opened which may be used; above 0, at most 1.
    pub utilization: f64,
    /// Let launches begin before the one before them has ended, where GPU and code allow it.
    pub overlap: bool,
}

impl Default for GpuOptions {
    fn default() -> GpuOptions {
        GpuOptions { ordinal: 0, utilization: DEFAULT_UTILIZATION, overlap: true }
    }
}

/// What is known of a GPU without opening it.
#[derive(Clone, Debug)]
struct Fitting {
    properties: GpuProperties,
    driver: CudaVersion,
    code: CodeChoice,
}

/// A GPU that is open and has code to execute.
pub struct CudaMachine {
    gpu: Arc<Gpu>,
    fitting: Fitting,
    options: GpuOptions,
    artifact: Arc<Artifact>,
    pub(super) sizes: Sizes,
    /// Bytes that were free when it was opened.
    free: u64,
}

/// Whether the GPU of that number on this machine can execute an artifact.
///
/// # Errors
/// What is missing, and what to do.
pub fn usable(manifest: &Manifest, ordinal: u32) -> Result<(), DeviceError> {
    let driver = CudaDriver::open().map_err(GpuError::from)?;
    fitting(&driver, manifest, ordinal).map(drop)
}

impl CudaMachine {
    /// Opens a GPU of this machine for an artifact.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn open(artifact: &Arc<Artifact>, options: GpuOptions) -> Result<CudaMachine, DeviceError> {
        let driver = CudaDriver::open().map_err(GpuError::from)?;
        CudaMachine::with_driver(Box::new(driver), artifact, options)
    }

    /// As [`CudaMachine::open`], by another driver.
    ///
    /// # Errors
    /// As [`CudaMachine::open`].
    pub fn with_driver(
        driver: Box<dyn Driver>,
        artifact: &Arc<Artifact>,
        options: GpuOptions,
    ) -> Result<CudaMachine, DeviceError> {
        if !(options.utilization > 0.0 && options.utilization <= 1.0) {
            let message = format!("expected a share above 0 and at most 1, found {}", options.utilization);
            return Err(DeviceError::Option { option: "gpu-memory-utilization", message });
        }
        launches::check_layouts(artifact, "cuda")?;
        let fitting = fitting(&*driver, artifact.manifest(), options.ordinal)?;
        let sizes = Sizes::of(artifact)?;
        let gpu = Gpu::open(driver, options.ordinal)?;
        let free = gpu.call("ask for free memory", |driver| driver.memory_info())?.free;
        Ok(CudaMachine { gpu, fitting, options, artifact: artifact.clone(), sizes, free })
    }

    /// Turns a budget into KV pages: as many as fit beside everything else, or `pages` if those do. The budget is `memory` bytes for all that the
    /// process has on the GPU, or else the share of free memory that the options name.
    ///
    /// # Errors
    /// [`DeviceError::Budget`] or [`DeviceError::GpuBudget`] if not even `least` pages fit, or not the `pages` asked for.
    pub fn pages_within(&self, memory: Option<u64>, pages: Option<u64>, least: u64) -> Result<u64, DeviceError> {
        let wanted = pages.unwrap_or(least.max(1));
        let limit = memory.unwrap_or_else(|| self.limit());
        let fitting = self.sizes.pages_within(&self.artifact, limit);
        if fitting >= wanted {
            return Ok(pages.unwrap_or(fitting));
        }
        let needs = self.sizes.memory(&self.artifact, wanted);
        Err(match memory {
            Some(budget) => DeviceError::Budget { needs, budget },
            None => self.too_large(needs, self.limit()),
        })
    }

    /// Bytes that may be used, the context included.
    fn limit(&self) -> u64 {
        ((self.free as f64 * self.options.utilization) as u64).saturating_add(CONTEXT_BYTES)
    }

    fn too_large(&self, needs: DeviceMemory, limit: u64) -> DeviceError {
        DeviceError::GpuBudget { gpu: self.fitting.properties.name.clone(), needs, limit, free: self.free }
    }

    /// Loads the artifact with so many KV pages.
    ///
    /// # Errors
    /// Memory that does not suffice, found before weights are copied; code that the driver does not take; the driver's own.
    pub fn load(self, pages: u64) -> Result<CudaDevice, DeviceError> {
        // Refuses numbers of pages that no program can address, before they are multiplied.
        super::needs::limits(&self.artifact, pages)?;
        let needs = self.sizes.memory(&self.artifact, pages);
        let all = self.free.saturating_add(CONTEXT_BYTES);
        if needs.total() > all {
            return Err(self.too_large(needs, all));
        }
        let overlaps =
            self.options.overlap && self.fitting.code.overlaps(&self.fitting.properties, self.fitting.driver);
        CudaDevice::load(super::Loading {
            gpu: self.gpu,
            artifact: self.artifact,
            code: self.fitting.code,
            properties: self.fitting.properties,
            sizes: self.sizes,
            memory: needs,
            pages,
            overlaps,
        })
    }
}

impl fmt::Debug for CudaMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaMachine").field("gpu", &self.fitting).field("free", &self.free).finish_non_exhaustive()
    }
}

fn fitting(driver: &dyn Driver, manifest: &Manifest, ordinal: u32) -> Result<Fitting, DeviceError> {
    let refused = |source: DriverError| match source.code {
        codes::NO_DEVICE => DeviceError::from(GpuError::NoGpu),
        _ => DeviceError::Driver { doing: "ask for GPUs", source },
    };
    let version = driver.version().map_err(refused)?;
    let count = driver.gpu_count().map_err(refused)?;
    if count == 0 {
        return Err(GpuError::NoGpu.into());
    }
    if ordinal >= count {
        return Err(GpuError::NoSuchGpu { ordinal, count }.into());
    }
    let properties = driver.gpu(ordinal).map_err(refused)?;
    let code = CodeChoice::new(manifest, &properties, version)?;
    Ok(Fitting { properties, driver: version, code })
}
