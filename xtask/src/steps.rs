//! `cargo xtask test`: every check, one after the other, with a summary.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::workspace::{cargo, succeed};
use crate::{abi, licences};

/// A check and what it is called.
struct Step {
    name: &'static str,
    check: fn() -> Result<()>,
}

/// All of them, the cheap ones first.
const STEPS: &[Step] = &[
    Step { name: "format", check: format },
    Step { name: "licences of dependencies", check: licences::run },
    Step { name: "generated kernel ABI is fresh", check: || abi::run(true) },
    Step { name: "lints", check: lints },
    Step { name: "tests", check: tests },
];

/// Runs all steps, also after one has failed, and fails if any did.
pub fn run() -> Result<()> {
    let mut results = Vec::new();
    for step in STEPS {
        eprintln!("== {}", step.name);
        let start = Instant::now();
        let result = (step.check)();
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        results.push((step.name, result.is_ok(), start.elapsed()));
    }
    eprintln!("==");
    for (name, passed, time) in &results {
        eprintln!("{} {name} ({:.0} s)", if *passed { "passed" } else { "FAILED" }, time.as_secs_f64());
    }
    let failed: Vec<&str> = results.iter().filter(|(_, passed, _)| !passed).map(|(name, ..)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
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
    succeed(&mut cargo(&["test", "--workspace", "--locked", "--quiet"]))
}

/// Fails with the way out if a cargo sub-command is not installed.
fn component(command: &str, component: &str) -> Result<()> {
    let installed = cargo(&[command, "--version"]).output().is_ok_and(|o| o.status.success());
    if !installed {
        bail!("cargo {command} is missing: run `rustup component add {component}`");
    }
    Ok(())
}
