//! What to do about a machine: one line each, with the command where there is one.

use super::machine::Machine;
use crate::device::cuda::CudaStatus;

/// The first driver that executes code of CUDA 12, which kernels are compiled with.
const LEAST_DRIVER: &str = "525";
const LEAST_CUDA: (u32, u32) = (12, 0);

/// Below this a model of a billion parameters in 4 bits leaves nothing for anything else.
const LITTLE_MEMORY: u64 = 2 << 30;

/// Below this a compiled model of a few billion parameters does not fit the disk.
const LITTLE_DISK: u64 = 4 << 30;

/// A GPU with less free than this runs small models only, or shares with someone.
const LITTLE_GPU_MEMORY: u64 = 4 << 30;

/// All lines, the GPU's first.
pub(super) fn advice(machine: &Machine) -> Vec<String> {
    let mut lines = driver(machine);
    lines.extend(targets(machine));
    lines.extend(gpu_memory(machine));
    lines.extend(nvrtc(machine));
    lines.extend(processor(machine));
    lines.extend(room(machine));
    lines
}

fn driver(machine: &Machine) -> Vec<String> {
    let (major, minor) = LEAST_CUDA;
    match (&machine.cuda, machine.driver.cuda) {
        (CudaStatus::NoDriver, _) => vec![format!(
            "no CUDA driver: models run on the cpu device; for an NVIDIA GPU install its driver, {LEAST_DRIVER} or newer"
        )],
        (_, Some(cuda)) if cuda < LEAST_CUDA => vec![format!(
            "the driver executes CUDA {}.{}, kernels need {major}.{minor}: install driver {LEAST_DRIVER} or newer",
            cuda.0, cuda.1
        )],
        (CudaStatus::Failed(why), _) => vec![format!(
            "the CUDA driver does not work ({why}): see what nvidia-smi says; after an update of the driver restart the machine; models run on \
             the cpu device"
        )],
        (CudaStatus::Gpus(gpus), _) if gpus.is_empty() => vec![
            "there is a CUDA driver but no GPU for this process: see CUDA_VISIBLE_DEVICES, in a container start it with --gpus all; models run \
             on the cpu device"
                .into(),
        ],
        _ => Vec::new(),
    }
}

/// What to compile for the GPUs there are; a binary without compiler knows no targets.
fn targets(machine: &Machine) -> Vec<String> {
    let Some(compiler) = &machine.compiler else { return Vec::new() };
    let capabilities = machine.gpus().iter().map(|gpu| gpu.capability);
    let mut lines: Vec<String> = Vec::new();
    for (major, minor) in capabilities {
        let line = match best_target(&compiler.targets, (major, minor)) {
            Some(target) => {
                format!("for this GPU: moesaic compile MODEL --target {target}, then run with --device cuda")
            }
            None => format!(
                "compute capability {major}.{minor} has no kernels here, which start at {}: models run on the cpu device",
                compiler.targets.first().unwrap_or(&"none")
            ),
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// The newest target whose machine code a GPU executes: of the same major version and no later; else the newest before it, whose PTX its
/// driver translates.
pub(super) fn best_target<'a>(targets: &[&'a str], capability: (i32, i32)) -> Option<&'a str> {
    let number = |target: &&str| target.strip_prefix("sm_").and_then(|n| n.parse::<i32>().ok());
    let own = capability.0 * 10 + capability.1;
    targets.iter().filter(|t| number(t).is_some_and(|n| n <= own)).max_by_key(|t| number(t)).copied()
}

fn gpu_memory(machine: &Machine) -> Vec<String> {
    let little = machine.gpus().iter().zip(&machine.states).filter_map(|(gpu, state)| {
        let free = state.free_bytes.filter(|free| *free < LITTLE_GPU_MEMORY)?;
        Some(format!(
            "{} has {:.1} GiB free: end what else uses it (nvidia-smi lists it), or ask `moesaic fit MODEL --vram {:.1}GiB` what fits",
            gpu.name,
            gib(free),
            gib(free)
        ))
    });
    little.collect()
}

fn nvrtc(machine: &Machine) -> Option<String> {
    let why = machine.compiler.as_ref()?.nvrtc.as_ref().err()?;
    Some(format!(
        "no NVRTC to compile kernels with ({why}): `moesaic toolchain` fetches it; artifacts that are compiled run without"
    ))
}

fn processor(machine: &Machine) -> Option<String> {
    let portable = machine.processor.kernels.first() == Some(&"portable");
    (portable && machine.processor.x86).then(|| "this processor has no AVX2: expect a tenth of the usual speed".into())
}

fn room(machine: &Machine) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(bytes) = machine.memory_available.filter(|bytes| *bytes < LITTLE_MEMORY) {
        lines.push(format!(
            "{:.1} GiB of memory are left: take a model of 4 bits, or bound it with --vram; `moesaic fit MODEL` says what it needs",
            gib(bytes)
        ));
    }
    if let Some(bytes) = machine.cache.free_bytes.filter(|bytes| *bytes < LITTLE_DISK) {
        lines.push(format!(
            "{:.1} GiB are left on the disk of the cache: set MOESAIC_CACHE to a folder on another, or empty it",
            gib(bytes)
        ));
    }
    lines
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}
