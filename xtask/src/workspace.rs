//! Folders of this workspace and running commands in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
pub use toolchain::cache;

/// The workspace's root; where this was built elsewhere, the current folder.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built_from = manifest.parent().unwrap_or(manifest);
    if built_from.is_dir() { built_from.into() } else { std::env::current_dir().unwrap_or_else(|_| ".".into()) }
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
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start `{program}`; is it installed?"))?;
    if !status.success() {
        bail!("`{program} {}` failed ({status})", arguments(command));
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

/// Cargo's folder for what it builds.
pub fn target_folder() -> Result<PathBuf> {
    let metadata = metadata()?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo metadata names no target folder")
}

/// Builds the `moesaic` binary for release; gives its path, which cargo itself names: target folders can be configured.
pub fn build_moesaic() -> Result<PathBuf> {
    build_executable(
        &["build", "--release", "--locked", "--package", "moesaic-compiler", "--bin", "moesaic"],
        "moesaic",
    )
}

/// The `moesaic` binary that the tests use, with its assertions; compiled only if they have not been built yet.
pub fn build_tested_moesaic() -> Result<PathBuf> {
    build_executable(&["test", "--workspace", "--locked", "--no-run"], "moesaic")
}

/// Builds with these arguments of cargo; gives the path of the executable of the target `name`.
pub fn build_executable(args: &[&str], name: &str) -> Result<PathBuf> {
    let mut build = cargo(args);
    build.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = build.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("building {name} failed ({})", output.status);
    }
    executable(&String::from_utf8_lossy(&output.stdout), name).with_context(|| format!("cargo built no {name}"))
}

/// The executable of the target `name` among cargo's JSON messages, one a line; rather the target itself than its unit tests.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let of_target = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let path = message["executable"].as_str().filter(|_| message["target"]["name"] == name)?;
        Some((message["profile"]["test"] == true, PathBuf::from(path)))
    };
    messages.lines().filter_map(of_target).min_by_key(|(tests, _)| *tests).map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_the_one_of_the_named_target() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"moesaic"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/t/other"}"#,
            "\nno JSON\n",
            r#"{"reason":"compiler-artifact","target":{"name":"moesaic"},"profile":{"test":true},"executable":"/t/moesaic-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"moesaic"},"executable":"/t/release/moesaic"}"#,
        );
        assert_eq!(executable(messages, "moesaic"), Some(PathBuf::from("/t/release/moesaic")));
        assert_eq!(executable(messages, "moesaic-runtime"), None);
    }

    #[test]
    fn a_failed_command_is_named_with_its_status() {
        let error = succeed(python().args(["-c", "import sys; sys.exit(3)"])).unwrap_err().to_string();
        assert!(error.contains("python3 -c") && error.contains('3'), "{error}");
        let error = format!("{:#}", succeed(&mut Command::new("no-such-program-here")).unwrap_err());
        assert!(error.contains("no-such-program-here") && error.contains("installed"), "{error}");
    }
}
