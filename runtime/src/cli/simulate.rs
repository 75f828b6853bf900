//! `simulate`: an artifact's kernels executed and checked without a GPU.
//!
//! The prompt is one step, then each token that is generated; greedy, so that runs can be compared. What the checks found and what was
//! counted is printed by launch.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use simulator::{Counters, Finding};

use super::CliError;
use super::args::SimulateArgs;
use crate::artifact::{Artifact, ModelCard, OpenOptions};
use crate::device::DeviceChoice;
use crate::device::sim::gates::{gates, launches_gate};
use crate::device::sim::{ArtifactModules, LaunchRecord, SimDevice, SimOptions, check_name};
use crate::engine::generate::{GenerationRequest, generate};
use crate::engine::{Chunk, Engine, EngineOptions, Rows};
use crate::sample::SamplingParams;
use crate::text::Tokenizer;

/// What a simulation gave.
pub struct Simulation {
    /// The model.
    pub card: ModelCard,
    /// The artifact's activations: `f32`, `f16` or `int8`.
    pub activations: String,
    /// Names of the buckets.
    pub buckets: Vec<String>,
    /// Architecture and checks.
    pub device: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that were generated.
    pub tokens: Vec<u32>,
    /// Relative RMS of the logits each token was chosen from against those of the cpu device, where that was asked for.
    pub differences: Option<Vec<f64>>,
    /// Every launch that was watched, in order.
    pub launches: Vec<LaunchRecord>,
    /// Why the run ended early, if it did.
    pub error: Option<String>,
}

impl Simulation {
    /// Number of findings.
    pub fn findings(&self) -> usize {
        self.launches.iter().map(|l| l.findings.len()).sum()
    }

    /// The launches of each step, in order.
    pub fn steps(&self) -> impl Iterator<Item = &[LaunchRecord]> {
        self.launches.chunk_by(|a, b| a.step == b.step)
    }
}

/// Writes a simulation as one page of HTML.
pub type PageWriter<'a> = &'a dyn Fn(&Simulation) -> String;

/// Runs, prints, and fails if there was a finding. `page` writes the report, where the program has one.
pub fn simulate(args: &SimulateArgs, page: Option<PageWriter>) -> Result<(), Box<dyn Error>> {
    let report = match (&args.report, page) {
        (Some(path), Some(page)) => Some((path, page)),
        (Some(_), None) => return Err(option("--report", "this program writes no reports; moesaic simulate does")),
        (None, _) => None,
    };
    let simulation = run(args)?;
    if let Some((path, page)) = report {
        write_file(path, &page(&simulation))?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&to_json(&simulation))?);
    } else {
        print!("{}", to_text(&simulation));
    }
    match (&simulation.error, simulation.findings()) {
        (Some(error), _) => Err(error.clone().into()),
        (None, 0) => Ok(()),
        (None, 1) => Err("1 finding".into()),
        (None, n) => Err(format!("{n} findings").into()),
    }
}

