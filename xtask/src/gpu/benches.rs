//! What a GPU does in a second: models with random weights, in the shapes of published ones, made where they are measured.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::figures::{Gpu, Model};
use super::step::Runner;
use super::tools::Tools;

/// A model that is measured.
pub struct Bench {
    pub name: &'static str,
    /// The preset of `moesaic synth`; `None` for a fixture.
    preset: Option<&'static str>,
    /// Tokens of context that generation begins with, and prompts measured alone.
    context: &'static str,
    prompts: &'static [&'static str],
    /// Lists of batch sizes, each a step of its own: what does not fit a GPU must not cost what does.
    batches: &'static [&'static str],
    /// Whether its tokenizer and context take a long system prompt.
    prefix: bool,
}

/// The small one, for finding what does not work at all.
pub const SMOKE: Bench =
    Bench { name: "smoke", preset: None, context: "128", prompts: &["256"], batches: &["1,4"], prefix: false };

/// In the order of their weight: what comes last is skipped where time runs out.
pub const BENCHES: &[Bench] =
    &[Bench::of("aix-4b", "aix-4b"), Bench::of("aix-1b", "aix-1b"), Bench::of("llama-3.1-8b", "llama-3.1-8b")];

impl Bench {
    const fn of(name: &'static str, preset: &'static str) -> Bench {
        let preset = Some(preset);
        Bench { name, preset, context: "2048", prompts: &["512", "4096"], batches: &["1,4,16", "64"], prefix: true }
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What the GPU itself does.
pub fn gpu(runner: &mut Runner, tools: &Tools) -> Gpu {
    let mut command = tools.moesaic(&["doctor", "--calibrate", "--device", "cuda", "--json"]);
    runner.judge("copies and launches", seconds(30), &mut command, |text| Gpu::read(&text)).unwrap_or_default()
}

/// Makes the artifact of a model, weights and all; whether it is there.
pub fn make(runner: &mut Runner, tools: &Tools, bench: &Bench, target: &str) -> bool {
    let (name, artifact) = (bench.name, tools.artifact(bench.name));
    let checkpoint = match bench.preset {
        None => tools.fixture(),
        Some(preset) => {
            let folder = tools.work.join(name);
            let mut synth = tools.moesaic(&["synth", preset, "--weights", "int4", "-o"]);
            runner.run(&format!("{name}: random weights"), seconds(120), synth.arg(&folder));
            folder
        }
    };
    let step = format!("{name}: compile for {target}");
    let made = checkpoint.join("config.json").is_file();
    match made {
        true => {
            let mut compile = tools.moesaic(&["compile", "--target", target]);
            if bench.preset.is_some() {
                compile.args(["--quant-head", "q8g32"]);
            }
            runner.run(&step, seconds(150), compile.arg(&checkpoint).arg("-o").arg(&artifact));
        }
        false => runner.skip(&step, "there is no checkpoint"),
    }
    if bench.preset.is_some() {
        // Room for the next one; what cannot be removed goes with the run's folder.
        let _ = fs::remove_dir_all(&checkpoint);
    }
    artifact.is_dir()
}

/// Measures a model; what fails stays absent.
pub fn measure(runner: &mut Runner, tools: &Tools, bench: &Bench) -> Model {
    let (name, artifact) = (bench.name, tools.artifact(bench.name));
    let mut model = Model { name: name.into(), ..Model::default() };
    if !artifact.is_dir() {
        runner.skip(&format!("{name}: measurements"), "there is no artifact");
        return model;
    }
    let mut inspect = tools.moesaic(&["inspect", "--json"]);
    runner.judge(&format!("{name}: launches"), seconds(10), inspect.arg(&artifact), |text| model.add_launches(&text));
    for batches in bench.batches {
        let mut generation = run(tools, &artifact, &["-p", bench.context, "-n", "128", "-r", "2", "--batch", batches]);
        let step = format!("{name}: generation, batch {batches}");
        runner.judge(&step, seconds(60), &mut generation, |text| model.add_generation(&text));
    }
    let mut plain = run(tools, &artifact, &["-p", bench.context, "-n", "128", "-r", "2", "--no-overlap"]);
    let name_plain = format!("{name}: generation without PDL");
    runner.judge(&name_plain, seconds(20), &mut plain, |text| model.add_no_overlap(&text));
    for tokens in bench.prompts {
        let mut prompt = run(tools, &artifact, &["-p", tokens, "-n", "1", "-r", "3"]);
        runner.judge(&format!("{name}: prompt of {tokens}"), seconds(20), &mut prompt, |text| model.add_prompt(&text));
    }
    if bench.prefix {
        let mut long = run(tools, &artifact, &["-p", "512", "-n", "2000", "-r", "1"]);
        runner.judge(&format!("{name}: energy"), seconds(25), &mut long, |text| model.add_energy(&text));
        let mut prefix = run(tools, &artifact, &["--prefix", "-r", "3"]);
        runner.judge(&format!("{name}: first token"), seconds(30), &mut prefix, |text| model.add_first_token(&text));
    }
    model
}

fn run(tools: &Tools, artifact: &Path, args: &[&str]) -> std::process::Command {
    let mut command = tools.moesaic(&["bench", "--device", "cuda", "--json"]);
    command.args(args).arg(artifact);
    command
}
