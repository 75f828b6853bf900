//! Devices: what executes the steps of an artifact's programs.
//!
//! A device is loaded with an artifact and a number of KV pages and owns all memory of the steps; nothing is
//! allocated afterwards. The trait is small enough that a fake one in tests, the simulator and a GPU fit behind it.

pub mod budget;
mod choosing;
pub mod cpu;
pub mod cuda;
mod inputs;
mod launches;
mod opened;
pub mod sim;
mod sizes;

use std::fmt;
use std::str::FromStr;

use kernels::cpu::isa::Isa;

use crate::artifact::{ArtifactError, Manifest};
use crate::byte_size::ByteSize;
pub use choosing::{Carried, ChoosingStep, MOST_UNDER_WAY};
pub use inputs::{InputError, InputLimits, StepInputs};
pub use opened::{Opened, open, resolve};

/// Executes steps.
pub trait Device: Send {
    /// What it is, for reports: `cpu avx2, 4 threads`.
    fn name(&self) -> String;

    /// KV pages it holds.
    fn pages(&self) -> u64;

    /// Executes the program of a bucket, by index in the manifest.
    ///
    /// # Errors
    /// Inputs out of range (nothing was done), or a failure within the step (the KV slots of its tokens are undefined).
    fn step(&mut self, bucket: usize, inputs: &StepInputs) -> Result<(), DeviceError>;

    /// Whether it chooses tokens by itself: [`Device::submit`] and [`Device::collect`].
    fn chooses(&self) -> bool {
        false
    }

    /// Hands a step over whose tokens the device chooses, and returns before they are there. Steps are carried out in their order, as are calls
    /// that read, write or copy pages; at most [`MOST_UNDER_WAY`] are under way, and [`Device::step`] is for when none is.
    ///
    /// # Errors
    /// Inputs out of range, a device that does not choose, or a failure: the KV slots of the step's tokens are then undefined, and steps
    /// submitted before stay under way.
    fn submit(&mut self, _bucket: usize, _step: &ChoosingStep) -> Result<(), DeviceError> {
        Err(does_not_choose())
    }

    /// Waits for the oldest step under way, and for no more. Sets `tokens` to what was chosen from each of its rows: token ids, or in their place
    /// a negative number, see [`crate::sample::chosen`].
    ///
    /// # Errors
    /// No step is under way, or a failure: then none is under way any more, and the KV slots of the tokens of all that were are undefined.
    fn collect(&mut self, _tokens: &mut Vec<i32>) -> Result<(), DeviceError> {
        Err(does_not_choose())
    }

    /// An output of the last successful step that brought outputs to the host, row-major: `logits` is `[R, vocabulary]`. `None` before a step or for an
    /// unknown name.
    fn output(&self, name: &str) -> Option<&[f32]>;

    /// As [`Device::output`], for results that hold integers: the experts a traced router selected.
    fn output_ints(&self, name: &str) -> Option<&[i32]>;

    /// Memory it has reserved.
    fn memory(&self) -> DeviceMemory;

    /// Bytes of packed weights that all steps so far have read, counted as they ran: of a mixture only the experts that were
    /// selected.
    fn weight_bytes_read(&self) -> u64;

    /// What the bits of keys and values depend on besides the artifact: devices of equal arithmetic may exchange pages.
    fn arithmetic(&self) -> String;

    /// Copies a KV page to the host: the layers' parts one after the other, [`crate::artifact::Manifest::page_bytes`] in all.
    ///
    /// # Errors
    /// No such page, or a slice of another length.
    fn read_page(&self, page: u32, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Replaces a KV page by bytes that [`Device::read_page`] gave.
    ///
    /// # Errors
    /// As [`Device::read_page`].
    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies a KV page over another one.
    ///
    /// # Errors
    /// No such pages.
    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), DeviceError>;
}

/// The error of asking a device for what it cannot do.
fn does_not_choose() -> DeviceError {
    DeviceError::Option { option: "device", message: "this device does not choose tokens by itself".into() }
}

/// The pages of a device, for checking what is asked of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageShape {
    /// Pages there are.
    pub pages: u64,
    /// Parts of a page: one a layer.
    pub layers: usize,
    /// Bytes of a part.
    pub layer_bytes: usize,
}

impl PageShape {
    /// Of an artifact's pages.
    pub fn new(manifest: &Manifest, pages: u64) -> PageShape {
        PageShape { pages, layers: manifest.kv.states.len(), layer_bytes: manifest.kv.page_bytes_per_layer as usize }
    }

    /// Refuses a page that is not there.
    pub fn check_page(&self, page: u32) -> Result<(), DeviceError> {
        match u64::from(page) < self.pages {
            true => Ok(()),
            false => {
                let expected = format!("a page below {}", self.pages);
                Err(InputError { input: "page", expected, found: page.to_string() }.into())
            }
        }
    }