fn run(args: &SimulateArgs) -> Result<Simulation, Box<dyn Error>> {
    let artifact = Arc::new(Artifact::open(&args.artifact, &OpenOptions::default())?);
    let manifest = artifact.manifest();
    let prompt = prompt(args, &artifact)?;
    let longest = prompt.len() as u64 + args.max_tokens;
    if longest > manifest.model.max_context {
        let message =
            format!("prompt and generated tokens are {longest}, the model's context {}", manifest.model.max_context);
        return Err(option("--max-tokens", message));
    }
    check_launch(args.launch, &artifact)?;
    let records = Arc::new(Mutex::new(Vec::new()));
    let sink = records.clone();
    let options = SimOptions {
        pages: longest.div_ceil(ir::op::PAGE_TOKENS),
        checks: args.check.parse()?,
        counters: args.counters || args.report.is_some(),
        threads: args.threads,
        only: args.launch,
        go_on: true,
        observer: Some(Box::new(move |record| {
            sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(record);
        })),
    };
    let source = ArtifactModules::open(&artifact, args.arch.as_deref())?;
    let device = SimDevice::load(artifact.clone(), &source, options)?;
    let mut engine = Engine::with_device(manifest, Box::new(device), longest);
    let (name, prompt_tokens) = (engine.device_name(), prompt.len());
    let run = execute(&mut engine, &prompt, args.max_tokens);
    let differences = args.compare.as_ref().map(|_| differences(&artifact, &prompt, &run, args.threads)).transpose()?;
    let launches = std::mem::take(&mut *records.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    Ok(Simulation {
        card: manifest.model.clone(),
        activations: manifest.activations.clone(),
        buckets: manifest.buckets.iter().map(|b| b.name.clone()).collect(),
        device: name,
        prompt_tokens,
        tokens: run.tokens,
        differences,
        launches,
        error: run.error,
    })
}

/// What was generated.
struct Run {
    tokens: Vec<u32>,
    /// What each was chosen from.
    logits: Vec<Vec<f32>>,
    /// Why it ended early.
    error: Option<String>,
}

fn execute(engine: &mut Engine, prompt: &[u32], max_tokens: u64) -> Run {
    let (mut tokens, mut logits) = (Vec::new(), Vec::new());
    let (prompt, sampling) = (prompt.to_vec(), SamplingParams::greedy());
    let request = GenerationRequest { prompt, sampling, stop_ids: Vec::new(), max_tokens, needs_logits: true };
    let result = generate(engine, &[request], |event| {
        tokens.push(event.token);
        logits.push(event.logits.to_vec());
        ControlFlow::Continue(())
    });
    Run { tokens, logits, error: result.err().map(|e| e.to_string()) }
}

/// The same steps on the cpu device: relative RMS of each row of logits, sqrt(mean((a - b)^2) / mean(b^2)) with b the cpu's.
fn differences(
    artifact: &Arc<Artifact>,
    prompt: &[u32],
    run: &Run,
    threads: Option<usize>,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let longest = (prompt.len() + run.tokens.len()) as u64;
    let (device, max_model_len, kv_tokens) = (DeviceChoice::Cpu, Some(longest), Some(longest));
    let options = EngineOptions { device, threads, max_model_len, kv_tokens, ..EngineOptions::default() };
    let mut engine = Engine::new(artifact.clone(), &options)?;
    let sequence = engine.open_sequence_for(prompt.len() as u64);
    let steps = std::iter::once(prompt).chain(run.tokens.chunks(1));
    let mut differences = Vec::new();
    for (tokens, simulated) in steps.zip(&run.logits) {
        let logits = engine.step(&[Chunk { sequence, tokens, logits: Rows::Last }])?;
        differences.push(relative_rms(simulated, logits.values()));
    }
    Ok(differences)
}

fn relative_rms(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    if difference == 0.0 { 0.0 } else { (difference / size).sqrt() }
}

fn prompt(args: &SimulateArgs, artifact: &Artifact) -> Result<Vec<u32>, Box<dyn Error>> {
    let Some(text) = &args.prompt else { return Ok(args.tokens.clone()) };
    let missing = || CliError::Missing { artifact: args.artifact.clone(), what: "tokenizer" };
    let bytes = artifact.read_file("tokenizer.json")?.ok_or_else(missing)?;
    let tokenizer = Tokenizer::from_bytes(&bytes, &args.artifact.join("tokenizer.json").to_string_lossy())?;
    let tokens = tokenizer.encode(text, true)?;
    if tokens.is_empty() {
        return Err(option("--prompt", "expected at least one token"));
    }
    Ok(tokens)
}

fn check_launch(launch: Option<usize>, artifact: &Artifact) -> Result<(), Box<dyn Error>> {
    let most = artifact.programs().iter().map(|p| p.launches.len()).max().unwrap_or(0);
    match launch {
        Some(index) if index >= most => {
            Err(option("--launch", format!("there are {most} launches, the first is 0; found {index}")))
        }
        _ => Ok(()),
    }
}

fn option(option: &'static str, message: impl Into<String>) -> Box<dyn Error> {
    CliError::Option { option, message: message.into() }.into()
}

fn write_file(path: &Path, text: &str) -> Result<(), CliError> {
    let failed = |source| CliError::File { path: path.into(), action: "write the report", source };
    fs::write(path, text).map_err(failed)
}

fn to_text(simulation: &Simulation) -> String {
    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{arguments}");
    };
    line(format_args!("{} on {}", simulation.card.name, simulation.device));
    for step in simulation.steps() {
        let Some(first) = step.first() else { continue };
        let instructions: u64 = step.iter().map(|l| l.warp_instructions).sum();
        let bucket = simulation.buckets.get(first.bucket).map_or("?", String::as_str);
        line(format_args!(
            "step {}: {} token{}, bucket {bucket}, {} launches, {instructions} warp instructions",
            first.step,
            first.tokens,
            if first.tokens == 1 { "" } else { "s" },
            step.len()
        ));
        if step.iter().any(|l| l.counters.is_some()) {
            line(format_args!("{COUNTER_HEADS}"));
            step.iter().for_each(|l| line(format_args!("{}", counter_line(l))));
        }
        for launch in step {
            let place = format!("launch {} {:?}", launch.launch, launch.label);
            launch.findings.iter().for_each(|f| line(format_args!("{place}: {f}")));
        }
    }
    line(format_args!("tokens {:?}", simulation.tokens));
    if let Some(differences) = &simulation.differences {
        let texts: Vec<String> = differences.iter().map(|d| format!("{d:.1e}")).collect();
        line(format_args!("relative RMS of their logits against the cpu device: {}", texts.join(" ")));
    }
    line(format_args!("findings: {}", simulation.findings()));
    text
}

