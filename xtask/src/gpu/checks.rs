//! What a GPU must do right: tests that were built beforehand, run there, and NVIDIA's sanitizer where it is installed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::step::Runner;
use super::tools::Tools;

/// Which executable a check is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    Models,
    Kernels,
}

/// A check: its name, executable, tests whose names begin so (all where empty), and most seconds.
struct Check {
    name: &'static str,
    of: In,
    tests: &'static [&'static str],
    seconds: u64,
}

const fn check(name: &'static str, of: In, tests: &'static [&'static str], seconds: u64) -> Check {
    Check { name, of, tests, seconds }
}

/// The most telling first: what comes last is skipped where time runs out.
const FIRST: &[Check] = &[
    check("golden parity, f32: logits, greedy, experts", In::Models, &["parity::every_fixture"], 110),
    check("simulator and GPU: the same bits", In::Models, &["equality::"], 45),
    check("batch invariance", In::Models, &["parity::bits_do_not_depend"], 30),
    check("golden parity, f16 and f32: pieces, batches", In::Models, &["simulated::every_fixture"], 75),
    check("prefix cache: the same bits", In::Models, &["prefix_cache::logits_have", "prefix_cache::shuffled"], 30),
];

/// After the measurements.
const LAST: &[Check] = &[
    check("kernels beside the interpreter on random shapes", In::Kernels, &[], 100),
    check("golden parity of GGUF conversions", In::Models, &["parity::gguf_conversions"], 20),
    check("fusion leaves every bit", In::Models, &["simulated::exact_fusion_leaves_every_bit"], 30),
];

/// Those before the measurements.
pub fn first(runner: &mut Runner, tools: &Tools) {
    FIRST.iter().for_each(|check| run(runner, tools, check));
}

/// Those after them, and the sanitizer on an artifact.
pub fn last(runner: &mut Runner, tools: &Tools, artifact: &Path) {
    LAST.iter().for_each(|check| run(runner, tools, check));
    sanitize(runner, tools, artifact);
}

fn run(runner: &mut Runner, tools: &Tools, check: &Check) {
    let executable = match check.of {
        In::Models => tools.binaries.models.as_deref(),
        In::Kernels => tools.binaries.kernels.as_deref(),
    };
    let Some(executable) = executable else {
        return runner.skip(check.name, "its executable is not there: --binaries, or cargo");
    };
    let mut command = tools.command(executable);
    command.env("MOESAIC_TEST_DEVICE", "cuda").arg("--include-ignored").args(check.tests);
    runner.judge(check.name, Duration::from_secs(check.seconds), &mut command, some_passed);
}

/// A filter that fits no test passes too, for the test executable; not here.
fn some_passed(output: String) -> Result<()> {
    let line = output.lines().rfind(|line| line.starts_with("test result:")).context("no test said how it ended")?;
    let passed =
        line.split_whitespace().zip(line.split_whitespace().skip(1)).find(|(_, word)| word.starts_with("passed"));
    match passed.and_then(|(count, _)| count.parse().ok()) {
        Some(0u64) | None => bail!("no test ran: {line}"),
        Some(_) => Ok(()),
    }
}

/// Accesses and races of a few generated tokens, by compute-sanitizer.
fn sanitize(runner: &mut Runner, tools: &Tools, artifact: &Path) {
    for tool in ["memcheck", "racecheck"] {
        let name = format!("compute-sanitizer {tool}");
        let path = std::env::var_os("PATH").unwrap_or_default();
        match sanitizer(&path) {
            None => runner.skip(&name, "compute-sanitizer is not installed"),
            Some(_) if !artifact.is_dir() => runner.skip(&name, "there is no artifact to run"),
            Some(program) => {
                let mut command = tools.command(&program);
                command.args(["--tool", tool, "--error-exitcode", "9"]).arg(&tools.binaries.moesaic);
                command.args(["run", "--device", "cuda", "-p", "Hello", "-n", "4", "--temperature", "0"]).arg(artifact);
                runner.run(&name, Duration::from_secs(40), &mut command);
            }
        }
    }
}

/// The first of a search path, or in the toolkit's usual folder.
fn sanitizer(path: &OsStr) -> Option<PathBuf> {
    let folders = std::env::split_paths(path).chain([PathBuf::from("/usr/local/cuda/bin")]);
    folders.map(|folder| folder.join("compute-sanitizer")).find(|file| file.is_file())
}

/// A command's error line, as a user meets it.
pub fn error_line(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("error: "));
    line.map(str::to_string).with_context(|| format!("{} ended without an error", command.get_program().display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_filter_that_fits_nothing_does_not_pass() {
        let line = |passed| {
            format!("\nrunning 1 test\ntest result: ok. {passed} passed; 0 failed; 0 ignored; finished in 0.1s\n")
        };
        assert!(some_passed(line(2)).is_ok());
        assert!(some_passed(line(0)).unwrap_err().to_string().contains("no test ran"));
        assert!(some_passed("running\n".into()).is_err());
    }

    #[test]
    fn a_sanitizer_is_found_in_the_search_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("compute-sanitizer");
        fs::write(&file, "").unwrap();
        let path = std::env::join_paths([Path::new("/no/such/folder"), folder.path()]).unwrap();
        assert_eq!(sanitizer(&path), Some(file));
    }

    /// Tests are named by the beginnings of their names; a renamed one would be left out in silence.
    #[test]
    fn the_tests_that_are_named_exist() {
        let folder = crate::workspace::root().join("tests/tests");
        for (beginning, check) in FIRST.iter().chain(LAST).flat_map(|check| check.tests.iter().map(move |t| (t, check)))
        {
            let (module, function) = beginning.split_once("::").unwrap();
            let files = [folder.join(format!("{module}.rs")), folder.join(format!("gpu/{module}.rs"))];
            let text =
                files.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_else(|| panic!("{beginning}"));
            assert!(
                text.contains(&format!("#[test]\nfn {function}")) || text.contains(&format!("]\nfn {function}")),
                "{}",
                check.name
            );
        }
    }

    #[test]
    fn errors_are_the_line_a_user_meets() {
        let shell = |script: &str| error_line(Command::new("sh").args(["-c", script]));
        assert_eq!(
            shell("echo 'error: device cuda: no CUDA driver' >&2; exit 1").unwrap(),
            "device cuda: no CUDA driver"
        );
        assert!(shell("true").is_err());
    }
}
