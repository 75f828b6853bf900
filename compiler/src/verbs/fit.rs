//! `moesaic fit`: whether a model fits a memory, and what it then holds, from the configuration alone.
//!
//! MODEL may be a checkpoint, a folder with nothing but `config.json`, a GGUF file, or the name of a preset. The model goes through
//! every pass up to the memory plan, so that sizes are those an artifact would have; no weight is read, no device is needed.

use std::path::Path;

use clap::Args;
use compiler::budget::{Footprint, KvFit, KvType, Request};
use compiler::lower::Registry;
use compiler::pipeline::{self, CompileOptions};
use compiler::target::{Activations, Target};
use models::synth::{PRESETS, preset};
use models::{Checkpoint, ModelError};
use runtime::byte_size::ByteSize;
use serde_json::{Value, json};

use super::compile::QuantArgs;

/// Arguments of `fit`.
#[derive(Args)]
pub struct FitArgs {
    /// Hugging Face folder (config.json will do), GGUF file, or a preset's name such as aix-4b
    pub model: String,
    /// Memory there is, such as 24GiB, 512MB or 20G
    #[arg(long, value_name = "SIZE", env = "MOESAIC_VRAM")]
    pub vram: ByteSize,
    /// Length that sequences must be able to reach, 32k for 32768; default: what the model was made for, of which 4096 must fit
    #[arg(short = 'c', long, value_name = "N", value_parser = runtime::cli::parse_count, env = "MOESAIC_MAX_MODEL_LEN")]
    pub max_model_len: Option<u64>,
    /// Sequences of that length that must fit together
    #[arg(long, value_name = "N", default_value = "1", value_parser = runtime::cli::parse_count)]
    pub max_sequences: u64,
    /// What to compile for: cpu, sm_80, sm_86, sm_89, sm_90, sm_100, sm_120, or cuda for sm_80
    #[arg(long, default_value = "cpu", env = "MOESAIC_TARGET")]
    pub target: String,
    /// How weights are stored
    #[command(flatten)]
    pub quant: QuantArgs,
    /// Activations of products: f32 (parity), f16 or int8; default: f16 for GPUs, int8 for cpu
    #[arg(long, env = "MOESAIC_ACTIVATIONS")]
    pub activations: Option<String>,
    /// KV cache: f16, int8 (half the bytes; a scale a head and token) or f32; default: f16
    #[arg(long = "kv", value_name = "TYPE", alias = "kv-cache-dtype", env = "MOESAIC_KV")]
    pub kv: Option<KvType>,
    /// Threads of the cpu device, each of which has scratch memory; default: the machine's cores
    #[arg(short = 't', long, value_name = "N", env = "MOESAIC_THREADS")]
    pub threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What is no model, and no preset either.
#[derive(Debug, thiserror::Error)]
#[error("{name}: no folder, file or preset is called so; the presets are {presets}")]
struct UnknownModel {
    name: String,
    presets: String,
}

/// Answers, and fails if the model does not fit.
pub fn fit(args: &FitArgs) -> Result<(), Box<dyn std::error::Error>> {
    let options = options(args)?;
    let checkpoint = describe(&args.model)?;
    let compiled = pipeline::compile_programs(&checkpoint, &options, &Registry::default())?;
    // There are none only where the options end the passes early.
    let Some((model, programs)) = compiled else { return Ok(()) };
    let mut footprint = Footprint::of(&model, &programs, &options, args.threads)?;
    let request = Request { memory: args.vram.0, max_model_len: args.max_model_len, sequences: args.max_sequences };
    let asked = args.kv.unwrap_or(KvType::F16);
    let mut types = vec![asked];
    types.extend([KvType::F16, KvType::Int8].into_iter().filter(|kv| *kv != asked));
    types.extend(Some(options.kv_type()).filter(|kv| *kv == KvType::F32 && asked != KvType::F32));
    let fits: Vec<KvFit> = types.into_iter().map(|kv| footprint.answer(kv, &request)).collect();
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report(args, &options, &footprint, &fits))?),
        false => print_table(args, &options, &footprint, &fits),
    }
    // The answer is that for the cache asked for, else the 16-bit one, as in the report.
    footprint.require(asked, &request)?;
    Ok(())
}

