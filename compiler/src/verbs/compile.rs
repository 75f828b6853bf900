//! `moesaic compile`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use compiler::lower::Registry;
use compiler::pipeline::{self, CompileOptions, Compiled};
use compiler::progress::Bar;
use compiler::quantise::QuantiseError;
use compiler::quantise::options::{CALIBRATION_TOKENS, FormatChoice, QuantOptions};
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
    /// How weights are stored
    #[command(flatten)]
    pub quant: QuantArgs,
    /// Activations of products: f32 (parity) or int8; default: the target's fastest
    #[arg(long, env = "MOESAIC_ACTIVATIONS")]
    pub activations: Option<String>,
    /// Longest sequence in tokens, 32k for 32768; default: what the model was made for
    #[arg(long, value_name = "N", value_parser = runtime::cli::parse_count, env = "MOESAIC_MAX_MODEL_LEN")]
    pub max_model_len: Option<u64>,
    /// Add what each router selects to the results of a step, for `logits` to write
    #[arg(long)]
    pub trace_routing: bool,
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

/// How weights are stored.
#[derive(Args)]
pub struct QuantArgs {
    /// Weight format: keep (each weight as the checkpoint has it), q4g128, q4g64, q4g32, q4g32a, q8g32, q8c, t2, f16, bf16 or f32
    #[arg(long, default_value = "keep", value_name = "FORMAT", env = "MOESAIC_QUANT")]
    pub quant: String,
    /// How integers are chosen: rtn (nearest), gptq or awq; the last two measure activations on --calibration
    #[arg(long, default_value = "rtn", value_name = "METHOD")]
    pub quant_method: String,
    /// Text that gptq and awq measure activations on
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Most tokens of the calibration text that are used
    #[arg(long, value_name = "N", default_value_t = CALIBRATION_TOKENS as u64, value_parser = runtime::cli::parse_count)]
    pub calibration_tokens: u64,
    /// Format of the embedding table; default: q8g32 where --quant has fewer than 8 bits, else as --quant
    #[arg(long, value_name = "FORMAT")]
    pub quant_embedding: Option<String>,
    /// Format of the output head, and of a table that is both; default as --quant-embedding
    #[arg(long, value_name = "FORMAT")]
    pub quant_head: Option<String>,
    /// Format of the weights whose name matches, * for any characters; the last that matches wins
    #[arg(long, value_name = "PATTERN=FORMAT")]
    pub quant_override: Vec<String>,
}

impl QuantArgs {
    /// The options, every word understood.
    fn parse(&self) -> Result<QuantOptions, QuantiseError> {
        let format = |word: &Option<String>| word.as_deref().map(str::parse::<FormatChoice>).transpose();
        Ok(QuantOptions {
            format: self.quant.parse()?,
            method: self.quant_method.parse()?,
            calibration: self.calibration.clone(),
            calibration_tokens: usize::try_from(self.calibration_tokens).unwrap_or(usize::MAX),
            embedding: format(&self.quant_embedding)?,
            head: format(&self.quant_head)?,
            overrides: self.quant_override.iter().map(|rule| rule.parse()).collect::<Result<_, _>>()?,
        })
    }
}

/// Compiles a checkpoint and says what it became.
pub fn compile(args: &CompileArgs) -> Result<(), Box<dyn std::error::Error>> {
    let target: Target = args.target.parse()?;
    let quant = args.quant.parse()?;
    let activations = match &args.activations {
        Some(word) => word.parse::<Activations>()?,
        None => Activations::default_for(target),
    };
    let options = CompileOptions {
        max_model_len: args.max_model_len,
        quant,
        trace_routing: args.trace_routing,
        dump: args.dump.clone(),
        stop_after: args.stop_after.clone(),
        ..CompileOptions::new(target, activations)
    };
    let start = Instant::now();
    let mut checkpoint = Checkpoint::open(&args.model)?;
    let source_bytes = checkpoint.total_bytes();
    let compiled = pipeline::compile(&mut checkpoint, &args.output, &options, &Registry::default(), &Bar::default())?;
    let Some(Compiled { manifest, notes }) = compiled else { return Ok(()) };
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
            "notes": notes,
        });
        println!("{summary}");
    } else {
        notes.iter().for_each(|note| eprintln!("{note}"));
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
