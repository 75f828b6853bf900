//! What a GPU does whatever the model: how fast it copies, and what a launch costs that waits for the one before it.
//!
//! Both bound generation from below: a step reads the weights once, in launches that depend on each other. A copy from memory to memory is the
//! fastest that a kernel can hope for. Launches are counted in a recorded graph, as steps are launched, of a kernel that does nothing, on as many
//! threads as one of a step has. The best of a few repetitions counts: a busy GPU only ever makes them slower.

use std::sync::Arc;
use std::time::Instant;

use super::driver::{Driver, GpuProperties, KernelLaunch};
use super::error::GpuError;
use super::real::CudaDriver;
use super::resources::{Block, Gpu, Module, Stream};
use crate::device::DeviceError;

/// Bytes that are copied at most; a multiple of every cache.
const MOST_COPIED: u64 = 1 << 30;

/// Copies or graphs that are waited for together, so that waiting itself is nothing beside them.
const TOGETHER: u32 = 8;

/// Times that each is measured.
const REPETITIONS: usize = 5;

/// Launches of a graph: those of a step of a few dozen layers.
const CHAIN: usize = 256;

/// Blocks and threads of a launch.
const BLOCKS: u32 = 128;
const THREADS: u32 = 256;

/// The first capability whose kernels can wait for the launch before by themselves.
const WAITS_BY_ITSELF: (u32, u32) = (9, 0);

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuFigures {
    /// The driver's name for the GPU.
    pub name: String,
    /// Bytes that were copied at a time.
    pub copied_bytes: u64,
    /// Bytes read and written a second by copies, each counted.
    pub copy_bytes_per_s: f64,
    /// Seconds that a launch takes that waits for the one before it, in a graph (τ).
    pub launch_s: f64,
    /// The same where a launch may begin before the one before it has ended (programmatic dependent launch); `None` where the GPU cannot.
    pub overlapping_launch_s: Option<f64>,
}

impl GpuFigures {
    /// Measures a GPU of this machine by its number.
    ///
    /// # Errors
    /// If there is no driver or GPU, memory is lacking, or the driver fails.
    pub fn measure(ordinal: u32) -> Result<GpuFigures, DeviceError> {
        let driver = CudaDriver::open().map_err(GpuError::from)?;
        GpuFigures::measure_with(Box::new(driver), ordinal)
    }

    /// As [`GpuFigures::measure`], by another driver.
    pub(super) fn measure_with(driver: Box<dyn Driver>, ordinal: u32) -> Result<GpuFigures, DeviceError> {
        let properties = driver.gpu(ordinal).map_err(|source| DeviceError::Driver { doing: "find the GPU", source })?;
        let gpu = Gpu::open(driver, ordinal)?;
        let stream = Stream::new(&gpu)?;
        let free = gpu.call("ask for free memory", |driver| driver.memory_info())?.free;
        let copied_bytes = MOST_COPIED.min(free / 4);
        Ok(GpuFigures {
            copied_bytes,
            copy_bytes_per_s: copy_rate(&gpu, &stream, copied_bytes)?,
            launch_s: launch_time(&gpu, &stream, &properties, false)?,
            overlapping_launch_s: match properties.capability >= WAITS_BY_ITSELF {
                true => Some(launch_time(&gpu, &stream, &properties, true)?),
                false => None,
            },
            name: properties.name,
        })
    }
}

fn copy_rate(gpu: &Arc<Gpu>, stream: &Stream, bytes: u64) -> Result<f64, DeviceError> {
    let (from, to) = (Block::new(gpu, "a copy's source", bytes)?, Block::new(gpu, "a copy", bytes)?);
    stream.zero(&from)?;
    let seconds = seconds(stream, || stream.copy(to.at(), from.at(), bytes))?;
    Ok(2.0 * bytes as f64 / seconds)
}

