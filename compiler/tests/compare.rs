//! `synth` and `compare` as a user meets them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs the command with a cache folder of its own.
fn moesaic(cache: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moesaic"));
    command.env("MOESAIC_CACHE", cache).args(args).stdin(Stdio::null()).output().expect("the command starts")
}

fn succeeds(cache: &Path, args: &[&str]) -> String {
    let output = moesaic(cache, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(cache: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(cache, args)).expect("JSON")
}

fn fails(cache: &Path, args: &[&str], parts: &[&str]) {
    let output = moesaic(cache, args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
    let message = message.lines().last().unwrap_or_default();
    assert!(message.starts_with("error: ") && parts.iter().all(|p| message.contains(p)), "{args:?}: {message}");
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// An artifact of a fixture.
fn compiled(folder: &Path, name: &str, activations: &str) -> PathBuf {
    let artifact = folder.join(format!("{name}-{activations}.moesaic"));
    let model = golden(name);
    succeeds(folder, &["compile", text(&model), "-o", text(&artifact), "--activations", activations]);
    artifact
}

/// A text of some hundred tokens.
fn written_text(folder: &Path) -> PathBuf {
    let path = folder.join("text.txt");
    let license = "Permission is granted to anyone to use this program for any purpose, in source or binary form. ";
    fs::write(&path, license.repeat(8)).unwrap();
    path
}

#[test]
fn a_model_does_not_differ_from_itself_and_has_the_perplexity_that_perplexity_prints() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, a) = (folder.path(), compiled(folder.path(), "llama31", "f32"));
    let (a, file) = (text(&a), written_text(cache));
    let figures = json(cache, &["compare", a, a, "--text", text(&file), "--window", "48", "--json"]);
    assert_eq!(
        (&figures["kl_mean"], &figures["kl_p99"], &figures["same_top1"]),
        (&0.0.into(), &0.0.into(), &1.0.into())
    );
    assert_eq!(figures["perplexity_a"], figures["perplexity_b"]);
    assert_eq!(figures["bytes_a"], figures["bytes_b"]);
    let alone = json(cache, &["perplexity", a, "-f", text(&file), "--context", "48", "--json"]);
    for (key, of_perplexity) in [("perplexity_a", "perplexity"), ("tokens", "tokens"), ("scored", "scored")] {
        assert_eq!(figures[key], alone[of_perplexity], "{key}");
    }
    assert!(figures["windows"].as_u64().unwrap() > 2);
}

#[test]
fn two_artifacts_of_one_model_differ_a_little_and_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path();
    let (a, b) = (compiled(cache, "llama31", "f32"), compiled(cache, "llama31", "int8"));
    let file = written_text(cache);
    let both = |a: &Path, b: &Path| {
        json(cache, &["compare", text(a), text(b), "-f", text(&file), "--max-tokens", "64", "--json"])
    };
    let (there, back) = (both(&a, &b), both(&b, &a));
    // The fixture's weights are floats, which int8 activations leave alone or round; the cache is f16 in one of them.
    assert_eq!(there["perplexity_a"], back["perplexity_b"]);
    assert_eq!(there["same_top1"], back["same_top1"]);
    assert_eq!((&there["tokens"], &there["window"], &there["scored"]), (&64.into(), &64.into(), &63.into()));
    let number = |v: &Value| v.as_f64().unwrap();
    assert!(number(&there["kl_mean"]) > 0.0 && number(&there["kl_mean"]) < 0.1, "{there}");
    assert!(number(&there["kl_p99"]) >= number(&there["kl_mean"]), "{there}");
    let table = succeeds(cache, &["compare", text(&a), text(&b), "-f", text(&file), "--window", "32"]);
    assert!(table.contains("perplexity") && table.contains("KL(A||B) mean"), "{table}");
}

#[test]
fn what_cannot_be_compared_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path();
    let a = compiled(cache, "llama31", "f32");
    let file = |name: &str, content: &str| {
        let path = cache.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let (a, empty, long) = (text(&a), file("empty.txt", ""), written_text(cache));
    fails(cache, &["compare", a, a, "-f", text(&empty)], &["empty.txt", "0 tokens"]);
    fails(cache, &["compare", a, a, "-f", text(&long), "--max-tokens", "1"], &["text.txt", "1 tokens"]);
    fails(cache, &["compare", a, a, "-f", text(&long), "--window", "1"], &["--window", "found 1"]);
    fails(cache, &["compare", a, a, "-f", "/no/such/text"], &["/no/such/text"]);
    let other = compiled(cache, "mistral", "f32");
    fails(cache, &["compare", a, text(&other), "-f", text(&long)], &["different tokens from token"]);
    let smaller = compiled(cache, "smollm2", "f32");
    fails(cache, &["compare", a, text(&smaller), "-f", text(&long)], &["512", "256", "same vocabulary"]);
}

#[test]
fn a_synthetic_model_is_written_once_and_named_presets_only() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, out) = (folder.path(), folder.path().join("tiny"));
    let args = ["synth", "aix-tiny", "-o", text(&out), "--weights", "int4", "--group-size", "64", "--layers", "1"];
    let summary = json(cache, &[&args[..], &["--json"]].concat());
    assert_eq!(summary["preset"], "aix-tiny");
    let parameters = summary["parameters"].as_u64().unwrap();
    assert!(summary["active_parameters"].as_u64().unwrap() < parameters, "{summary}");
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["num_hidden_layers"], 1);
    assert_eq!(config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"], 64);
    fails(cache, &args, &["tiny", "not empty"]);
    let new = cache.join("new");
    fails(cache, &["synth", "aix-5b", "-o", text(&new)], &["aix-5b", "aix-4b", "gpt-oss-20b"]);
    fails(
        cache,
        &["synth", "aix-tiny", "-o", text(&new), "--weights", "int4", "--group-size", "16"],
        &["--group-size"],
    );
    fails(cache, &["synth", "aix-tiny", "-o", "/dev/null/x"], &["/dev/null"]);
    assert!(!new.exists());
    assert_eq!(moesaic(cache, &["synth"]).status.code(), Some(2));
    let table = succeeds(cache, &["synth", "--list"]);
    assert!(table.contains("aix-4b") && table.contains("4.08 B"), "{table}");
    let list = json(cache, &["synth", "--list", "--json"]);
    assert!(list["presets"].as_array().unwrap().iter().any(|p| p["name"] == "mixtral-8x7b"), "{list}");
}