    /// Refuses a page that is not there or bytes that are not a page's.
    pub fn check(&self, page: u32, bytes: usize) -> Result<(), DeviceError> {
        self.check_page(page)?;
        let expected = self.layers * self.layer_bytes;
        match bytes == expected {
            true => Ok(()),
            false => {
                let expected = format!("{expected} bytes");
                Err(InputError { input: "page bytes", expected, found: format!("{bytes} bytes") }.into())
            }
        }
    }
}

/// Bytes a device has reserved. Pages of the host's memory that were never touched count here, but not as resident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Weights.
    pub weights: u64,
    /// Intermediate results.
    pub arena: u64,
    /// The KV pages of all layers.
    pub kv: u64,
    /// Step metadata, kernel parameters and scratch memory of threads.
    pub other: u64,
}

impl DeviceMemory {
    /// All of it together; saturates.
    pub fn total(&self) -> u64 {
        [self.weights, self.arena, self.kv, self.other].into_iter().fold(0, u64::saturating_add)
    }
}

/// Why a device could not be loaded or could not step.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The inputs of a step are out of range.
    #[error(transparent)]
    Inputs(#[from] InputError),
    /// The artifact cannot be executed by this device, or was damaged while in use.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Memory could not be reserved.
    #[error("cannot reserve {bytes} bytes for {what}: {source}; choose a shorter context or a smaller model")]
    Memory {
        /// What for.
        what: &'static str,
        /// How much.
        bytes: u64,
        /// The system's answer.
        source: std::io::Error,
    },
    /// More memory would be needed than there is.
    #[error(
        "{needed} bytes of memory are needed ({arena} for results, {kv} for the KV cache, {weights} for weights that are not \
         mapped), but there are only {limit}; \
         choose a shorter context or fewer sequences"
    )]
    TooLarge {
        /// Bytes in all, apart from mapped weights.
        needed: u64,
        /// Bytes of the arena.
        arena: u64,
        /// Bytes of KV pages.
        kv: u64,
        /// Bytes of weights that the device holds in a layout of its own.
        weights: u64,
        /// What this process may have.
        limit: u64,
    },
    /// More memory would be needed than was allowed.
    #[error(
        "{} of memory are needed (weights {}, results {}, KV cache {}, other {}), {} more than the {} that --vram allows; \
         allow more, choose a shorter context or fewer sequences, or compile with --quant",
        ByteSize(.needs.total()), ByteSize(.needs.weights), ByteSize(.needs.arena), ByteSize(.needs.kv), ByteSize(.needs.other),
        ByteSize(.needs.total().saturating_sub(*.budget)), ByteSize(*.budget)
    )]
    Budget {
        /// What would be reserved.
        needs: DeviceMemory,
        /// Bytes that were allowed.
        budget: u64,
    },
    /// More memory of a GPU would be needed than may be used.
    #[error(
        "{} of memory are needed on {gpu} (weights {}, results {}, KV cache {}, other {}), {} more than the {} of it that may be used, \
         where {} are free; stop what else uses it, raise --gpu-memory-utilization, choose a shorter context or fewer sequences, or compile with --quant",
        ByteSize(.needs.total()), ByteSize(.needs.weights), ByteSize(.needs.arena), ByteSize(.needs.kv), ByteSize(.needs.other),
        ByteSize(.needs.total().saturating_sub(*.limit)), ByteSize(*.limit), ByteSize(*.free)
    )]
    GpuBudget {
        /// The GPU's name.
        gpu: String,
        /// What would be reserved.
        needs: DeviceMemory,
        /// Bytes that may be used.
        limit: u64,
        /// Bytes that were free.
        free: u64,
    },
    /// A GPU's memory does not suffice, though it should have.
    #[error(
        "the GPU has no {} for {what}, only {} are free; stop what else uses it, lower --gpu-memory-utilization, so that less is set apart \
         for the KV cache, or compile with --quant, so that weights take less",
        ByteSize(*.bytes), ByteSize(*.free)
    )]
    GpuMemory {
        /// What for.
        what: &'static str,
        /// How much.
        bytes: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// There is no GPU for the artifact.
    #[error(transparent)]
    Gpu(#[from] cuda::GpuError),
    /// A call of the CUDA driver failed; the device can still be used.
    #[error("the GPU cannot {doing}: {source}")]
    Driver {
        /// What was to be done.
        doing: &'static str,
        /// The driver's answer.
        source: cuda::driver::DriverError,
    },
    /// A thread could not be started.
    #[error("cannot start thread {thread}: {source}; ask for fewer threads")]
    Thread {
        /// Which, from 0.
        thread: usize,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A kernel failed while executing a step.
    #[error("kernel {kernel} failed at {label:?}: {message}; this is a bug of the kernel")]
    Kernel {
        /// The kernel.
        kernel: String,
        /// The launch's label.
        label: String,
        /// Its panic message.
        message: String,
    },
    /// The device answers no more, whatever is asked of it.
    #[error("the device is lost: {message}")]
    Lost {
        /// What it said last.
        message: String,
    },
    /// A program of no artifact, or what a step of it is given, is not what it must be.
    #[error("program {program:?}: {message}")]
    Program {
        /// The program.
        program: String,
        /// What is wrong.
        message: String,
    },
    /// An option cannot be met.
    #[error("{option}: {message}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it must be.
        message: String,
    },
}

/// Which device is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A GPU that the artifact has code for, else the processor.
    #[default]
    Auto,
    /// Native kernels on the processor.
    Cpu,
    /// A GPU through the CUDA driver.
    Cuda,
    /// The PTX simulator.
    Sim,
}

