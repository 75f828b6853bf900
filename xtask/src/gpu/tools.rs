//! The commands of a run, with the environment they share.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::packed::Binaries;
use crate::workspace;

/// Binaries and folders of a run.
pub struct Tools {
    pub binaries: Binaries,
    /// What the run writes besides its results.
    pub work: PathBuf,
}

impl Tools {
    /// A program that finds caches and fixtures where this run has them.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.work).env("MOESAIC_REPOSITORY", workspace::root()).env_remove("RUST_BACKTRACE");
        if let Some(cache) = &self.binaries.cache {
            command.env("MOESAIC_CACHE", cache);
        }
        command
    }

    /// The command `moesaic`.
    pub fn moesaic(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.binaries.moesaic);
        command.args(args);
        command
    }

    /// The fixture that stands for a small model.
    pub fn fixture(&self) -> PathBuf {
        workspace::root().join("tests/golden/llama31")
    }

    /// Where the artifact of a model is.
    pub fn artifact(&self, model: &str) -> PathBuf {
        self.work.join(format!("{model}.moesaic"))
    }
}
