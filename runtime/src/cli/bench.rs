//! `bench`: speed, latency and memory of an artifact on this machine.
//!
//! Prompts are fixed pseudo-random tokens; sampling is greedy and nothing stops early. Each figure is the median of the
//! repetitions, after one that is not counted.

use std::error::Error;
use std::ops::ControlFlow;
use std::time::Instant;

use ir::program::{Arg, Launch};
use serde_json::{Value, json};

use super::args::BenchArgs;
use super::bench_energy::Consumption;
use super::bench_prefix::bench_prefix;
use super::session::Session;
use crate::engine::generate::{GenerationRequest, Timings, generate};
use crate::memory;
use crate::sample::SamplingParams;

/// Measures and prints a table or JSON.
pub fn bench(args: &BenchArgs) -> Result<(), Box<dyn Error>> {
    if args.prefix {
        return bench_prefix(args);
    }
    let longest = args.prompt_tokens + args.generate_tokens;
    let mut device = args.device.clone();
    device.max_model_len = Some(device.max_model_len.unwrap_or(longest));
    let most = args.batch.iter().copied().max().unwrap_or(1);
    let kv_tokens = (longest.next_multiple_of(16)) * u64::from(most);
    let start = Instant::now();
    let mut session = Session::open(&args.artifact, &device, Some(kv_tokens))?;
    let load = start.elapsed().as_secs_f64();
    let mut results = Vec::new();
    for batch in &args.batch {
        results.push(measure(&mut session, *batch, args)?);
    }
    let report = report(&session, args, load, &results);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_table(&session, &results);
    }
    Ok(())
}

/// Medians at one batch size.
struct Measured {
    batch: u32,
    prompt_rate: f64,
    generation_rate: f64,
    first_token: f64,
    /// Bytes of packed weights read for a generated token, all sequences of the batch together.
    weight_bytes: u64,
    /// Of the device, for a generated token; `None` where it has no meter.
    joules_per_token: Option<f64>,
}

fn measure(session: &mut Session, batch: u32, args: &BenchArgs) -> Result<Measured, Box<dyn Error>> {
    let vocabulary = session.engine.vocabulary() as u64;
    let requests: Vec<GenerationRequest> = (0..u64::from(batch))
        .map(|sequence| GenerationRequest {
            prompt: (0..args.prompt_tokens).map(|i| token(sequence, i, vocabulary)).collect(),
            sampling: SamplingParams::greedy(),
            stop_ids: Vec::new(),
            max_tokens: args.generate_tokens,
            needs_logits: false,
        })
        .collect();
    generate(&mut session.engine, &requests, |_| ControlFlow::Continue(()))?;
    let weight_bytes = decode_bytes(session, &requests)?;
    let mut consumption = Consumption::of(&session.engine, &args.device);
    let mut once = || consumption.generate(&mut session.engine, &requests);
    let timings = (0..args.repetitions).map(|_| once()).collect::<Result<Vec<Timings>, _>>()?;
    Ok(Measured {
        batch,
        prompt_rate: median(timings.iter().map(Timings::prompt_rate)),
        generation_rate: median(timings.iter().map(Timings::generation_rate)),
        first_token: median(timings.iter().map(|t| t.first_token.as_secs_f64())),
        weight_bytes,
        joules_per_token: consumption.joules_per_token(),
    })
}

/// Bytes of packed weights the device reads in a decoding step, on average over those of one run.
fn decode_bytes(session: &mut Session, requests: &[GenerationRequest]) -> Result<u64, Box<dyn Error>> {
    let steps = requests.first().map_or(0, |r| r.max_tokens).saturating_sub(1);
    if steps == 0 {
        return Ok(0);
    }
    // The first token comes with the prompt, so that counting starts when it is chosen.
    let engine = &mut session.engine;
    let prompt_only: Vec<GenerationRequest> =
        requests.iter().map(|r| GenerationRequest { max_tokens: 1, ..r.clone() }).collect();
    let mut count = |requests: &[GenerationRequest]| {
        let before = engine.weight_bytes_read();
        generate(engine, requests, |_| ControlFlow::Continue(())).map(|_| engine.weight_bytes_read() - before)
    };
    let (with, without) = (count(requests)?, count(&prompt_only)?);
    Ok((with - without) / steps)
}

