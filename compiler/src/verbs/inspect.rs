//! `moesaic inspect`: what an artifact holds and how its memory is planned.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use compiler::cost::read_cost_table;
use compiler::report::{KernelRow, kernel_rows, kernel_table, launches_per_layer};
use compiler::target::Target;
use ir::program::Program;
use runtime::artifact::{Artifact, Bucket, Manifest, OpenOptions};
use serde_json::json;

use super::costs::Costs;

/// Arguments of `inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// Artifact folder
    pub artifact: PathBuf,
    /// List every launch of this bucket
    #[arg(long, value_name = "BUCKET")]
    pub launches: Option<String>,
    /// List the memory plan of this bucket: each buffer's place and life
    #[arg(long, value_name = "BUCKET")]
    pub memory: Option<String>,
    /// List what each launch of this bucket costs on the target; default: the smallest bucket
    #[arg(long, value_name = "BUCKET", num_args = 0..=1, conflicts_with_all = ["launches", "memory"])]
    pub cost: Option<Option<String>>,
    /// List the kernels in machine code and what each takes of each GPU
    #[arg(long, conflicts_with_all = ["launches", "memory", "cost"])]
    pub kernels: bool,
    /// With --cost, on this target instead of the artifact's
    #[arg(long, value_name = "TARGET", requires = "cost")]
    pub target: Option<String>,
    /// With --cost, the table of what targets do in a second, in place of the built-in one
    #[arg(long, value_name = "FILE.json", requires = "cost")]
    pub cost_table: Option<PathBuf>,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// A bucket the artifact does not have.
#[derive(Debug, thiserror::Error)]
#[error("no bucket is called {name:?}; the artifact has {known}")]
struct UnknownBucket {
    name: String,
    known: String,
}

/// Opens and verifies an artifact, then shows it.
pub fn inspect(args: &InspectArgs) -> Result<(), Box<dyn std::error::Error>> {
    let artifact = Artifact::open(&args.artifact, &OpenOptions::default())?;
    let (manifest, programs) = (artifact.manifest(), artifact.programs());
    let bucket = |name: &str| {
        let known = || programs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        programs.iter().find(|p| p.name == name).ok_or_else(|| UnknownBucket { name: name.into(), known: known() })
    };
    if let Some(name) = &args.cost {
        let target: Target = args.target.as_ref().unwrap_or(&manifest.target).parse()?;
        let table = args.cost_table.as_deref().map(read_cost_table).transpose()?;
        let spec = target.spec_in(table.as_ref());
        let smallest = || programs.first().map_or("", |p| p.name.as_str());
        let costs = Costs::new(bucket(name.as_deref().unwrap_or_else(smallest))?, &spec);
        if args.json { println!("{}", serde_json::to_string_pretty(&costs.json())?) } else { costs.print() }
    } else if let Some(name) = &args.launches {
        print_launches(bucket(name)?);
    } else if let Some(name) = &args.memory {
        print_memory(bucket(name)?);
    } else if args.kernels && !args.json {
        print_kernels(manifest);
    } else if args.json {
        println!("{}", serde_json::to_string_pretty(&describe(manifest, programs))?);
    } else {
        print_summary(manifest, programs);
    }
    Ok(())
}

fn ends(programs: &[Program]) -> Option<(&Program, &Program)> {
    Some((programs.first()?, programs.last()?))
}

fn describe(manifest: &Manifest, programs: &[Program]) -> serde_json::Value {
    let (decode, prefill) = match ends(programs) {
        Some((d, p)) => (Some(d), Some(p)),
        None => (None, None),
    };
    let largest = manifest.buckets.iter().max_by_key(|b| b.arena_bytes);
    json!({
        "model": manifest.model,
        "target": manifest.target,
        "architectures": manifest.architectures,
        "kernel_compiler": manifest.kernel_compiler,
        "activations": manifest.activations,
        "kv": manifest.kv,
        "buckets": manifest.buckets,
        "launches_per_layer_decode": decode.map(launches_per_layer),
        "launches_per_layer_prefill": prefill.map(launches_per_layer),
        "launches_per_token": decode.map(|p| p.launches.len()),
        "arena_bytes": largest.map(|b| b.arena_bytes),
        "arena_lower_bound_bytes": largest.map(|b| b.arena_lower_bound_bytes),
        "weights_bytes": manifest.weights.iter().map(|w| w.bytes).sum::<u64>(),
        "weights": manifest.weights,
        "kernels": if manifest.target == "cpu" { native_kernels(programs) } else { kernels(manifest) },
    })
}

