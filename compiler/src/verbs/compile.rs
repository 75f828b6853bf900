//! `moesaic compile`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use compiler::lower::Registry;
use compiler::pipeline::{self, CompileOptions};
use compiler::progress::Bar;
use compiler::target::{Activations, Target};
use models::Checkpoint;
use serde_json::json;

/// Arguments of `compile`.
#[derive(Args)]
pub struct CompileArgs {
    /// Hugging Face folder or GGUF file
    pub model: PathBuf,
    /// Artifact folder to write
    #[arg(short, long, value_name = "OUT.moesaic")]
    pub output: PathBuf,
    /// What to compile for: cpu
    #[arg(long, default_value = "cpu", env = "MOESAIC_TARGET")]
    pub target: String,
    /// Weight format: keep leaves each weight as the checkpoint has it
    #[arg(long, default_value = "keep", env = "MOESAIC_QUANT")]
    pub quant: String,
    /// Activations of products: f32 (parity) or int8; default: the target's fastest
    #[arg(long, env = "MOESAIC_ACTIVATIONS")]
    pub activations: Option<String>,
    /// Longest sequence in tokens, 32k for 32768; default: what the model was made for
    #[arg(long, value_name = "N", value_parser = runtime::cli::parse_count, env = "MOESAIC_MAX_MODEL_LEN")]
    pub max_model_len: Option<u64>,
    /// Write the text after each pass into this folder
    #[arg(long, value_name = "DIR")]
    pub dump: Option<PathBuf>,
    /// Stop after this pass, without an artifact: import, quantise, lower, schedule or plan
    #[arg(long, value_name = "PASS")]
    pub stop_after: Option<String>,
    /// Print a summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// A word that names no weight format.
#[derive(Debug, thiserror::Error)]
#[error("unknown weight format {0:?} for --quant; this build has: keep")]
struct UnknownQuant(String);

/// Compiles a checkpoint and says what it became.
pub fn compile(args: &CompileArgs) -> Result<(), Box<dyn std::error::Error>> {
    let target: Target = args.target.parse()?;
    if args.quant != "keep" {
        return Err(UnknownQuant(args.quant.clone()).into());
    }
    let activations = match &args.activations {
        Some(word) => word.parse::<Activations>()?,
        None => Activations::default_for(target),
    };
    let options = CompileOptions {
        target,
        activations,
        max_model_len: args.max_model_len,
        dump: args.dump.clone(),
        stop_after: args.stop_after.clone(),
    };
    let start = Instant::now();
    let mut checkpoint = Checkpoint::open(&args.model)?;
    let source_bytes = checkpoint.total_bytes();
    let compiled = pipeline::compile(&mut checkpoint, &args.output, &options, &Registry::default(), &Bar::default())?;
    let Some(manifest) = compiled else { return Ok(()) };
    let bytes: u64 = manifest.files.values().map(|f| f.bytes).sum();
    let seconds = start.elapsed().as_secs_f64();
    let peak = runtime::memory::peak_bytes();
    if args.json {
        let summary = json!({
            "artifact": args.output,
            "family": manifest.model.family,
            "parameters": manifest.model.parameters,
            "source_bytes": source_bytes,
            "bytes": bytes,
            "seconds": seconds,
            "peak_memory_bytes": peak,
        });
        println!("{summary}");
    } else {
        eprintln!(
            "{}: {} ({}, {:.1} M parameters), {:.1} MB in {seconds:.1} s, peak memory {}",
            args.output.display(),
            manifest.model.name,
            manifest.model.family,
            manifest.model.parameters as f64 / 1e6,
            bytes as f64 / 1e6,
            peak.map_or("unknown".into(), |p| format!("{:.0} MB", p as f64 / 1e6)),
        );
    }
    Ok(())
}