/// A fixed token that looks random.
fn token(sequence: u64, i: u64, vocabulary: u64) -> u32 {
    let mixed = (sequence << 32 | i).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    (mixed % vocabulary) as u32
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Bytes of packed weights that decoding one token needs, worked out from the program: every matrix a launch reads, of a
/// stack the selected ones, of an embedding table one row.
fn active_weight_bytes(session: &Session) -> u64 {
    let weights = &session.artifact.manifest().weights;
    let Some(program) = session.artifact.programs().first() else { return 0 };
    let needed = |launch: &Launch| {
        let count = |field: &str| match launch.args.iter().find(|(name, _)| name == field) {
            Some((_, Arg::Size(dims))) => dims.iter().filter_map(|d| d.value(&program.upper_bounds())).product::<u64>(),
            _ => 1,
        };
        let (stacked, used) = match launch.kernel.as_str() {
            "embedding" => (count("rows"), 1),
            _ => (count("matrices"), count("slots")),
        };
        let packed = |arg: &Arg| {
            let Arg::Weight(i) = arg else { return None };
            let name = &program.weights[*i as usize].name;
            weights.iter().find(|w| w.name == *name && w.layout.is_packed()).map(|w| w.bytes)
        };
        let bytes: u64 = launch.args.iter().filter_map(|(_, arg)| packed(arg)).sum();
        bytes / stacked.max(1) * used.min(stacked)
    };
    program.launches.iter().map(needed).sum()
}

fn report(session: &Session, args: &BenchArgs, load: f64, results: &[Measured]) -> Value {
    let memory = session.engine.memory();
    let first = results.first();
    let context = args.prompt_tokens + args.generate_tokens / 2;
    let kv_bytes = session.artifact.manifest().kv.bytes_per_token * context;
    let describe = |m: &Measured| {
        json!({"batch": m.batch, "prompt_tokens_per_s": m.prompt_rate, "generation_tokens_per_s": m.generation_rate,
               "time_to_first_token_s": m.first_token, "joules_per_token": m.joules_per_token,
               "bytes_per_step": m.weight_bytes + kv_bytes * u64::from(m.batch)})
    };
    json!({
        "model": session.artifact.manifest().model.name,
        "device": session.engine.device_name(),
        "prompt_tokens": args.prompt_tokens,
        "generate_tokens": args.generate_tokens,
        "repetitions": args.repetitions,
        "load_s": load,
        "prompt_tokens_per_s": first.map(|m| m.prompt_rate),
        "generation_tokens_per_s": first.map(|m| m.generation_rate),
        "time_to_first_token_s": first.map(|m| m.first_token),
        "peak_memory_bytes": memory::peak_bytes(),
        "bytes_per_token": first.map(|m| m.weight_bytes + kv_bytes),
        "weight_bytes_per_token": first.map(|m| m.weight_bytes),
        "active_weight_bytes": active_weight_bytes(session),
        "joules_per_token": first.and_then(|m| m.joules_per_token),
        "weights_bytes": memory.weights,
        "arena_bytes": memory.arena,
        "kv_bytes": memory.kv,
        "batches": results.iter().map(describe).collect::<Vec<_>>(),
    })
}

fn print_table(session: &Session, results: &[Measured]) {
    println!("{} on {}", session.artifact.manifest().model.name, session.engine.device_name());
    println!("{:>6} {:>16} {:>20} {:>16}", "batch", "prompt tokens/s", "generation tokens/s", "first token ms");
    for m in results {
        println!("{:>6} {:>16.1} {:>20.1} {:>16.1}", m.batch, m.prompt_rate, m.generation_rate, m.first_token * 1e3);
    }
    if let Some(m) = results.first() {
        let (read, active) = (m.weight_bytes as f64 / 1e6, active_weight_bytes(session) as f64 / 1e6);
        println!("weights read a decoding step {read:.2} MB, active {active:.2} MB");
    }
    if let Some(joules) = results.first().and_then(|m| m.joules_per_token) {
        println!("energy of a generated token {joules:.4} J");
    }
    if let Some(peak) = memory::peak_bytes() {
        println!("peak memory {:.1} MB", peak as f64 / 1e6);
    }
}
