//! Folders of this workspace and running commands in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's root.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The user's cache folder for what is fetched and built once.
pub fn cache() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|h| h.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("moesaic")
}

/// A cargo command in the workspace.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Python 3.
pub fn python() -> Command {
    Command::new("python3")
}

/// Runs a command to its end; an error names it and its exit status.
pub fn succeed(command: &mut Command) -> Result<()> {
    let name = format!("{} {}", command.get_program().to_string_lossy(), arguments(command));
    let status = command.status().with_context(|| format!("cannot start `{name}`; is it installed?"))?;
    if !status.success() {
        bail!("`{name}` failed ({status})");
    }
    Ok(())
}

fn arguments(command: &Command) -> String {
    command.get_args().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// cargo's description of the workspace.
pub fn metadata() -> Result<serde_json::Value> {
    let output = cargo(&["metadata", "--format-version", "1", "--locked"]).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Builds the `moesaic` binary for release; gives its path.
pub fn build_moesaic() -> Result<PathBuf> {
    succeed(&mut cargo(&["build", "--release", "--locked", "--package", "moesaic-compiler"]))?;
    let metadata = metadata()?;
    let target = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(Path::new(target).join("release").join("moesaic"))
}