fn launch_time(
    gpu: &Arc<Gpu>,
    stream: &Stream,
    properties: &GpuProperties,
    overlaps: bool,
) -> Result<f64, DeviceError> {
    let module = Module::new(gpu, kernel(properties.capability).as_bytes())?;
    let function = module.function("waits")?;
    let launch = |i| KernelLaunch {
        function,
        grid: [BLOCKS, 1, 1],
        threads: THREADS,
        shared_bytes: 0,
        params: Vec::new(),
        overlaps: overlaps && i > 0,
    };
    let graph = stream.capture(&(0..CHAIN).map(launch).collect::<Vec<_>>())?;
    Ok(seconds(stream, || stream.launch(&graph))? / CHAIN as f64)
}

/// Seconds that a piece of work takes, at best; the first time does not count.
fn seconds(stream: &Stream, mut enqueue: impl FnMut() -> Result<(), DeviceError>) -> Result<f64, DeviceError> {
    enqueue()?;
    stream.synchronize()?;
    let mut best = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        (0..TOGETHER).try_for_each(|_| enqueue())?;
        stream.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best / f64::from(TOGETHER))
}

/// A kernel that lets the next one begin and waits for the one before, as those of models do, and no more; the driver wants PTX to end with a zero
/// byte.
fn kernel(capability: (u32, u32)) -> String {
    let (target, hooks) = match capability >= WAITS_BY_ITSELF {
        true => ("sm_90", "griddepcontrol.launch_dependents;\n griddepcontrol.wait;\n "),
        false => ("sm_80", ""),
    };
    format!(".version 7.8\n.target {target}\n.address_size 64\n.visible .entry waits()\n{{\n {hooks}ret;\n}}\n\0")
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{Call, SimulatedDriver, SimulatedGpu};
    use super::*;

    fn measured(capability: (u32, u32)) -> (GpuFigures, SimulatedDriver) {
        let driver = SimulatedDriver::new(SimulatedGpu { capability, executes: false, ..SimulatedGpu::default() });
        let figures = GpuFigures::measure_with(Box::new(driver.clone()), 0).unwrap();
        (figures, driver)
    }

    #[test]
    fn copies_and_launches_are_measured_and_everything_is_returned() {
        let (figures, driver) = measured((9, 0));
        assert!(figures.copy_bytes_per_s > 0.0 && figures.launch_s > 0.0 && figures.overlapping_launch_s.is_some());
        let calls = driver.take_calls();
        let copies = calls.iter().filter(|call| **call == Call::Copy { bytes: figures.copied_bytes }).count();
        assert_eq!(copies, 1 + REPETITIONS * TOGETHER as usize);
        let overlapping = calls.iter().filter(|call| matches!(call, Call::Launch { overlaps: true, .. })).count();
        let alone = calls.iter().filter(|call| matches!(call, Call::Launch { overlaps: false, .. })).count();
        assert_eq!((overlapping, alone), (CHAIN - 1, CHAIN + 1));
        assert_eq!((driver.live(), driver.violations().len()), (0, 0), "{:?}", driver.violations());
    }

    #[test]
    fn older_gpus_do_not_overlap() {
        let (figures, driver) = measured((8, 9));
        assert_eq!(figures.overlapping_launch_s, None);
        let overlaps = |call: &Call| matches!(call, Call::Launch { overlaps: true, .. });
        assert!(!driver.take_calls().iter().any(overlaps));
    }

    /// Code of both dialects is what the simulator, too, takes for a kernel of that name.
    #[test]
    fn the_kernel_is_ptx() {
        for capability in [(8, 0), (9, 0), (12, 0)] {
            let text = kernel(capability);
            let module = simulator::Module::parse(text.trim_end_matches('\0'), "waits").unwrap();
            assert!(module.kernels().any(|kernel| kernel == "waits"));
            assert_eq!(text.contains("griddepcontrol.wait"), capability >= WAITS_BY_ITSELF);
        }
    }

    #[test]
    fn a_driver_that_fails_is_an_error_at_any_call() {
        let (_, driver) = measured((9, 0));
        let calls = driver.call_count();
        for call in (0..calls).step_by(7) {
            let driver = SimulatedDriver::new(SimulatedGpu { executes: false, ..SimulatedGpu::default() });
            driver.fail_at(call, 2);
            let result = GpuFigures::measure_with(Box::new(driver.clone()), 0);
            assert_eq!(driver.live(), 0, "call {call}");
            if let Err(error) = result {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}
