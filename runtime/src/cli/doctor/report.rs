//! A machine as text and as JSON, whose keys stay.

use std::fmt::Write;

use serde_json::{Value, json};

use super::advice::{advice, best_target};
use super::machine::{Compiler, Machine};
use crate::device::cuda::CudaGpu;
use crate::device::cuda::nvml::GpuState;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Aligned lines.
pub(super) fn text(machine: &Machine) -> String {
    let mut text = format!("moesaic {VERSION}\n");
    let mut line = |name: &str, value: String| writeln!(text, "  {name:<10} {value}").expect("a string takes all");
    let processor = &machine.processor;
    line("processor", processor.model.clone().unwrap_or_else(|| "unknown".into()));
    let threads = processor.threads.map(|n| format!(", {n} hardware threads in the machine")).unwrap_or_default();
    line("cores", format!("{}{threads}", processor.cores));
    if !processor.features.is_empty() {
        line("features", processor.features.join(", "));
    }
    let best = processor.kernels.first().unwrap_or(&"none");
    line("kernels", format!("{best} (of {})", processor.kernels.join(", ")));
    line("memory", format!("{} available of {}", gb(machine.memory_available), gb(machine.memory_limit)));
    line("driver", driver(machine));
    line("cuda", if machine.gpus().is_empty() { machine.cuda.to_string() } else { count(machine.gpus().len()) });
    for (i, (gpu, state)) in machine.gpus().iter().zip(&machine.states).enumerate() {
        line(&format!("gpu {i}"), describe(gpu, state));
    }
    line("energy", if machine.management { "read through NVML".into() } else { "no NVML".into() });
    line("nvrtc", nvrtc(machine.compiler.as_ref()));
    let cache = &machine.cache;
    line("cache", format!("{}, {}, {} free", cache.path.display(), gb(Some(cache.bytes)), gb(cache.free_bytes)));
    for advice in advice(machine) {
        line("advice", advice);
    }
    text
}

fn driver(machine: &Machine) -> String {
    let version = machine.driver.version.as_deref().unwrap_or("none");
    match machine.driver.cuda {
        Some((major, minor)) => format!("{version}, executes CUDA {major}.{minor} and older"),
        None => version.into(),
    }
}

fn count(gpus: usize) -> String {
    format!("{gpus} GPU{}", if gpus == 1 { "" } else { "s" })
}

fn describe(gpu: &CudaGpu, state: &GpuState) -> String {
    let mut text = gpu.to_string();
    let mut add = |part: Option<String>| text.extend(part.map(|part| format!(", {part}")));
    add(state.free_bytes.map(|free| format!("{:.1} GiB free", free as f64 / (1u64 << 30) as f64)));
    add(state.ecc.map(|ecc| format!("ECC {}", if ecc { "on" } else { "off" })));
    add((!gpu.pci_bus_id.is_empty()).then(|| gpu.pci_bus_id.clone()));
    text
}

fn nvrtc(compiler: Option<&Compiler>) -> String {
    match compiler.map(|c| &c.nvrtc) {
        None => "this binary links no compiler".into(),
        Some(Ok(found)) => format!("{} {}, {}", found.version, found.origin, found.path.display()),
        Some(Err(_)) => "none".into(),
    }
}

fn gb(bytes: Option<u64>) -> String {
    bytes.map_or("unknown".into(), |b| format!("{:.1} GB", b as f64 / 1e9))
}

/// One object. Keys are never renamed or dropped.
pub(super) fn json(machine: &Machine) -> Value {
    let processor = &machine.processor;
    let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    json!({
        "version": VERSION,
        "processor": processor.model,
        "cores": processor.cores,
        "hardware_threads": processor.threads,
        "features": processor.features,
        "instruction_sets": processor.kernels,
        "memory_available_bytes": machine.memory_available,
        "memory_limit_bytes": machine.memory_limit,
        "cuda": machine.cuda.to_string(),
        "driver": {"version": machine.driver.version, "cuda": machine.driver.cuda.map(version)},
        "gpus": machine.gpus().iter().zip(&machine.states).map(|(gpu, state)| gpu_json(machine, gpu, state)).collect::<Vec<_>>(),
        "nvml": machine.management,
        "nvrtc": nvrtc_json(machine.compiler.as_ref()),
        "cache": machine.cache.path,
        "cache_bytes": machine.cache.bytes,
        "cache_free_bytes": machine.cache.free_bytes,
        "advice": advice(machine),
    })
}

fn gpu_json(machine: &Machine, gpu: &CudaGpu, state: &GpuState) -> Value {
    let targets = machine.compiler.as_ref().map(|compiler| compiler.targets.as_slice()).unwrap_or_default();
    json!({
        "name": gpu.name,
        "compute_capability": [gpu.capability.0, gpu.capability.1],
        "target": best_target(targets, gpu.capability),
        "memory_bytes": gpu.memory_bytes,
        "free_bytes": state.free_bytes,
        "pci_bus_id": gpu.pci_bus_id,
        "ecc": state.ecc,
        "temperature_c": state.temperature,
        "power_w": state.milliwatts.map(|mw| f64::from(mw) / 1e3),
        "power_limit_w": state.limit_milliwatts.map(|mw| f64::from(mw) / 1e3),
    })
}

/// `null` for a binary without compiler.
fn nvrtc_json(compiler: Option<&Compiler>) -> Value {
    match compiler.map(|c| &c.nvrtc) {
        None => Value::Null,
        Some(Ok(found)) => {
            json!({"found": true, "path": found.path, "version": found.version, "origin": found.origin, "problem": null})
        }
        Some(Err(why)) => json!({"found": false, "path": null, "version": null, "origin": null, "problem": why}),
    }
}
