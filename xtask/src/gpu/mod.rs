//! `cargo xtask gpu`: everything that a machine with a GPU can tell, within nine minutes: checks, then measurements, and a file of results.
//!
//! The machine may have a driver and nothing else. What runs there was built on another by `--prepare`; nothing is fetched, and each step has a
//! limit, so that one that hangs costs neither the others nor the results of those before it.

mod benches;
mod checks;
mod figures;
mod packed;
mod results;
mod step;
mod tools;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace;
use packed::Binaries;
use results::Results;
use step::{Budget, Runner};
use tools::Tools;

/// All steps together; writing results comes after.
const TIME: Duration = Duration::from_secs(525);

/// Making models, so that what is made can still be measured.
const MAKING: Duration = Duration::from_secs(280);

/// What the command line says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    json: bool,
    /// The command `moesaic`, already built.
    binary: Option<PathBuf>,
    /// A folder that `--prepare` wrote.
    binaries: Option<PathBuf>,
    prepare: Option<PathBuf>,
    /// The results file; by default it is named by GPU and day.
    out: Option<PathBuf>,
}

impl Options {
    /// `None` for wrong usage.
    fn parse(args: &[&str]) -> Option<Options> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let place = match *name {
                "--json" => {
                    options.json = true;
                    continue;
                }
                "--binary" => &mut options.binary,
                "--binaries" => &mut options.binaries,
                "--prepare" => &mut options.prepare,
                "--out" => &mut options.out,
                _ => return None,
            };
            *place = Some(args.next().filter(|path| !path.is_empty())?.into());
        }
        Some(options)
    }
}

/// Prepares a folder, or checks and measures; `None` for wrong usage.
pub fn run(args: &[&str]) -> Option<Result<()>> {
    let options = Options::parse(args)?;
    Some(match &options.prepare {
        Some(folder) => packed::prepare(folder),
        None => check_and_measure(&options),
    })
}

fn check_and_measure(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let binaries = binaries(options, &folder.path().join("unpacked"))?;
    let tools = Tools { binaries, work: folder.path().join("work") };
    std::fs::create_dir_all(&tools.work)?;
    let machine = machine(&tools)?;
    let results = steps(&tools, machine, Budget::new(TIME));
    let path = options.out.clone().unwrap_or_else(|| results.path(&workspace::root().join("benches/results")));
    let json = serde_json::to_string_pretty(&results.json())? + "\n";
    step::write_whole(&path, json.as_bytes())?;
    match options.json {
        true => print!("{json}"),
        false => print!("{}", results.table()),
    }
    eprintln!("written to {}", path.display());
    match results.failed().as_slice() {
        [] => Ok(()),
        failed => bail!("failed: {}", failed.join(", ")),
    }
}

/// Those of a prepared folder, the one that is named, or those of this working tree.
fn binaries(options: &Options, into: &Path) -> Result<Binaries> {
    let mut binaries = match (&options.binaries, &options.binary) {
        (Some(folder), _) => packed::unpack(folder, into)?,
        (None, Some(_)) => Binaries { commit: packed::commit(), ..Binaries::default() },
        (None, None) => packed::build()?,
    };
    if let Some(path) = &options.binary {
        binaries.moesaic = path.canonicalize().with_context(|| format!("--binary {}", path.display()))?;
    }
    Ok(binaries)
}

/// What `doctor` says of a machine with a GPU; without one, what `--device cuda` says is missing.
fn machine(tools: &Tools) -> Result<Value> {
    let output = tools.moesaic(&["doctor", "--json"]).output().context("cannot start moesaic")?;
    if !output.status.success() {
        bail!("moesaic doctor failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let machine: Value = serde_json::from_slice(&output.stdout).context("moesaic doctor gave no JSON")?;
    let has_gpu = machine["gpus"].as_array().is_some_and(|gpus| !gpus.is_empty());
    if has_gpu { Ok(machine) } else { bail!("{}", missing(tools, &machine)) }
}

/// The error of `run --device cuda`; of a machine that cannot even compile for a GPU, what `doctor` found.
fn missing(tools: &Tools, machine: &Value) -> String {
    let artifact = tools.artifact("probe");
    let mut compile = tools.moesaic(&["compile", "--target", "sm_90"]);
    // A failure leaves no artifact, which the next command says.
    let compiled = compile.arg(tools.fixture()).arg("-o").arg(&artifact).output().is_ok_and(|o| o.status.success());
    let mut run = tools.moesaic(&["run", "--device", "cuda", "-p", "Hello", "-n", "1"]);
    let said = compiled.then(|| checks::error_line(run.arg(&artifact)).ok()).flatten();
    said.unwrap_or_else(|| format!("device cuda: {}", machine["cuda"].as_str().unwrap_or("no GPU")))
}

/// Runs all steps. Models are made while the checks run, which are not timed.
fn steps(tools: &Tools, machine: Value, budget: Budget) -> Results {
    let (start, date) = (Instant::now(), results::now());
    let target = machine["gpus"][0]["target"].as_str().unwrap_or("sm_80").to_string();
    let mut runner = Runner::new(budget);
    let gpu = benches::gpu(&mut runner, tools);
    let mut models = Vec::new();
    if benches::make(&mut runner, tools, &benches::SMOKE, &target) {
        models.push(benches::measure(&mut runner, tools, &benches::SMOKE));
    }
    let made = std::thread::scope(|scope| {
        let making = scope.spawn(|| {
            let mut runner = Runner::new(budget.at_most(MAKING));
            for bench in benches::BENCHES {
                benches::make(&mut runner, tools, bench, &target);
            }
            runner.outcomes
        });
        checks::first(&mut runner, tools);
        making.join().unwrap_or_default()
    });
    runner.outcomes.extend(made);
    models.extend(benches::BENCHES.iter().map(|bench| benches::measure(&mut runner, tools, bench)));
    checks::last(&mut runner, tools, &tools.artifact(benches::SMOKE.name));
    Results {
        date,
        commit: tools.binaries.commit.clone(),
        machine,
        gpu,
        steps: runner.outcomes,
        models,
        seconds: start.elapsed().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests;
