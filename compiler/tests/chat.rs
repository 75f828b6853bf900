//! `moesaic chat` through a pipe: turns, commands, files, and what later turns need not compute.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn compiled(folder: &Path) -> PathBuf {
    let artifact = folder.join("model.moesaic");
    let mut command = Command::new(env!("CARGO_BIN_EXE_moesaic"));
    command.arg("compile").arg(golden("llama31")).arg("-o").arg(&artifact).args(["--activations", "f32"]);
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    artifact
}

/// What `chat` says to these lines.
fn chat(artifact: &Path, arguments: &[&str], lines: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_moesaic"))
        .arg("chat")
        .arg(artifact)
        .args(["--temperature", "0", "-n", "6", "-t", "1", "--device", "cpu"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("read");
    child.wait_with_output().expect("it ends")
}

fn errors(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The numbers of cached tokens that `/stats` told.
fn cached(stderr: &str) -> Vec<u64> {
    let number = |line: &str| line.split(" tokens, ").nth(1)?.split(" of them cached").next()?.parse().ok();
    stderr.lines().filter(|line| line.contains("of them cached")).filter_map(number).collect()
}

#[test]
fn a_conversation_through_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let (artifact, file) = (compiled(folder.path()), folder.path().join("talk.json"));
    let path = file.to_str().unwrap();
    let lines = format!(
        "/help\n/stats\nTell me about the moon and the sea, at some length\n/stats\n\"\"\"\nAnd\n/reset\n\"\"\"\n/stats\n/save {path}\n\
         /set temperature -3\n/set top_k 5\n/set\n/nothing\n/load {path}x\n/regen\n/stats\n/system New\n/regen\n"
    );
    let stderr = errors(&chat(&artifact, &["--system", "Be brief and kind to all."], &lines));
    for part in [
        "/help lists the commands",
        "/regen               answer",
        "nothing was answered yet",
        "5 messages saved",
        "error: temperature",
        "temperature 0 · top_k 5 ·",
        "unknown command /nothing",
        "talk.jsonx: cannot read the messages",
        "error: there is no message to answer",
    ] {
        assert!(stderr.contains(part), "{part:?} in {stderr}");
    }
    let cached = cached(&stderr);
    assert!(cached.len() == 3 && cached[0] == 0 && cached[1] >= 16 && cached[2] >= cached[1], "{cached:?}");
    let saved: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let roles: Vec<&str> = saved.as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(saved[3]["content"], "And\n/reset");
}

#[test]
fn an_answer_does_not_depend_on_what_was_cached() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = compiled(folder.path());
    let file = |name: &str| folder.path().join(name);
    let save = |name: &str| format!("/save {}\n", file(name).display());
    let warm =
        chat(&artifact, &[], &format!("One two three four five six seven eight\nAnd nine ten\n{}", save("warm.json")));
    errors(&warm);
    let mut messages: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(file("warm.json")).unwrap()).unwrap();
    let answer = messages.pop().unwrap();
    fs::write(file("cut.json"), serde_json::to_vec(&messages).unwrap()).unwrap();
    let lines = format!("/load {}\n/regen\n/stats\n{}", file("cut.json").display(), save("cold.json"));
    let stderr = errors(&chat(&artifact, &[], &lines));
    assert_eq!(cached(&stderr), [0]);
    let cold: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(file("cold.json")).unwrap()).unwrap();
    assert_eq!(cold.last(), Some(&answer));
    assert!(!answer["content"].as_str().unwrap().is_empty());
}
