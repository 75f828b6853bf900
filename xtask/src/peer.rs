//! Measurements beside llama.cpp on the same file, through its Python package, built from source for this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::pins::SMOLLM2;
use crate::workspace::{build_moesaic, cache, python, root, succeed};
use crate::{demo, quality};

/// A package that holds the peer.
struct Peer {
    /// Name and version.
    package: &'static str,
    /// What pip is told beside it.
    options: &'static [&'static str],
}

/// The library, built from source for this machine.
const LIBRARY: Peer = Peer { package: "llama-cpp-python==0.3.36", options: &["--no-binary", "llama-cpp-python"] };

/// The server, in a package that holds it as a library, as PyPI has it built: for AVX2, not for this machine.
const SERVER: Peer = Peer { package: "xllamacpp==2026.10.11549", options: &[] };

/// `cargo xtask bench-peer`; `args` go to the script.
pub fn bench(args: &[&str]) -> Result<()> {
    script(&LIBRARY, "benches/peer.py", args)
}

/// `cargo xtask bench-serve`; `args` go to the script.
pub fn serve(args: &[&str]) -> Result<()> {
    script(&SERVER, "benches/serve.py", args)
}

/// `cargo xtask perplexity`; `args` go to the script.
pub fn perplexity(args: &[&str]) -> Result<()> {
    let text = root().join(quality::TEXT);
    script(&LIBRARY, "benches/perplexity.py", &[&["--text", &*text.to_string_lossy()], args].concat())
}

/// Runs a script with the peer's Python, telling it where binary, artifact and checkpoint are.
fn script(peer: &Peer, path: &str, args: &[&str]) -> Result<()> {
    let moesaic = build_moesaic()?;
    let artifact = demo::artifact(&moesaic)?;
    let model = SMOLLM2.fetch()?;
    let mut command = Command::new(environment(peer)?);
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
fn environment(peer: &Peer) -> Result<PathBuf> {
    let folder = cache().join(peer.package.replace("==", "-"));
    let interpreter = folder.join("bin").join("python");
    let ready = folder.join("ready");
    if !ready.is_file() {
        eprintln!("installing {} (once; a build from source takes some minutes)", peer.package);
        succeed(python().args(["-m", "venv", "--clear"]).arg(&folder))?;
        let mut pip = Command::new(&interpreter);
        pip.args(["-m", "pip", "install", "--quiet"]).args(peer.options).arg(peer.package);
        // Standard output is for the script's figures.
        succeed(pip.stdout(std::io::stderr()))?;
        std::fs::write(&ready, peer.package)?;
    }
    Ok(interpreter)
}
