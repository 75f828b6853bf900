//! `cargo xtask demo`: from nothing to an answer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::Result;

use crate::pins::SMOLLM2;
use crate::workspace::{build_moesaic, cache, succeed};

/// What is asked when nothing else is.
pub const PROMPT: &str = "What makes the sky blue? Answer in two sentences.";

/// Builds, fetches, compiles, answers. A second run starts from the artifact.
pub fn run(prompt: &str) -> Result<()> {
    let moesaic = build_moesaic()?;
    let artifact = artifact(&moesaic)?;
    let mut answer = Command::new(&moesaic);
    answer.arg("run").arg(&artifact).args(["--chat", "--temperature", "0", "--max-tokens", "200", "--stats"]);
    succeed(answer.arg(format!("--prompt={prompt}")))
}

/// The name of the demonstration's model.
pub const MODEL: &str = "SmolLM2-135M-Instruct";

/// The demonstration's model, compiled by this very build.
pub fn artifact(moesaic: &Path) -> Result<PathBuf> {
    compiled(moesaic, &format!("{MODEL}.moesaic"), &[])
}

/// The same, able to give embeddings.
pub fn embedding_artifact(moesaic: &Path) -> Result<PathBuf> {
    compiled(moesaic, &format!("{MODEL}-embeddings.moesaic"), &["--embeddings"])
}

fn compiled(moesaic: &Path, name: &str, args: &[&str]) -> Result<PathBuf> {
    let artifact = cache().join("artifacts").join(name);
    if !is_current(&artifact, moesaic) {
        let model = SMOLLM2.fetch()?;
        succeed(Command::new(moesaic).arg("compile").arg(&model).args(args).arg("-o").arg(&artifact))?;
    }
    Ok(artifact)
}

/// Whether the artifact is younger than the compiler and accepted by it.
fn is_current(artifact: &Path, moesaic: &Path) -> bool {
    let inspect = || Command::new(moesaic).arg("inspect").arg(artifact).arg("--json").output();
    is_younger(&artifact.join("manifest.json"), moesaic) && inspect().is_ok_and(|o| o.status.success())
}

/// Whether `file` was written after `other`; a file that cannot be asked was not.
fn is_younger(file: &Path, other: &Path) -> bool {
    let modified = |path: &Path| -> Option<SystemTime> { path.metadata().ok()?.modified().ok() };
    matches!((modified(file), modified(other)), (Some(file), Some(other)) if file > other)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use super::is_younger;

    #[test]
    fn an_artifact_older_than_the_compiler_is_not_current() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::write(&new, "").unwrap();
        File::create(&old).unwrap().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        assert!(is_younger(&new, &old));
        assert!(!is_younger(&old, &new));
        assert!(!is_younger(&folder.path().join("absent"), &old));
    }
}
