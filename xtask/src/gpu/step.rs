//! Steps of a run on a GPU machine: a command with a time limit, and how it ended.
//!
//! A step that hangs must not cost the others their time, so each runs in a process group of its own that is ended at the limit. Output goes to
//! files: a pipe nobody reads would stop the step.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long a step takes to be noticed as ended.
const POLL: Duration = Duration::from_millis(20);

/// Most characters of a reason.
const LONGEST_REASON: usize = 300;

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

impl Verdict {
    /// In one word, as results files have it.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed(_) => "failed",
            Verdict::Skipped(_) => "skipped",
        }
    }

    /// Why, where it did not pass.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Verdict::Passed => None,
            Verdict::Failed(reason) | Verdict::Skipped(reason) => Some(reason),
        }
    }
}

/// A step that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub name: String,
    pub verdict: Verdict,
    pub seconds: f64,
}

/// The time that a whole run may take; steps get what is left.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    end: Instant,
}

impl Budget {
    pub fn new(time: Duration) -> Budget {
        Budget { end: Instant::now() + time }
    }

    /// A part of it, from now on.
    pub fn at_most(self, time: Duration) -> Budget {
        Budget { end: self.end.min(Instant::now() + time) }
    }

    /// Of a step that may take `limit`, what the run can spare.
    fn of(self, limit: Duration) -> Duration {
        limit.min(self.end.saturating_duration_since(Instant::now()))
    }
}

/// Runs commands as steps and keeps how they ended.
pub struct Runner {
    budget: Budget,
    pub outcomes: Vec<Outcome>,
    /// Whether steps are told on standard error as they end.
    loud: bool,
}

impl Runner {
    pub fn new(budget: Budget) -> Runner {
        Runner { budget, outcomes: Vec::new(), loud: true }
    }

    /// One that says nothing: for tests.
    #[cfg(test)]
    pub fn quiet(budget: Budget) -> Runner {
        Runner { loud: false, ..Runner::new(budget) }
    }

    /// Runs a command; its standard output if it ended well.
    pub fn run(&mut self, name: &str, limit: Duration, command: &mut Command) -> Option<String> {
        self.judge(name, limit, command, Ok)
    }

    /// Runs a command whose standard output `read` must understand for the step to pass.
    pub fn judge<T>(
        &mut self,
        name: &str,
        limit: Duration,
        command: &mut Command,
        read: impl FnOnce(String) -> Result<T>,
    ) -> Option<T> {
        let start = Instant::now();
        let time = self.budget.of(limit);
        let result = match time.is_zero() {
            true => Err(Verdict::Skipped("no time is left".into())),
            false => execute(command, time).and_then(|output| read(output).map_err(failed)),
        };
        let (value, verdict) = match result {
            Ok(value) => (Some(value), Verdict::Passed),
            Err(verdict) => (None, verdict),
        };
        self.note(Outcome { name: name.into(), verdict, seconds: start.elapsed().as_secs_f64() });
        value
    }

    /// A step that is not begun.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.note(Outcome { name: name.into(), verdict: Verdict::Skipped(reason.into()), seconds: 0.0 });
    }

    fn note(&mut self, outcome: Outcome) {
        if self.loud {
            eprintln!("{}", line(&outcome));
        }
        self.outcomes.push(outcome);
    }
}

/// An outcome in a line.
pub fn line(outcome: &Outcome) -> String {
    let Outcome { name, verdict, seconds } = outcome;
    match verdict {
        Verdict::Passed => format!("passed   {name:<44} {seconds:>6.1} s"),
        Verdict::Failed(reason) => format!("FAILED   {name:<44} {seconds:>6.1} s  {reason}"),
        Verdict::Skipped(reason) => format!("skipped  {name:<44}           {reason}"),
    }
}

fn failed(error: anyhow::Error) -> Verdict {
    Verdict::Failed(shortened(&format!("{error:#}")))
}

fn execute(command: &mut Command, limit: Duration) -> Result<String, Verdict> {
    let mut run = || -> Result<Ended> {
        let (mut output, mut errors) = (tempfile::tempfile()?, tempfile::tempfile()?);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(errors.try_clone()?).process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let success = wait(child, limit)?;
        Ok(Ended { success, output: contents(&mut output)?, errors: contents(&mut errors)? })
    };
    let ended = run().map_err(failed)?;
    match ended.success {
        Some(true) => Ok(ended.output),
        Some(false) => Err(Verdict::Failed(shortened(&reason(&ended.output, &ended.errors)))),
        None => Err(Verdict::Failed(format!("not done after {} s", limit.as_secs_f64().ceil()))),
    }
}

