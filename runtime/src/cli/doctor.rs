//! `doctor`: what this machine offers, with advice.

use std::error::Error;

use kernels::cpu::isa::Isa;
use serde_json::json;

use super::args::DoctorArgs;
use crate::device::cpu::usable_cores;
use crate::device::cuda::{self, CudaStatus};
use crate::{cache, memory};

/// Prints processor, memory, CUDA and cache folder.
pub fn doctor(args: &DoctorArgs) -> Result<(), Box<dyn Error>> {
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
