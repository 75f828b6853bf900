//! Real clients against a served model: the packages that people use, schemathesis, and Chromium on the chat page.
//!
//! They run in a virtual environment of pinned packages, kept in the cache under the hash of the pins. What they ask stands in
//! tests/clients; here is the server they ask and the order in which it must end.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::{build_tested_moesaic, cache, python, root, succeed};
use crate::{demo, workspace};

/// The key of the servers started here, which are reached from this machine only.
const KEY: &str = "key-of-a-test";
/// Where Chromium may be, in the order of preference.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// openai, anthropic, langchain-openai and litellm.
pub fn packages() -> Result<()> {
    against("conformance.py", &["--kv-tokens", "16k"], &[demo::MODEL])
}

/// The server keeps to its OpenAPI document. Sequences are short so that no generated request computes for long.
pub fn document() -> Result<()> {
    against("document.py", &["--max-model-len", "256", "--kv-tokens", "8k"], &[demo::MODEL])
}

/// The chat page, in a browser.
pub fn page() -> Result<()> {
    let browser = browser().context(NO_BROWSER)?;
    against("page.py", &["--max-model-len", "4k"], &[&browser.to_string_lossy()])
}

/// What the page's test is skipped for.
pub const NO_BROWSER: &str = "no browser found: install chromium";

/// Chromium, or a browser that is made of it.
pub fn browser() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let in_order = BROWSERS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    in_order.into_iter().find(|path| path.is_file())
}

/// Runs a script of tests/clients against a server of its own, which must end in order afterwards.
fn against(script: &str, serve: &[&str], args: &[&str]) -> Result<()> {
    let interpreter = environment()?;
    let moesaic = build_tested_moesaic()?;
    let artifact = demo::embedding_artifact(&moesaic)?;
    let server = Server::start(&moesaic, &artifact, serve)?;
    let mut command = Command::new(interpreter);
    command.arg(folder().join(script)).arg(&server.url).arg(KEY).args(args).current_dir(folder());
    // Nothing but the server is asked, not by way of a proxy either.
    for (name, value) in [("HF_HUB_OFFLINE", "1"), ("NO_PROXY", "127.0.0.1"), ("PYTHONDONTWRITEBYTECODE", "1")] {
        command.env(name, value);
    }
    for (name, value) in [("ANONYMIZED_TELEMETRY", "false"), ("LANGSMITH_TRACING", "false")] {
        command.env(name, value);
    }
    succeed(&mut command)?;
    server.stop()
}

fn folder() -> PathBuf {
    root().join("tests").join("clients")
}

/// A virtual environment with the pinned packages; gives its Python.
fn environment() -> Result<PathBuf> {
    let pins = folder().join("requirements.txt");
    let text = fs::read_to_string(&pins).with_context(|| pins.display().to_string())?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let folder = cache().join(format!("clients-{:016x}", hasher.finish()));
    let (interpreter, ready) = (folder.join("bin").join("python"), folder.join("ready"));
    if !ready.is_file() {
        eprintln!("installing the client packages of {} (once)", pins.display());
        succeed(python().args(["-m", "venv", "--clear"]).arg(&folder))?;
        let mut pip = Command::new(&interpreter);
        pip.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--requirement"]).arg(&pins);
        succeed(&mut pip)?;
        fs::write(&ready, text)?;
    }
    Ok(interpreter)
}

/// `moesaic serve`, ended when it is dropped.
struct Server {
    process: Child,
    url: String,
    log: PathBuf,
}

impl Server {
    /// Starts it on a free port of this machine; it is ready when it says where it is.
    fn start(moesaic: &Path, artifact: &Path, args: &[&str]) -> Result<Server> {
        let folder = workspace::target_folder()?.join("tmp");
        fs::create_dir_all(&folder)?;
        let log = folder.join("served-to-clients.log");
        let mut command = Command::new(moesaic);
        command.arg("serve").arg(artifact).args(["--port", "0", "--api-key", KEY, "--served-model-name", demo::MODEL]);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log)?);
        let mut process = command.spawn().context("cannot start moesaic serve")?;
        let output = process.stdout.take().context("moesaic serve has no output")?;
        let mut server = Server { process, url: String::new(), log };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let Some(url) = address(&line) else {
            bail!("moesaic serve did not start:\n{}", server.last_words());
        };
        server.url = url.to_owned();
        Ok(server)
    }

    /// Asks it to end as a service manager does; it must do so without an error.
    fn stop(mut self) -> Result<()> {
        succeed(Command::new("kill").args(["-TERM", &self.process.id().to_string()]))?;
        let status = self.process.wait()?;
        if !status.success() {
            bail!("moesaic serve ended with {status} after SIGTERM:\n{}", self.last_words());
        }
        Ok(())
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where it was stopped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address in the line that says that a server is ready.
fn address(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with("http://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_what_the_server_says() {
        let line = "serving SmolLM2 at http://127.0.0.1:4321 (chat page there)\n";
        assert_eq!(address(line), Some("http://127.0.0.1:4321"));
        assert_eq!(address(""), None);
    }

    #[test]
    fn a_server_that_does_not_start_is_reported_with_its_last_words() {
        let error = Server::start(Path::new("false"), Path::new("absent"), &[]).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("did not start"), "{error}");
    }
}
