//! `cargo xtask test`: every check, one after the other, with a summary.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::workspace::{cargo, succeed, target_folder};
use crate::{abi, licences, quality};

/// How much is checked; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// What takes no release build and no model.
    Quick,
    /// What is run before every change.
    Usual,
    /// Everything, what takes half an hour too.
    All,
}

/// A check and what it is called.
struct Step {
    name: &'static str,
    /// The least extent that includes it.
    from: Extent,
    check: fn() -> Result<()>,
}

/// All of them, the cheap ones first.
const STEPS: &[Step] = &[
    Step { name: "format", from: Extent::Quick, check: format },
    Step { name: "licences of dependencies", from: Extent::Quick, check: licences::run },
    Step { name: "generated kernel ABI is fresh", from: Extent::Quick, check: || abi::run(true) },
    Step { name: "lints", from: Extent::Quick, check: lints },
    Step { name: "tests", from: Extent::Quick, check: tests },
    Step { name: "a real model, end to end", from: Extent::Usual, check: quality::run },
    Step { name: "every fixture on the simulator", from: Extent::All, check: simulated },
];

/// How a step ended and how long it took.
struct Outcome {
    name: &'static str,
    passed: bool,
    time: Duration,
}

/// Runs the steps of an extent, also after one has failed; fails if any did.
pub fn run(extent: Extent) -> Result<()> {
    let outcomes: Vec<Outcome> = STEPS.iter().filter(|s| s.from <= extent).map(run_step).collect();
    eprintln!("\n== summary");
    for outcome in &outcomes {
        let verdict = if outcome.passed { "passed" } else { "FAILED" };
        eprintln!("{verdict}  {:<30} {:>6.1} s", outcome.name, outcome.time.as_secs_f64());
    }
    for step in STEPS.iter().filter(|s| s.from > extent) {
        eprintln!("left out  {}", step.name);
    }
    let failed: Vec<&str> = outcomes.iter().filter(|o| !o.passed).map(|o| o.name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn run_step(step: &Step) -> Outcome {
    eprintln!("\n== {}", step.name);
    let start = Instant::now();
    let result = (step.check)();
    if let Err(error) = &result {
        eprintln!("error: {error:#}");
    }
    let outcome = Outcome { name: step.name, passed: result.is_ok(), time: start.elapsed() };
    eprintln!("-- {:.1} s", outcome.time.as_secs_f64());
    outcome
}

fn format() -> Result<()> {
    component("fmt", "rustfmt")?;
    succeed(&mut cargo(&["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    component("clippy", "clippy")?;
    succeed(&mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "--deny", "warnings"]))
}

fn tests() -> Result<()> {
    let table = target_folder()?.join("tmp").join("golden.txt");
    // A table that an earlier run left must not pass for this one's.
    let _ = std::fs::remove_file(&table);
    let result = succeed(&mut cargo(&["test", "--workspace", "--locked", "--quiet"]));
    if let Ok(text) = std::fs::read_to_string(&table) {
        eprintln!(
            "\nreference outputs against the cpu device: relative RMS of logits, equal greedy tokens, equal experts\n{text}"
        );
    }
    result
}

/// The tests that take minutes each.
fn simulated() -> Result<()> {
    let test = ["test", "--package", "moesaic-tests", "--test", "simulated", "--locked", "--quiet"];
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
        let failing = Step { name: "failing", from: Extent::Quick, check: || bail!("on purpose") };
        let passing = Step { name: "passing", from: Extent::Quick, check: || Ok(()) };
        assert!(!run_step(&failing).passed);
        assert!(run_step(&passing).passed);
    }

    #[test]
    fn a_missing_component_is_named_with_the_way_out() {
        let error = component("no-such-command", "clippy").unwrap_err().to_string();
        assert!(error.contains("rustup component add clippy"), "{error}");
    }
}