struct Ended {
    /// `None` if it had to be ended.
    success: Option<bool>,
    output: String,
    errors: String,
}

/// Whether a command ended well; `None` if it was ended with all it had started, for it took longer than it may.
fn wait(mut child: Child, limit: Duration) -> Result<Option<bool>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if start.elapsed() >= limit {
            let group = Pid::from_child(&child);
            // The group may have ended in this moment.
            let _ = kill_process_group(group, Signal::KILL);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

fn contents(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The line of the output that says most: an error of a command, the first panic of a test, else the last one.
fn reason(output: &str, errors: &str) -> String {
    let lines = || errors.lines().chain(output.lines()).map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find_map(|line| line.strip_prefix("error: "));
    let panic = lines().skip_while(|line| !line.contains("panicked at")).nth(1);
    let last = || errors.lines().chain(output.lines()).rfind(|line| !line.trim().is_empty());
    error.or(panic).or_else(last).unwrap_or("it failed without a word").to_string()
}

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST_REASON) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Writes a file whole or not at all.
pub fn write_whole(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file's path has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn verdict(runner: &Runner) -> &Verdict {
        &runner.outcomes.last().unwrap().verdict
    }

    #[test]
    fn steps_pass_fail_and_are_skipped_and_the_next_one_runs() {
        let mut runner = Runner::quiet(Budget::new(LIMIT));
        assert_eq!(runner.run("good", LIMIT, &mut shell("echo 7; echo noise >&2")).as_deref(), Some("7\n"));
        assert_eq!(*verdict(&runner), Verdict::Passed);
        assert_eq!(runner.run("bad", LIMIT, &mut shell("echo one; echo 'error: two  words' >&2; exit 3")), None);
        assert_eq!(*verdict(&runner), Verdict::Failed("two words".into()));
        runner.skip("absent", "no such tool");
        assert_eq!(*verdict(&runner), Verdict::Skipped("no such tool".into()));
        assert_eq!(runner.run("gone", LIMIT, &mut Command::new("no-such-program-here")), None);
        assert!(verdict(&runner).reason().unwrap().contains("no-such-program-here"));
        let number = |text: String| Ok(text.trim().parse::<u32>()?);
        assert_eq!(runner.judge("number", LIMIT, &mut shell("echo 12"), number), Some(12));
        assert_eq!(runner.judge("no number", LIMIT, &mut shell("echo x"), number), None);
        assert_eq!(verdict(&runner).word(), "failed");
        let words: Vec<&str> = runner.outcomes.iter().map(|o| o.verdict.word()).collect();
        assert_eq!(words, ["passed", "failed", "skipped", "failed", "passed", "failed"]);
    }

    /// What the step started ends with it: the file would be written a moment later.
    #[test]
    fn a_step_that_hangs_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("(sleep 1; touch {}) & sleep 1000", folder.path().join("late").display());
        let mut runner = Runner::quiet(Budget::new(LIMIT));
        assert_eq!(runner.run("hangs", Duration::from_millis(100), &mut shell(&script)), None);
        assert_eq!(*verdict(&runner), Verdict::Failed("not done after 1 s".into()));
        std::thread::sleep(Duration::from_millis(1300));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_begins_after_the_end_of_the_run() {
        let mut runner = Runner::quiet(Budget::new(Duration::ZERO));
        assert_eq!(runner.run("late", LIMIT, &mut shell("echo begun")), None);
        assert_eq!(*verdict(&runner), Verdict::Skipped("no time is left".into()));
    }

    #[test]
    fn the_reason_is_the_line_that_says_most() {
        let test =
            "running 2 tests\nthread 'a' (1) panicked at tests/x.rs:5:9:\nllama31: relative RMS 2e-1\nnote: run with\n";
        assert_eq!(reason(test, ""), "llama31: relative RMS 2e-1");
        assert_eq!(reason("a\n", "b\nerror: c\nd\n"), "c");
        assert_eq!(reason("a\nb\n\n", ""), "b");
        assert_eq!(reason("", ""), "it failed without a word");
        assert_eq!(shortened(&"ä".repeat(1000)).chars().count(), LONGEST_REASON + 1);
    }

    #[test]
    fn files_are_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/file.json");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