/// A row for each entry of a kernel in machine code and each architecture.
fn kernels(manifest: &Manifest) -> Vec<serde_json::Value> {
    let row = |KernelRow { kernel, arch, entry, figures: f }: KernelRow| {
        json!({"name": kernel.kernel, "variant": kernel.variant, "arch": arch, "entry": entry, "file": kernel.name,
               "registers": f.registers, "spill_bytes": f.spill_bytes, "shared_bytes": f.shared_bytes,
               "stack_bytes": f.stack_bytes, "constant_bytes": f.constant_bytes})
    };
    kernel_rows(&manifest.kernels).map(row).collect()
}

/// Kernel variants in use, with how often each is launched for one token. Registers, spills and shared memory are facts
/// of compiled GPU code and null for native kernels.
fn native_kernels(programs: &[Program]) -> Vec<serde_json::Value> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for launch in programs.first().map_or(&[][..], |p| &p.launches) {
        *counts.entry((&launch.kernel, &launch.variant)).or_default() += 1;
    }
    let describe = |((name, variant), launches): (&(&str, &str), &usize)| {
        json!({"name": name, "variant": variant, "arch": "cpu", "launches": launches,
               "registers": null, "spill_bytes": null, "shared_bytes": null})
    };
    counts.iter().map(describe).collect()
}

fn print_summary(manifest: &Manifest, programs: &[Program]) {
    let m = &manifest.model;
    println!("{} ({}, from {})", m.name, m.family, m.source_format);
    println!(
        "  {:.1} M parameters, {} layers, hidden {}, heads {}/{} × {}, vocabulary {}, context {}",
        m.parameters as f64 / 1e6,
        m.layers,
        m.hidden_size,
        m.heads,
        m.kv_heads,
        m.head_dim,
        m.vocab_size,
        m.max_context,
    );
    if m.experts > 0 {
        println!(
            "  {} experts, {} a token: {:.1} M parameters active",
            m.experts,
            m.experts_per_token,
            m.active_parameters as f64 / 1e6
        );
    }
    let mut formats: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for w in &manifest.weights {
        let entry = formats.entry(&w.dtype).or_default();
        *entry = (entry.0 + 1, entry.1 + w.bytes);
    }
    let formats: Vec<String> =
        formats.iter().map(|(d, (n, bytes))| format!("{n} × {d} {}", megabytes(*bytes))).collect();
    println!("  weights: {}", formats.join(", "));
    println!(
        "  target {}, activations {}, KV {} ({} bytes a token)",
        manifest.target, manifest.activations, manifest.kv.dtype, manifest.kv.bytes_per_token,
    );
    println!(
        "\n  {:<12} {:>8} {:>14} {:>12} {:>12} {:>7}",
        "bucket", "launches", "launches/layer", "arena", "lower bound", "ratio"
    );
    for (bucket, program) in manifest.buckets.iter().zip(programs) {
        print_bucket(bucket, program);
    }
}

fn print_bucket(b: &Bucket, program: &Program) {
    println!(
        "  {:<12} {:>8} {:>14} {:>12} {:>12} {:>7.3}",
        b.name,
        b.launches,
        launches_per_layer(program),
        megabytes(b.arena_bytes),
        megabytes(b.arena_lower_bound_bytes),
        b.arena_bytes as f64 / b.arena_lower_bound_bytes.max(1) as f64,
    );
}

fn print_kernels(manifest: &Manifest) {
    if manifest.kernels.is_empty() {
        println!("target {}: the kernels are those of the runtime", manifest.target);
        return;
    }
    println!("{}", manifest.kernel_compiler.as_deref().unwrap_or("compiler unknown"));
    print!("{}", kernel_table(&manifest.kernels));
}

fn print_launches(program: &Program) {
    for (i, launch) in program.launches.iter().enumerate() {
        println!("{i:>5}  {:<14} {:<14} {}", launch.kernel, launch.variant, launch.label);
    }
}

fn print_memory(program: &Program) {
    let bounds = program.upper_bounds();
    println!("{:>6} {:>12} {:>12} {:>7} {:>7}", "buffer", "offset", "bytes", "first", "last");
    for (i, (buffer, range)) in program.buffers.iter().zip(program.live_ranges()).enumerate() {
        let (first, last) = range.unwrap_or_default();
        let bytes = buffer.ty.bytes(&bounds).unwrap_or(0);
        println!("{:>6} {:>12} {:>12} {first:>7} {last:>7}", format!("%{i}"), buffer.offset, bytes);
    }
    println!("arena {} bytes, lower bound {} bytes", program.arena_bytes, program.arena_lower_bound());
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}
