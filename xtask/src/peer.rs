//! Measurements beside llama.cpp on the same file, through its Python package, built from source for this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::pins::SMOLLM2;
use crate::workspace::{build_moesaic, cache, python, root, succeed};
use crate::{demo, quality};

/// The peer and its version.
const PEER: &str = "llama-cpp-python==0.3.36";

/// `cargo xtask bench-peer`; `args` go to the script.
pub fn bench(args: &[&str]) -> Result<()> {
    script("benches/peer.py", args)
}

/// `cargo xtask perplexity`; `args` go to the script.
pub fn perplexity(args: &[&str]) -> Result<()> {
    let text = root().join(quality::TEXT);
    script("benches/perplexity.py", &[&["--text", &*text.to_string_lossy()], args].concat())
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
        let mut pip = Command::new(&interpreter);
        pip.args(["-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", PEER]);
        // Standard output is for the script's figures.
        succeed(pip.stdout(std::io::stderr()))?;
        std::fs::write(&ready, PEER)?;
    }
    Ok(interpreter)
}
