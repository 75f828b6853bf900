//! How long the compiler's passes take as a model grows deeper: from its configuration alone, without weights.
//!
//! `cargo bench -p moesaic-compiler --bench passes -- [PRESET] [TARGET] [FORMAT]`, by default `aix-4b sm_90 keep`. Each figure is the least of
//! three runs in milliseconds, all buckets together; the last columns are what fuse and plan take together, and that for a layer,
//! which is level or falls if time grows no worse than linearly.

use std::path::Path;
use std::time::Duration;

use compiler::lower::Registry;
use compiler::pipeline::{self, CompileOptions, EMIT, Outcome, PLAN, Timings, pass_names};
use compiler::progress::Silent;
use compiler::quantise::options::QuantOptions;
use compiler::target::{Activations, Target};
use models::synth::find_preset;

const LAYERS: [u64; 5] = [4, 8, 16, 32, 48];

const RUNS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let word = |i: usize, default: &'static str| words.get(i).map_or(default, String::as_str);
    let preset = find_preset(word(0, "aix-4b"))?;
    let target: Target = word(1, "sm_90").parse()?;
    let quant = QuantOptions { format: word(2, "keep").parse()?, ..QuantOptions::default() };
    let options = CompileOptions {
        quant,
        stop_after: Some(PLAN.into()),
        ..CompileOptions::new(target, Activations::default_for(target))
    };
    println!("{} for {target}, weights {}, least of {RUNS} runs in ms", word(0, "aix-4b"), word(2, "keep"));
    let heads: String = timed().map(|pass| format!("{pass:>10}")).collect();
    println!("{:>6}{heads}{:>13}{:>9}", "layers", "fuse + plan", "a layer");
    for layers in LAYERS {
        let mut least: Option<Vec<Duration>> = None;
        for _ in 0..RUNS {
            let mut checkpoint = preset.describe(Some(layers))?;
            let outcome = pipeline::compile(&mut checkpoint, Path::new(""), &options, &Registry::default(), &Silent)?;
            let times = times(&outcome);
            least = Some(match least {
                Some(least) => least.into_iter().zip(times).map(|(a, b)| a.min(b)).collect(),
                None => times,
            });
        }
        print_row(layers, &least.unwrap_or_default());
    }
    Ok(())
}

/// The passes that need no compiler for GPUs.
fn timed() -> impl Iterator<Item = &'static str> {
    pass_names().take_while(|name| *name != EMIT)
}

/// The time of each pass, in the order of the list.
fn times(outcome: &Outcome) -> Vec<Duration> {
    let Timings(passes) = outcome.timings();
    timed().map(|name| passes.iter().filter(|p| p.pass == name).map(|p| p.time).sum()).collect()
}

fn print_row(layers: u64, times: &[Duration]) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let all: String = times.iter().map(|time| format!("{:>10.1}", milliseconds(*time))).collect();
    let both: Duration =
        timed().zip(times).filter(|(name, _)| matches!(*name, "fuse" | "plan")).map(|(_, time)| *time).sum();
    println!("{layers:>6}{all}{:>13.1}{:>9.2}", milliseconds(both), milliseconds(both) / layers as f64);
}
