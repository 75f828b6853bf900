//! `cargo xtask test`: every check, one after the other, with a summary.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::test_output::run_tests;
use crate::workspace::{cargo, succeed, target_folder};
use crate::{abi, clients, licences, quality};

/// How much is checked; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// What takes no model.
    Quick,
    /// What is run before every change.
    Usual,
    /// Everything, what takes more than half an hour too.
    All,
}

/// A check and what it is called.
struct Step {
    name: &'static str,
    /// The least extent that includes it.
    from: Extent,
    check: fn() -> Result<()>,
    /// What the machine lacks for it, where it can be done without.
    lacks: fn() -> Option<&'static str>,
}

impl Step {
    /// A check that every machine must pass.
    const fn new(name: &'static str, from: Extent, check: fn() -> Result<()>) -> Step {
        Step { name, from, check, lacks: || None }
    }

    /// A check that is skipped, by name, where the machine lacks what it takes.
    const fn unless(self, lacks: fn() -> Option<&'static str>) -> Step {
        Step { lacks, ..self }
    }
}

/// All of them, the cheap ones first.
const STEPS: &[Step] = &[
    Step::new("format", Extent::Quick, format),
    Step::new("licences of dependencies", Extent::Quick, licences::run),
    Step::new("generated kernel ABI is fresh", Extent::Quick, || abi::run(true)),
    Step::new("lints", Extent::Quick, lints),
    Step::new("tests", Extent::Quick, tests),
    Step::new("a real model, end to end", Extent::Usual, quality::run),
    Step::new("client packages against a served model", Extent::Usual, clients::packages),
    Step::new("a server keeps to its OpenAPI document", Extent::Usual, clients::document),
    Step::new("chat page in Chromium", Extent::Usual, clients::page)
        .unless(|| clients::browser().is_none().then_some(clients::NO_BROWSER)),
    Step::new("no product spills on any GPU", Extent::All, || ignored_tests("gates")),
    Step::new("every fixture on the simulator", Extent::All, || ignored_tests("simulated")),
];

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed(String),
    Skipped(&'static str),
}

/// How a step ended and how long it took.
struct Outcome {
    name: &'static str,
    verdict: Verdict,
    time: Duration,
}

/// Runs the steps of an extent, also after one has failed; says which are left out; fails if any did.
pub fn run(extent: Extent) -> Result<()> {
    let result = conclude(STEPS.iter().filter(|s| s.from <= extent).map(run_step).collect());
    for step in STEPS.iter().filter(|s| s.from > extent) {
        eprintln!("left out {}", step.name);
    }
    result
}

/// Runs the steps whose names contain a text; fails if any did, or there is none.
pub fn run_named(text: &str) -> Result<()> {
    let steps: Vec<&Step> = STEPS.iter().filter(|s| s.name.contains(text)).collect();
    if steps.is_empty() {
        let names: Vec<&str> = STEPS.iter().map(|s| s.name).collect();
        bail!("no check has {text:?} in its name; there are: {}", names.join(", "));
    }
    conclude(steps.into_iter().map(run_step).collect())
}

/// The summary. What failed is said again at the end, where a log that is cut off still has it.
fn conclude(outcomes: Vec<Outcome>) -> Result<()> {
    let mut failed = Vec::new();
    for outcome in &outcomes {
        if let Verdict::Failed(error) = &outcome.verdict {
            eprintln!("\n== why {} failed\n{error}", outcome.name);
            failed.push(outcome.name);
        }
    }
    eprintln!("\n== summary");
    for outcome in &outcomes {
        let (name, seconds) = (outcome.name, outcome.time.as_secs_f64());
        match outcome.verdict {
            Verdict::Passed => eprintln!("passed   {name:<40} {seconds:>6.1} s"),
            Verdict::Failed(_) => eprintln!("FAILED   {name:<40} {seconds:>6.1} s"),
            Verdict::Skipped(reason) => eprintln!("skipped  {name} ({reason})"),
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn run_step(step: &Step) -> Outcome {
    eprintln!("\n== {}", step.name);
    let start = Instant::now();
    let verdict = match (step.lacks)() {
        Some(reason) => Verdict::Skipped(reason),
        None => (step.check)().map_or_else(
            |error| {
                eprintln!("error: {error:#}");
                Verdict::Failed(format!("{error:#}"))
            },
            |()| Verdict::Passed,
        ),
    };
    let outcome = Outcome { name: step.name, verdict, time: start.elapsed() };
    eprintln!("-- {:.1} s", outcome.time.as_secs_f64());
    outcome
}

fn format() -> Result<()> {
    component("fmt", "rustfmt")?;
    succeed(&mut cargo(&["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    component("clippy", "clippy")?;
    // All targets, and the one that is not among them because `cargo test` must not run it.
    let targets = ["--lib", "--bins", "--tests", "--benches", "--examples", "--test", "gpu"];
    succeed(cargo(&["clippy", "--workspace", "--locked", "--quiet"]).args(targets).args(["--", "--deny", "warnings"]))
}

fn tests() -> Result<()> {
    let table = target_folder()?.join("tmp").join("golden.txt");
    // A table that an earlier run left must not pass for this one's.
    let _ = std::fs::remove_file(&table);
    let result = run_tests(&mut cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]));
    if let Ok(text) = std::fs::read_to_string(&table) {
        eprintln!(
            "\nreference outputs against the cpu device: relative RMS of logits, equal greedy tokens, equal experts\n{text}"
        );
    }
    result
}

/// The tests of a target that take minutes each. All packages are named so that nothing is built otherwise than for the other tests.
fn ignored_tests(target: &str) -> Result<()> {
    let test = ["test", "--workspace", "--test", target, "--locked", "--quiet"];
    succeed(cargo(&test).args(["--", "--ignored", "--nocapture"]))
}

/// Fails with the way out if a cargo sub-command is not installed.
fn component(command: &str, component: &str) -> Result<()> {
    let installed = cargo(&[command, "--version"]).output().is_ok_and(|o| o.status.success());
    if !installed {
        bail!("cargo {command} is missing: run `rustup component add {component}`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_step_is_an_outcome_not_an_end() {
        let failing = Step::new("failing", Extent::Quick, || bail!("on purpose"));
        let passing = Step::new("passing", Extent::Quick, || Ok(()));
        assert_eq!(run_step(&failing).verdict, Verdict::Failed("on purpose".into()));
        assert_eq!(run_step(&passing).verdict, Verdict::Passed);
    }

    #[test]
    fn what_the_machine_lacks_skips_a_step_by_name() {
        let skipped = Step::new("skipped", Extent::Quick, || bail!("never begun")).unless(|| Some("no such thing"));
        assert_eq!(run_step(&skipped).verdict, Verdict::Skipped("no such thing"));
    }

    #[test]
    fn a_missing_component_is_named_with_the_way_out() {
        let error = component("no-such-command", "clippy").unwrap_err().to_string();
        assert!(error.contains("rustup component add clippy"), "{error}");
    }
}
