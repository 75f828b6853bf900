//! `bench`: speed, latency and memory of an artifact on this machine.
//!
//! Prompts are fixed pseudo-random tokens; sampling is greedy and nothing stops early. Each figure is the median of the
//! repetitions, after one that is not counted.

use std::error::Error;
use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::args::BenchArgs;
use super::session::Session;
use crate::engine::generate::{GenerationRequest, Timings, generate};
use crate::memory;
use crate::sample::SamplingParams;

/// Measures and prints a table or JSON.
pub fn bench(args: &BenchArgs) -> Result<(), Box<dyn Error>> {
    let longest = args.prompt_tokens + args.generate_tokens;
    let mut device = args.device.clone();
    device.max_model_len = Some(device.max_model_len.unwrap_or(longest));
    let most = args.batch.iter().copied().max().unwrap_or(1);
    let kv_tokens = (longest.next_multiple_of(16)) * u64::from(most);
    let mut session = Session::open(&args.artifact, &device, Some(kv_tokens))?;
    let mut results = Vec::new();
    for batch in &args.batch {
        results.push(measure(&mut session, *batch, args)?);
    }
    let report = report(&session, args, &results);
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
}

fn measure(session: &mut Session, batch: u32, args: &BenchArgs) -> Result<Measured, Box<dyn Error>> {
    let vocabulary = session.engine.vocabulary() as u64;
    let requests: Vec<GenerationRequest> = (0..u64::from(batch))
        .map(|sequence| GenerationRequest {
            prompt: (0..args.prompt_tokens).map(|i| token(sequence, i, vocabulary)).collect(),
            sampling: SamplingParams::greedy(),
            stop_ids: Vec::new(),
            max_tokens: args.generate_tokens,
        })
        .collect();
    let mut once =
        || generate(&mut session.engine, &requests, |_| ControlFlow::Continue(())).map(|(_, timings)| timings);
    once()?;
    let timings = (0..args.repetitions).map(|_| once()).collect::<Result<Vec<Timings>, _>>()?;
    Ok(Measured {
        batch,
        prompt_rate: median(timings.iter().map(Timings::prompt_rate)),
        generation_rate: median(timings.iter().map(Timings::generation_rate)),
        first_token: median(timings.iter().map(|t| t.first_token.as_secs_f64())),
    })
}

/// A fixed token that looks random.
fn token(sequence: u64, i: u64, vocabulary: u64) -> u32 {
    let mixed = (sequence << 32 | i).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    (mixed % vocabulary) as u32
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Bytes that decoding one token after the prompt reads: every weight but the embedding table, of which one row, unless
/// that is the output projection as well, and the sequence's KV.
fn bytes_per_token(session: &Session, context: u64) -> u64 {
    let manifest = session.artifact.manifest();
    let programs = session.artifact.programs();
    let gathered_only = |name: &str| {
        let uses = |p: &ir::program::Program, kernel: bool| {
            let Some(at) = p.weights.iter().position(|w| w.name == name) else { return false };
            let reads =
                |l: &&ir::program::Launch| l.args.iter().any(|(_, a)| *a == ir::program::Arg::Weight(at as u32));
            p.launches.iter().filter(reads).any(|l| (l.kernel == "embedding") == kernel)
        };
        programs.first().is_some_and(|p| uses(p, true) && !uses(p, false))
    };
    let weight = |w: &crate::artifact::WeightInfo| match gathered_only(&w.name) {
        true => w.bytes / w.shape.first().copied().unwrap_or(1).max(1),
        false => w.bytes,
    };
    manifest.weights.iter().map(weight).sum::<u64>() + manifest.kv.bytes_per_token * context
}

fn report(session: &Session, args: &BenchArgs, results: &[Measured]) -> Value {
    let memory = session.engine.memory();
    let describe = |m: &Measured| {
        json!({"batch": m.batch, "prompt_tokens_per_s": m.prompt_rate, "generation_tokens_per_s": m.generation_rate,
               "time_to_first_token_s": m.first_token})
    };
    let first = results.first();
    json!({
        "model": session.artifact.manifest().model.name,
        "device": session.engine.device_name(),
        "prompt_tokens": args.prompt_tokens,
        "generate_tokens": args.generate_tokens,
        "repetitions": args.repetitions,
        "prompt_tokens_per_s": first.map(|m| m.prompt_rate),
        "generation_tokens_per_s": first.map(|m| m.generation_rate),
        "time_to_first_token_s": first.map(|m| m.first_token),
        "peak_memory_bytes": memory::peak_bytes(),
        "bytes_per_token": bytes_per_token(session, args.prompt_tokens + args.generate_tokens / 2),
        "joules_per_token": null,
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
    if let Some(peak) = memory::peak_bytes() {
        println!("peak memory {:.1} MB", peak as f64 / 1e6);
    }
}
