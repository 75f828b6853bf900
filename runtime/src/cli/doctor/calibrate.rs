//! `doctor --calibrate`: what the processor does in a second, beside what the compiler assumes; or what a GPU does whatever the model.

use std::error::Error;

use kernels::cpu::isa::Isa;
use serde_json::json;

use crate::calibrate::{self, CostTable, Measured, TargetSpec};
use crate::cli::CliError;
use crate::cli::args::DoctorArgs;
use crate::device::cuda::GpuFigures;

/// Measures, writes the table and prints it.
pub(super) fn calibrate(args: &DoctorArgs, assumed: Option<&TargetSpec>) -> Result<(), Box<dyn Error>> {
    if args.device == "cuda" {
        return calibrate_gpu(args);
    }
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

/// Measures the first GPU. Its row of the table needs rates of products, too, which this does not know.
fn calibrate_gpu(args: &DoctorArgs) -> Result<(), Box<dyn Error>> {
    if args.output.is_some() {
        let message = "a table's row needs more than --device cuda measures; leave it out".into();
        return Err(CliError::Option { option: "--output", message }.into());
    }
    let figures = GpuFigures::measure(0)?;
    if args.json {
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "gpu": figures.name,
            "copied_bytes": figures.copied_bytes,
            "copy_bytes_per_s": figures.copy_bytes_per_s,
            "launch_s": figures.launch_s,
            "launch_pdl_s": figures.overlapping_launch_s,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{}", figures.name);
    println!("  copies {:.1} GB/s, read and written", figures.copy_bytes_per_s * 1e-9);
    println!("  a launch that waits for the one before, in a graph: {:.2} µs", figures.launch_s * 1e6);
    if let Some(seconds) = figures.overlapping_launch_s {
        println!("  the same with programmatic dependent launch: {:.2} µs", seconds * 1e6);
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