impl DeviceChoice {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            DeviceChoice::Auto => "auto",
            DeviceChoice::Cpu => "cpu",
            DeviceChoice::Cuda => "cuda",
            DeviceChoice::Sim => "sim",
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DeviceChoice {
    type Err = SelectError;

    fn from_str(text: &str) -> Result<DeviceChoice, SelectError> {
        [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda, DeviceChoice::Sim]
            .into_iter()
            .find(|d| d.name() == text)
            .ok_or_else(|| SelectError::UnknownDevice(text.into()))
    }
}

/// Why no device can execute an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// A word that names no device.
    #[error("unknown device {0:?}; the devices are auto, cpu, cuda and sim")]
    UnknownDevice(String),
    /// The artifact has programs for other devices only.
    #[error("device {device}: this artifact has programs for target {target} only{note}")]
    NoProgram {
        /// The device asked for.
        device: DeviceChoice,
        /// The artifact's target.
        target: String,
        /// What else to know, preceded by a semicolon, or empty.
        note: String,
    },
}

/// The device that executes an artifact: the one asked for, if the artifact has programs for it. Programs of GPU targets are of the same
/// kernels, chosen for other costs: the processor executes them too. The simulator, some thousand times slower, is only taken when asked for.
/// Whether this machine has a GPU for them is asked by [`resolve`]; without one, `auto` is the processor.
///
/// # Errors
/// Names the artifact's target.
pub fn select(choice: DeviceChoice, target: &str) -> Result<DeviceChoice, SelectError> {
    let device = match (choice, target) {
        (DeviceChoice::Auto | DeviceChoice::Cpu, target) if target == "cpu" || is_gpu(target) => {
            return Ok(DeviceChoice::Cpu);
        }
        (DeviceChoice::Sim | DeviceChoice::Cuda, target) if is_gpu(target) => return Ok(choice),
        (device, _) => device,
    };
    let note = match device {
        DeviceChoice::Auto | DeviceChoice::Cpu => "; this build executes targets cpu and sm_NN".into(),
        DeviceChoice::Cuda => format!("; compile with --target of a GPU, such as sm_90; CUDA here: {}", cuda::probe()),
        DeviceChoice::Sim => "; it executes those of a GPU: compile with --target sm_80".into(),
    };
    Err(SelectError::NoProgram { device, target: target.into(), note })
}

/// Whether a target is a compute capability: `sm_90`.
fn is_gpu(target: &str) -> bool {
    target.strip_prefix("sm_").is_some_and(|version| version.parse::<u16>().is_ok())
}

/// How a device is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// KV pages to reserve, at least 1.
    pub pages: u64,
    /// Threads of the processor; `None` takes one for each core this process may use.
    pub threads: Option<usize>,
    /// Instruction set; `None` takes the fastest.
    pub isa: Option<Isa>,
}

/// Why a device could not be chosen or loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// None fits the artifact.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// It could not be loaded.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_selected_by_target() {
        for target in ["cpu", "sm_90", "sm_120"] {
            assert_eq!(select(DeviceChoice::Auto, target), Ok(DeviceChoice::Cpu));
            assert_eq!(select(DeviceChoice::Cpu, target), Ok(DeviceChoice::Cpu));
        }
        assert_eq!(select(DeviceChoice::Sim, "sm_80"), Ok(DeviceChoice::Sim));
        assert_eq!(select(DeviceChoice::Cuda, "sm_90"), Ok(DeviceChoice::Cuda));
        for (choice, target) in [
            (DeviceChoice::Auto, "gfx90a"),
            (DeviceChoice::Cpu, "sm_"),
            (DeviceChoice::Cuda, "cpu"),
            (DeviceChoice::Sim, "cpu"),
        ] {
            let text = select(choice, target).unwrap_err().to_string();
            assert!(text.contains(target) && text.contains(choice.name()) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn device_names_are_read() {
        assert_eq!("sim".parse(), Ok(DeviceChoice::Sim));
        assert_eq!("gpu".parse::<DeviceChoice>(), Err(SelectError::UnknownDevice("gpu".into())));
    }
}
