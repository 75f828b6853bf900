//! `moesaic synth`: a model with random weights, to measure and test with.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use compiler::progress::{Bar, Progress};
use models::synth::{
    PRESETS, ParameterCount, Preset, SynthError, SynthModel, SynthOptions, SynthReport, WeightFormat, find_preset,
};
use serde_json::json;

/// Arguments of `synth`.
#[derive(Args)]
pub struct SynthArgs {
    /// Shape of the model; --list shows them
    #[arg(required_unless_present = "list")]
    pub preset: Option<String>,
    /// Hugging Face folder to write; must not exist, or be empty
    #[arg(short, long, value_name = "DIR", required_unless_present = "list")]
    pub output: Option<PathBuf>,
    /// What weights are stored as; int4 is compressed-tensors' pack-quantized, for gpt-oss MXFP4
    #[arg(long, value_enum, default_value = "bf16")]
    pub weights: WeightsWord,
    /// Columns that share a scale, with --weights int4: 32, 64 or 128
    #[arg(long, value_name = "N", default_value = "128")]
    pub group_size: u64,
    /// Seed; equal seeds give equal files
    #[arg(short = 's', long, value_name = "N", default_value = "0")]
    pub seed: u64,
    /// Number of layers instead of the preset's
    #[arg(long, value_name = "N")]
    pub layers: Option<u64>,
    /// Show all presets
    #[arg(long, conflicts_with_all = ["preset", "output"])]
    pub list: bool,
    /// Print a summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// Spellings of the weight formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightsWord {
    /// 32-bit floats
    F32,
    /// 16-bit IEEE floats
    F16,
    /// bfloat16
    Bf16,
    /// 4-bit integers with a scale a group
    Int4,
}

/// Writes a model, or lists the presets.
pub fn synth(args: &SynthArgs) -> Result<(), SynthError> {
    match (&args.preset, &args.output) {
        (Some(preset), Some(output)) if !args.list => write(args, preset, output),
        _ => list(args.json),
    }
}

fn write(args: &SynthArgs, preset: &str, output: &PathBuf) -> Result<(), SynthError> {
    let format = match args.weights {
        WeightsWord::F32 => WeightFormat::F32,
        WeightsWord::F16 => WeightFormat::F16,
        WeightsWord::Bf16 => WeightFormat::BF16,
        WeightsWord::Int4 => WeightFormat::Int4 { group_size: args.group_size },
    };
    let start = Instant::now();
    let options = SynthOptions { preset: find_preset(preset)?, format, seed: args.seed, layers: args.layers };
    let model = SynthModel::new(&options)?;
    let bar = Bar::default();
    bar.begin("writing weights", model.bytes());
    let report = model.write(output, &|bytes| bar.advance(bytes));
    bar.finish();
    show(args, output, &report?, start.elapsed().as_secs_f64());
    Ok(())
}

fn show(args: &SynthArgs, output: &PathBuf, report: &SynthReport, seconds: f64) {
    let count = report.parameters;
    if args.json {
        let summary = json!({
            "model": output,
            "preset": args.preset,
            "parameters": count.total,
            "active_parameters": count.active,
            "tensors": report.tensors,
            "shards": report.shards,
            "bytes": report.bytes,
            "seed": args.seed,
            "seconds": seconds,
        });
        println!("{summary}");
    } else {
        eprintln!(
            "{}: {} parameters, {} active, {:.1} MB in {seconds:.1} s",
            output.display(),
            short(count.total),
            short(count.active),
            report.bytes as f64 / 1e6,
        );
    }
}

/// Presets with their parameters. Active are those a token is multiplied with.
fn list(as_json: bool) -> Result<(), SynthError> {
    let counts = PRESETS.iter().map(|p| Ok((p, p.parameters()?))).collect::<Result<Vec<_>, SynthError>>()?;
    if as_json {
        let presets: Vec<_> = counts.iter().map(|(preset, count)| entry(preset, count)).collect();
        println!("{}", json!({ "presets": presets }));
        return Ok(());
    }
    println!("{:<16}{:>10}{:>10}  shape", "preset", "total", "active");
    for (preset, count) in counts {
        println!("{:<16}{:>10}{:>10}  {}", preset.name, short(count.total), short(count.active), preset.summary);
    }
    Ok(())
}

fn entry(preset: &Preset, count: &ParameterCount) -> serde_json::Value {
    json!({
        "name": preset.name,
        "summary": preset.summary,
        "parameters": count.total,
        "active_parameters": count.active,
    })
}

/// A number of parameters as 4.08 B or 3.5 M.
fn short(parameters: u64) -> String {
    match parameters {
        0..1_000_000_000 => format!("{:.1} M", parameters as f64 / 1e6),
        _ => format!("{:.2} B", parameters as f64 / 1e9),
    }
}
