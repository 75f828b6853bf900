//! `cargo test`, told briefly: a line for each test program with its time, and what failed.
//!
//! Tests that pass say nothing: thousands of lines would push the few that matter out of a log that is cut off.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Most lines of failures that an error holds.
const MOST_LINES: usize = 150;

/// Runs `cargo test` without `--quiet`; prints the result of each test program; an error holds what the failed tests said.
pub fn run_tests(command: &mut Command) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut failures = Failures::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what cargo test says")?;
        let line = String::from_utf8_lossy(&line);
        if failures.take(&line) {
            eprintln!("{line}");
        }
    }
    let status = child.wait().context("cargo test did not end")?;
    if !status.success() {
        bail!("cargo test failed ({status})\n{}", failures.lines.join("\n"));
    }
    Ok(())
}

/// What the failed tests said.
#[derive(Default)]
struct Failures {
    lines: Vec<String>,
    /// Between the heading of failures and the result of their program.
    within: bool,
}

impl Failures {
    /// Takes a line of the tests' output; says whether it is worth printing.
    fn take(&mut self, line: &str) -> bool {
        let result = line.starts_with("test result:");
        self.within = !result && (self.within || line == "failures:");
        let failed = line.starts_with("test ") && line.ends_with("FAILED");
        if (self.within || failed) && self.lines.len() < MOST_LINES {
            self.lines.push(line.to_owned());
        }
        self.within || failed || result && !line.contains(" 0 passed; 0 failed; 0 ignored")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 2 tests
test good ... ok
test bad ... FAILED

failures:

---- bad stdout ----
thread 'bad' panicked at src/lib.rs:1:1:
no

failures:
    bad

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn failures_are_kept_and_passed_tests_left_out() {
        let mut failures = Failures::default();
        let printed: Vec<&str> = OUTPUT.lines().filter(|line| failures.take(line)).collect();
        assert!(failures.lines.contains(&"test bad ... FAILED".to_owned()));
        assert!(failures.lines.iter().any(|l| l.contains("panicked at src/lib.rs")));
        assert!(!failures.lines.iter().any(|l| l.contains("good") || l.contains("test result")));
        assert!(printed.iter().any(|l| l.starts_with("test result: FAILED")));
        assert!(!printed.iter().any(|l| l.contains("good") || l.contains("running") || l.contains(" ok. 0 passed")));
    }

    #[test]
    fn a_failing_run_is_an_error_with_what_was_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'test a::b ... FAILED\\n'; exit 101"]);
        let error = run_tests(&mut command).unwrap_err().to_string();
        assert!(error.contains("a::b") && error.contains("101"), "{error}");
    }
}
