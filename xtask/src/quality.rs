//! The whole way on a real model: compiled, and judged by what it predicts.
//!
//! Small fixtures cannot show a wrong scale or a lost bit in thousands of blocks; the perplexity of a real text can. The peer's
//! figure was measured once and stands here, so that this check needs no peer.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::demo;
use crate::workspace::{build_tested_moesaic, root};

/// The text, its licence beside it.
pub const TEXT: &str = "benches/data/english.txt";
/// What llama.cpp gives for the same file and text in windows of 512 tokens, by `cargo xtask perplexity`.
const PEER: f64 = 18.1156;
/// Relative difference that is still the same quality: the peer rounds activations in its own order.
const TOLERANCE: f64 = 0.005;

/// Fails if the demonstration's model is worse than it should be.
pub fn run() -> Result<()> {
    let moesaic = build_tested_moesaic()?;
    let artifact = demo::artifact(&moesaic)?;
    let output = Command::new(&moesaic)
        .arg("perplexity")
        .arg(&artifact)
        .arg("--text")
        .arg(root().join(TEXT))
        .args(["--context", "512", "--json"])
        .output()
        .context("cannot start moesaic")?;
    if !output.status.success() {
        bail!("moesaic perplexity failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    judge(report["perplexity"].as_f64().context("no perplexity in the report")?)
}

fn judge(perplexity: f64) -> Result<()> {
    eprintln!("perplexity {perplexity:.4}, llama.cpp {PEER:.4}");
    let accepted = PEER * (1.0 - TOLERANCE)..PEER * (1.0 + TOLERANCE);
    if !accepted.contains(&perplexity) {
        bail!("perplexity of {TEXT} is {perplexity:.4}, expected {PEER:.4} within {} %", TOLERANCE * 100.0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_quality_passes() {
        assert!(judge(PEER).is_ok() && judge(PEER * 1.004).is_ok() && judge(PEER * 0.996).is_ok());
        for bad in [PEER * 1.01, PEER * 0.99, 0.0, f64::NAN, f64::INFINITY] {
            assert!(judge(bad).is_err(), "{bad}");
        }
    }
}
