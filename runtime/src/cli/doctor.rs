//! `doctor`: what this machine offers, with advice; and, if asked, what it does in a second.

use std::error::Error;

use kernels::cpu::isa::Isa;
use serde_json::json;

use super::args::DoctorArgs;
use crate::calibrate::{self, CostTable, Measured, TargetSpec};
use crate::device::cpu::usable_cores;
use crate::device::cuda::{self, CudaStatus};
use crate::{cache, memory};

/// Prints processor, memory, CUDA and cache folder, or measures the processor and prints what it does beside the `assumed` row of the
/// compiler's table.
pub fn doctor(args: &DoctorArgs, assumed: Option<&TargetSpec>) -> Result<(), Box<dyn Error>> {
    if args.calibrate {
        return calibrate(args, assumed);
    }
    let (cores, isa, status) = (usable_cores(), Isa::best(), cuda::probe());
    let available = memory::available_bytes();
    let advice = advice(isa, &status);
    if args.json {
        let gpus = match &status {
            CudaStatus::Gpus(gpus) => gpus.as_slice(),
            _ => &[],
        };
        let gpus: Vec<_> = gpus
            .iter()
            .map(|g| json!({"name": g.name, "compute_capability": [g.capability.0, g.capability.1], "memory_bytes": g.memory_bytes}))
            .collect();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cores": cores,
            "instruction_sets": Isa::available().iter().map(|i| i.name()).collect::<Vec<_>>(),
            "memory_available_bytes": available,
            "cuda": status.to_string(),
            "gpus": gpus,
            "cache": cache::folder(),
            "advice": advice,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("moesaic {}", env!("CARGO_PKG_VERSION"));
    println!("  cores      {cores}");
    println!("  kernels    {isa} (of {})", Isa::available().iter().map(|i| i.name()).collect::<Vec<_>>().join(", "));
    println!("  memory     {} available", available.map_or("unknown".into(), |b| format!("{:.1} GB", b as f64 / 1e9)));
    println!("  cuda       {status}");
    println!("  cache      {}", cache::folder().display());
    for line in advice {
        println!("  advice     {line}");
    }
    Ok(())
}

/// Measures, writes the table and prints it.
fn calibrate(args: &DoctorArgs, assumed: Option<&TargetSpec>) -> Result<(), Box<dyn Error>> {
    let Measured { spec, threads, seconds } = calibrate::measure(args.threads)?;
    if let Some(path) = &args.output {
        CostTable { targets: vec![spec.clone()], ..CostTable::default() }.write(path)?;
    }
    if args.json {
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "threads": threads,
            "instruction_set": Isa::best().name(),
            "seconds": seconds,
            "measured": spec,
            "assumed": assumed,
            "output": args.output,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("cpu {}, {threads} threads, measured in {seconds:.1} s", Isa::best());
    println!("  {:<26} {:>10} {:>10}", "", "measured", if assumed.is_some() { "assumed" } else { "" });
    for (what, scale, decimals, value) in FIGURES {
        let number = |spec: &TargetSpec| format!("{:.*}", *decimals, value(spec) * scale);
        println!("  {what:<26} {:>10} {:>10}", number(&spec), assumed.map(number).unwrap_or_default());
    }
    if let Some(path) = &args.output {
        println!("  written to {}; compile --cost-table takes it", path.display());
    }
    Ok(())
}

/// What is printed of a row: name and unit, the unit's scale, decimals, the value.
type Figure = (&'static str, f64, usize, fn(&TargetSpec) -> f64);

const FIGURES: &[Figure] = &[
    ("memory GB/s", 1e-9, 1, |s| s.bytes_per_s),
    ("shared cache GB/s", 1e-9, 1, |s| s.cached_bytes_per_s),
    ("f32 products Gop/s", 1e-9, 1, |s| s.f32_ops_per_s),
    ("int8 products Gop/s", 1e-9, 1, |s| s.int8_ops_per_s),
    ("dependent launch µs", 1e6, 2, |s| s.launch_s),
    ("threads", 1.0, 0, |s| s.units as f64),
];

fn advice(isa: Isa, status: &CudaStatus) -> Vec<&'static str> {
    let mut lines = Vec::new();
    if isa == Isa::Portable && cfg!(target_arch = "x86_64") {
        lines.push("this processor has no AVX2: expect a tenth of the usual speed");
    }
    if matches!(status, CudaStatus::Gpus(gpus) if !gpus.is_empty()) {
        lines.push("this build runs models on the cpu device; programs for CUDA are not part of it yet");
    }
    lines
}