fn options(args: &FitArgs) -> Result<CompileOptions, Box<dyn std::error::Error>> {
    let target: Target = args.target.parse()?;
    let activations = match &args.activations {
        Some(word) => word.parse::<Activations>()?,
        None => Activations::default_for(target),
    };
    let (max_model_len, quant) = (args.max_model_len, args.quant.parse()?);
    let kv = args.kv;
    Ok(CompileOptions { max_model_len, kv, quant, ..CompileOptions::new(target, activations) })
}

/// The model's description: a path that exists goes before a preset of that name.
fn describe(model: &str) -> Result<Checkpoint, Box<dyn std::error::Error>> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(Checkpoint::open_description(path)?);
    }
    match preset(model) {
        Some(preset) => Ok(preset.describe(None)?),
        None if model.contains(std::path::MAIN_SEPARATOR) => {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            Err(ModelError::Io { path: path.into(), action: "open".into(), source }.into())
        }
        None => {
            let presets = PRESETS.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
            Err(UnknownModel { name: model.into(), presets }.into())
        }
    }
}

/// The key `overhead_is` says how the overhead is known.
fn overhead_is(footprint: &Footprint) -> &'static str {
    if footprint.overhead_is_estimate() { "estimate" } else { "computed" }
}

fn report(args: &FitArgs, options: &CompileOptions, footprint: &Footprint, fits: &[KvFit]) -> Value {
    let entry = |fit: &KvFit| {
        json!({
            "type": fit.kv.name(),
            "fits": fit.fits,
            "kv_bytes_per_token": fit.bytes_per_token,
            "kv_pages": fit.pages,
            "kv_bytes": fit.memory.kv,
            "max_context": fit.max_context,
            "max_sequences": fit.max_sequences,
            "total_bytes": fit.memory.total(),
            "needed_bytes": fit.needed.total(),
        })
    };
    let first = &fits[0];
    json!({
        "model": args.model,
        "target": options.target.to_string(),
        "vram_bytes": args.vram.0,
        "fits": first.fits,
        "weights_bytes": footprint.weights,
        "arena_bytes": footprint.arena,
        "overhead_bytes": first.memory.other,
        "overhead_is": overhead_is(footprint),
        "kv_bytes_per_token": first.bytes_per_token,
        "kv_pages": first.pages,
        "max_context": first.max_context,
        "max_sequences": first.max_sequences,
        "total_bytes": first.memory.total(),
        "kv": fits.iter().map(entry).collect::<Vec<_>>(),
    })
}

fn print_table(args: &FitArgs, options: &CompileOptions, footprint: &Footprint, fits: &[KvFit]) {
    let first = &fits[0];
    println!("{} on {} in {}", args.model, options.target, args.vram);
    println!("{:>12}  weights", ByteSize(footprint.weights).to_string());
    println!("{:>12}  results of a step", ByteSize(footprint.arena).to_string());
    let how = match footprint.overhead_is_estimate() {
        true => format!(
            "overhead (an estimate: {} for the driver's context, the rest for the kernels' workspace and recorded steps)",
            ByteSize(runtime::device::cuda::CONTEXT_BYTES)
        ),
        false => "overhead: step inputs, kernel parameters, scratch memory of threads".to_owned(),
    };
    println!("{:>12}  {how}", ByteSize(first.memory.other).to_string());
    println!(
        "{:>8} {:>5} {:>14} {:>10} {:>12} {:>15}",
        "KV cache", "fits", "bytes a token", "pages", "max context", "max sequences"
    );
    for fit in fits {
        println!(
            "{:>8} {:>5} {:>14} {:>10} {:>12} {:>15}",
            fit.kv.name(),
            if fit.fits { "yes" } else { "no" },
            fit.bytes_per_token,
            fit.pages,
            fit.max_context,
            fit.max_sequences
        );
    }
}
