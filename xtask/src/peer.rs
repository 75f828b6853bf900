//! Measurements beside llama.cpp on the same file, through its Python package, built from source for this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::demo;
use crate::wheel::SMOLLM2;
use crate::workspace::{build_moesaic, cache, python, root, succeed};

/// The peer and its version.
const PEER: &str = "llama-cpp-python==0.3.36";

/// `cargo xtask bench-peer`.
pub fn bench() -> Result<()> {
    script("benches/peer.py", &[])
}

/// `cargo xtask perplexity`.
pub fn perplexity() -> Result<()> {
    let text = root().join("benches/data/english.txt");
    script("benches/perplexity.py", &["--text", &text.to_string_lossy()])
}

/// Runs a script with the peer's Python, telling it where binary, artifact and checkpoint are.
fn script(path: &str, args: &[&str]) -> Result<()> {
    let moesaic = build_moesaic()?;
    let artifact = demo::artifact(&moesaic)?;
    let model = SMOLLM2.fetch()?;
    let mut command = Command::new(environment()?);
    command
        .arg(root().join(path))
        .arg("--moesaic")
        .arg(moesaic)
        .arg("--artifact")
        .arg(artifact)
        .arg("--model")
        .arg(model);
    succeed(command.args(args))
}

/// A virtual environment in the cache that has the peer; gives its Python.
fn environment() -> Result<PathBuf> {
    let folder = cache().join(PEER.replace("==", "-"));
    let interpreter = folder.join("bin").join("python");
    let ready = folder.join("ready");
    if !ready.is_file() {
        eprintln!("building {PEER} (some minutes, once)");
        succeed(python().args(["-m", "venv", "--clear"]).arg(&folder))?;
        succeed(Command::new(&interpreter).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-binary",
            "llama-cpp-python",
            PEER,
        ]))?;
        std::fs::write(&ready, PEER)?;
    }
    Ok(interpreter)
}