/// Heads of the table of counters: `sec/req` and `sec/wide` are sectors a request and a 128-bit load, `moved` bytes of memory and, after it, of second-level
/// cache as multiples of the least.
const COUNTER_HEADS: &str = "launch entry                     blocks  instructions lanes sec/req sec/wide      bytes moved    l2 conflicts barriers depth a byte  most frequent";

fn counter_line(launch: &LaunchRecord) -> String {
    let Some(c) = &launch.counters else { return String::new() };
    let blocks: u64 = launch.grid.iter().map(|n| u64::from(*n)).product();
    let mut common: Vec<(&String, &u64)> = c.mix.iter().collect();
    common.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    let share = |count: u64| 100.0 * count as f64 / c.warp_instructions.max(1) as f64;
    let common: Vec<String> =
        common.iter().take(3).map(|(name, count)| format!("{name} {:.0} %", share(**count))).collect();
    format!(
        "{:>6} {:<24} {blocks:>8} {:>13} {:>4.0}% {:>7.1} {:>8.1} {:>10} {:>5.2} {:>5.2} {:>9} {:>8.1} {:>5} {:>6.2}  {}",
        launch.launch,
        launch.entry,
        c.warp_instructions,
        100.0 * c.active_lane_share(),
        c.sectors_per_request(),
        c.sectors_per_wide_load(),
        c.dram_bytes,
        c.dram_ratio(),
        c.l2_ratio(),
        c.bank_conflicts,
        c.barriers_per_block(),
        c.dependent_load_depth,
        c.instructions_per_weight_byte(),
        common.join(", ")
    )
}

fn to_json(simulation: &Simulation) -> Value {
    let layers = simulation.card.layers;
    let step = |launches: &[LaunchRecord]| {
        let first = launches.first();
        let gate = first.map(|l| launches_gate(launches.len(), layers, l.tokens));
        json!({
            "step": first.map(|l| l.step),
            "tokens": first.map(|l| l.tokens),
            "bucket": first.and_then(|l| simulation.buckets.get(l.bucket)),
            "launches_per_layer": gate.map(|g| g.value),
            "launches": launches.iter().map(|l| launch_json(l, &simulation.activations)).collect::<Vec<_>>(),
        })
    };
    json!({
        "model": simulation.card.name,
        "device": simulation.device,
        "activations": simulation.activations,
        "prompt_tokens": simulation.prompt_tokens,
        "tokens": simulation.tokens,
        "relative_rms_against_cpu": simulation.differences,
        "findings": simulation.findings(),
        "error": simulation.error,
        "steps": simulation.steps().map(step).collect::<Vec<_>>(),
    })
}

fn launch_json(launch: &LaunchRecord, activations: &str) -> Value {
    let gates = gates(launch, activations);
    let gate = |g: &crate::device::sim::gates::Gate| json!({"name": g.name, "value": g.value, "limit": g.limit, "at_least": g.at_least, "holds": g.holds()});
    json!({
        "launch": launch.launch,
        "kernel": launch.kernel,
        "variant": launch.variant,
        "label": launch.label,
        "entry": launch.entry,
        "grid": launch.grid,
        "threads": launch.threads,
        "shared_bytes": launch.shared_bytes,
        "warp_instructions": launch.warp_instructions,
        "findings": launch.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "counters": launch.counters.as_ref().map(counters_json),
        "gates": gates.iter().map(gate).collect::<Vec<_>>(),
    })
}

fn finding_json(f: &Finding) -> Value {
    json!({
        "check": check_name(f.kind),
        "kernel": f.kernel,
        "source": f.source,
        "ptx_line": f.ptx_line,
        "instruction": f.instruction,
        "block": f.block,
        "thread": f.thread,
        "address": f.address,
        "allocation": f.allocation,
        "message": f.message,
    })
}

fn counters_json(c: &Counters) -> Value {
    json!({
        "mix": c.mix,
        "active_lane_share": c.active_lane_share(),
        "sectors_per_request": c.sectors_per_request(),
        "sectors_per_wide_load": c.sectors_per_wide_load(),
        "requested_bytes": c.requested_bytes,
        "l1_bytes": c.global_sectors * 32,
        "l2_bytes": c.l2_bytes,
        "dram_bytes": c.dram_bytes,
        "minimum_bytes": c.minimum_bytes,
        "weight_bytes": c.weight_bytes,
        "local_bytes": c.local_bytes,
        "shared_bytes": c.shared_bytes,
        "shared_wavefronts": c.shared_wavefronts,
        "bank_conflicts": c.bank_conflicts,
        "barriers_per_block": c.barriers_per_block(),
        "dependent_load_depth": c.dependent_load_depth,
        "instructions_per_weight_byte": c.instructions_per_weight_byte(),
    })
}
