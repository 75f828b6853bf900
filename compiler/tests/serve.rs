//! `serve` as a process: a checkpoint in, answers out, an orderly end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn serve(args: &[&str], cache: &Path) -> Command {
    // Its own messages alone: nobody reads them before the end, and a full pipe would stop the server.
    let mut command = Command::new(env!("CARGO_BIN_EXE_moesaic"));
    command.arg("serve").args(args).env("MOESAIC_CACHE", cache).env("RUST_LOG", "runtime=debug");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The answer to one request, head and body.
fn request(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!("{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n");
    stream.write_all(format!("{head}Authorization: Bearer top-secret\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn terminate(child: &Child) {
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_checkpoint_is_served_until_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let (model, prefixes) = (golden("llama31"), folder.path().join("prefixes"));
    let args = [
        model.to_str().unwrap(),
        "--port=0",
        "--served-model-name=first,second",
        "--api-key=top-secret",
        "--threads=1",
        "--prefix-cache-dir",
        prefixes.to_str().unwrap(),
    ];
    let mut child = serve(&args, folder.path()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let address = line.strip_prefix("serving first at http://").and_then(|rest| rest.split_once(' ')).unwrap().0;
    assert!(lines.next().unwrap().unwrap().contains("curl"));
    assert!(request(address, "GET /ready", "").starts_with("HTTP/1.1 200"));
    let body = r#"{"model": "second", "prompt": "confidential words", "max_tokens": 4}"#;
    let answer = request(address, "POST /v1/completions", body);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"completion_tokens\":4"), "{answer}");
    terminate(&child);
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("answered") && log.contains("/v1/completions"), "{log}");
    for secret in ["top-secret", "confidential"] {
        assert!(!log.contains(secret), "the log shows {secret}: {log}");
    }
}

#[test]
fn what_must_not_be_served_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden("llama31");
    let model = model.to_str().unwrap();
    for (args, part) in [
        (vec![model, "--host", "0.0.0.0", "--port=0"], "--api-key"),
        (vec!["nothing-here", "--port=0", "--log-format=json"], "nothing-here"),
        (vec![model, "--model", "llama31=other", "--port=0"], "NAME=PATH"),
        (vec![model, "--api-key=", "--port=0"], "--api-key"),
    ] {
        let output = serve(&args, folder.path()).env("RUST_LOG", "off").output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.lines().count() == 1 && message.starts_with("error: "), "{args:?}: {message}");
        assert!(message.contains(part), "{args:?}: {message}");
    }
}
