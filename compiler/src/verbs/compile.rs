//! `moesaic compile`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use compiler::cost::read_cost_table;
use compiler::fuse::Fusion;
use compiler::kv_type::KvType;
use compiler::lower::Registry;
use compiler::pipeline::{self, CompileError, CompileOptions, Compiled, Outcome, Stopped, Timings};
use compiler::progress::Bar;
use compiler::quantise::QuantiseError;
use compiler::quantise::options::{CALIBRATION_TOKENS, FormatChoice, QuantOptions};
use compiler::target::{Activations, Targets};
use models::Checkpoint;
use runtime::byte_size::ByteSize;
use serde_json::json;

/// Arguments of `compile`.
#[derive(Args)]
pub struct CompileArgs {
    /// Hugging Face folder or GGUF file; not needed with --from and --stop-after
    #[arg(required_unless_present = "from")]
    pub model: Option<PathBuf>,
    /// Artifact folder to write
    #[arg(short, long, value_name = "OUT.moesaic", required_unless_present_any = ["stop_after", "explain"])]
    pub output: Option<PathBuf>,
    /// What to compile for: cpu, or one or several of sm_80, sm_86, sm_89, sm_90, sm_100, sm_120; cuda for all of these. Programs are
    /// made for the oldest, kernels for each
    #[arg(long, default_value = "cpu", value_delimiter = ',', env = "MOESAIC_TARGET")]
    pub target: Vec<String>,
    /// The NVRTC that compiles kernels for GPUs; default: of CUDA_PATH, of the system, else one that is fetched into the cache
    #[arg(long, value_name = "PATH", env = "MOESAIC_NVRTC")]
    pub nvrtc: Option<PathBuf>,
    /// Table of what targets do in a second, in place of the built-in one: doctor --calibrate -o writes one
    #[arg(long, value_name = "FILE.json")]
    pub cost_table: Option<PathBuf>,
    /// How weights are stored
    #[command(flatten)]
    pub quant: QuantArgs,
    /// Activations of products: f32 (parity), f16 or int8; default: f16 for GPUs, int8 for cpu
    #[arg(long, env = "MOESAIC_ACTIVATIONS")]
    pub activations: Option<String>,
    /// KV cache: f16, int8 (half the bytes; a scale a head and token) or f32; default: f16, f32 with f32 activations
    #[arg(long = "kv", value_name = "TYPE", alias = "kv-cache-dtype", env = "MOESAIC_KV")]
    pub kv: Option<KvType>,
    /// Longest sequence in tokens, 32k for 32768; default: what the model was made for
    #[arg(long, value_name = "N", value_parser = runtime::cli::parse_count, env = "MOESAIC_MAX_MODEL_LEN")]
    pub max_model_len: Option<u64>,
    /// Memory to fill, such as 24GiB: what weights, results and overhead leave becomes KV cache; a model that does not fit is refused
    #[arg(long, value_name = "SIZE", env = "MOESAIC_VRAM")]
    pub vram: Option<ByteSize>,
    /// Add what each router selects to the results of a step, for `logits` to write
    #[arg(long)]
    pub trace_routing: bool,
    /// Add the last hidden states to the results of a step, for /v1/embeddings of a server; costs a launch a step
    #[arg(long, alias = "embedding", env = "MOESAIC_EMBEDDINGS")]
    pub embeddings: bool,
    /// Compute the keys and values of this static prompt now and ship them, so that requests that begin with it need not; raw
    /// text or a JSON list of chat messages; may be given several times
    #[arg(long, value_name = "FILE")]
    pub bake_prompt: Vec<PathBuf>,
    /// Threads that quantise, calibrate and compile kernels; the artifact does not depend on it. Default: one a core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub passes: PassArgs,
    /// Print a summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// Which passes run, and what they show.
#[derive(Args)]
pub struct PassArgs {
    /// How much is fused: full, exact (only what leaves all bits as they are) or off
    #[arg(long, default_value = "full", value_name = "HOW", env = "MOESAIC_FUSE")]
    pub fuse: String,
    /// Make a launch of each op: --fuse off
    #[arg(long, conflicts_with = "fuse")]
    pub no_fuse: bool,
    /// Show the chain of rules that made a node of the smallest bucket's fused graph, named by its label or as %N; writes no artifact
    #[arg(long, value_name = "NODE")]
    pub explain: Option<String>,
    /// Write the text after each pass into this folder
    #[arg(long, value_name = "DIR")]
    pub dump: Option<PathBuf>,
    /// Begin with this text, a dump or one of your own, after the pass that its first line `; after: PASS` names
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Begin --from's text after this pass, whatever it says
    #[arg(long, value_name = "PASS", requires = "from")]
    pub from_pass: Option<String>,
    /// Stop after this pass, without an artifact: import, quantise, fuse, lower, schedule, plan or emit; its text goes to standard output
    /// unless --dump or --report is given
    #[arg(long, value_name = "PASS")]
    pub stop_after: Option<String>,
    /// Show how long each pass took, on standard error
    #[arg(long)]
    pub time_passes: bool,
    /// Write a page that shows the graph, launches, memory plan and costs
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
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
    pub(super) fn parse(&self) -> Result<QuantOptions, QuantiseError> {
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

/// Programs that have no machine code; why has been said.
#[derive(Debug, thiserror::Error)]
#[error("{count} faults keep the programs from being compiled for GPUs")]
struct NoMachineCode {
    count: usize,
}

/// A text to begin with that cannot be; what is wrong with it has been said.
#[derive(Debug, thiserror::Error)]
#[error("{}: {count} {}", .path.display(), if *.count == 1 { "violation" } else { "violations" })]
struct UnfitText {
    path: PathBuf,
    count: usize,
}

/// Compiles a checkpoint and says what it became.
pub fn compile(args: &CompileArgs) -> Result<(), Box<dyn std::error::Error>> {
    let options = options(args)?;
    let start = Instant::now();
    let registry = Registry::default();
    if let Some(node) = &args.passes.explain {
        let checkpoint = args.model.as_deref().map(Checkpoint::open).transpose()?;
        print!("{}", pipeline::explain(checkpoint.as_ref(), &options, &registry, node).map_err(list_violations)?);
        return Ok(());
    }
    let (outcome, source_bytes) = match &args.model {
        Some(model) => {
            let mut checkpoint = Checkpoint::open(model)?;
            let source_bytes = checkpoint.total_bytes();
            let output = args.output.clone().unwrap_or_default();
            (pipeline::compile(&mut checkpoint, &output, &options, &registry, &Bar::default()), source_bytes)
        }
        None => (pipeline::compile_text(&options, &registry).map(|s| Outcome::Stopped(Box::new(s))), 0),
    };
    let outcome = outcome.map_err(list_violations)?;
    if args.passes.time_passes {
        eprint!("{}", outcome.timings());
    }
    match outcome {
        Outcome::Artifact(compiled) => show_artifact(args, &compiled, source_bytes, start.elapsed().as_secs_f64()),
        Outcome::Stopped(stopped) => show_stage(args, &stopped),
    }
    Ok(())
}

fn options(args: &CompileArgs) -> Result<CompileOptions, Box<dyn std::error::Error>> {
    let Targets { target, architectures } = Targets::parse(&args.target)?;
    let activations = match &args.activations {
        Some(word) => word.parse::<Activations>()?,
        None => Activations::default_for(target),
    };
    let defaults = CompileOptions::new(target, activations);
    let costs = args.cost_table.as_deref().map(read_cost_table).transpose()?;
    Ok(CompileOptions {
        architectures,
        nvrtc: args.nvrtc.clone(),
        kv: args.kv,
        spec: target.spec_in(costs.as_ref()),
        fusion: if args.passes.no_fuse { Fusion::Off } else { args.passes.fuse.parse()? },
        max_model_len: args.max_model_len,
        vram: args.vram.map(|size| size.0),
        quant: args.quant.parse()?,
        trace_routing: args.trace_routing,
        embeddings: args.embeddings,
        bake_prompts: args.bake_prompt.clone(),
        threads: args.threads.map_or(defaults.threads, usize::from),
        from: args.passes.from.clone(),
        from_pass: args.passes.from_pass.clone(),
        stop_after: args.passes.stop_after.clone(),
        dump: args.passes.dump.clone(),
        report: args.passes.report.clone(),
        ..defaults
    })
}

/// Says everything that is wrong with a text or with kernels, a line each; other errors are one line already.
fn list_violations(error: CompileError) -> Box<dyn std::error::Error> {
    match error {
        CompileError::Text { path, diagnostics } => {
            diagnostics.0.iter().for_each(|d| eprintln!("{}: {d}", path.display()));
            UnfitText { path, count: diagnostics.0.len() }.into()
        }
        CompileError::Emit(emit) if emit.lines().len() > 1 => {
            let lines = emit.lines();
            lines.iter().for_each(|line| eprintln!("{line}"));
            NoMachineCode { count: lines.len() }.into()
        }
        error => error.into(),
    }
}

fn show_artifact(args: &CompileArgs, compiled: &Compiled, source_bytes: u64, seconds: f64) {
    let Compiled { manifest, notes, timings } = compiled;
    let bytes: u64 = manifest.files.values().map(|f| f.bytes).sum();
    let peak = runtime::memory::peak_bytes();
    let output = args.output.clone().unwrap_or_default();
    if args.json {
        let mut summary = json!({
            "artifact": output,
            "family": manifest.model.family,
            "parameters": manifest.model.parameters,
            "source_bytes": source_bytes,
            "bytes": bytes,
            "seconds": seconds,
            "peak_memory_bytes": peak,
            "notes": notes,
        });
        add_timings(&mut summary, args, timings);
        println!("{summary}");
    } else {
        notes.iter().for_each(|note| eprintln!("{note}"));
        eprintln!(
            "{}: {} ({}, {:.1} M parameters), {:.1} MB in {seconds:.1} s, peak memory {}",
            output.display(),
            manifest.model.name,
            manifest.model.family,
            manifest.model.parameters as f64 / 1e6,
            bytes as f64 / 1e6,
            peak.map_or("unknown".into(), |p| format!("{:.0} MB", p as f64 / 1e6)),
        );
    }
}

/// The text of the last pass, unless it was written to a folder; with `--json` what a summary can say of it.
fn show_stage(args: &CompileArgs, stopped: &Stopped) {
    if args.json {
        let mut summary = json!({ "stopped_after": stopped.pass });
        add_timings(&mut summary, args, &stopped.timings);
        println!("{summary}");
    } else if args.passes.dump.is_none() && args.passes.report.is_none() {
        stopped.stage.texts(stopped.pass).iter().for_each(|text| print!("{}", text.text));
    }
}

fn add_timings(summary: &mut serde_json::Value, args: &CompileArgs, timings: &Timings) {
    if args.passes.time_passes {
        summary["passes"] = timings.to_json();
    }
}
