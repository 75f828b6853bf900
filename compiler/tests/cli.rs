//! The command as a user meets it: errors of one line that leave nothing behind, artifacts that are whole or absent, equal
//! bytes for equal input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn moesaic(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moesaic")).args(args).stdin(Stdio::null()).output().expect("the command starts")
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Exit code 1, nothing on standard output, one line on standard error that contains all of `parts`.
fn assert_fails(args: &[&str], parts: &[&str]) {
    let output = moesaic(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
    assert!(message.starts_with("error: "), "{args:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{args:?}: {message:?} does not contain {part:?}");
    }
}

/// A compile of `model` fails with these words and leaves the folder of its output empty.
fn assert_compile_fails(model: &Path, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    assert_fails(&["compile", text(model), "-o", text(&folder.path().join("x.moesaic"))], parts);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{}", model.display());
}

/// A copy of a fixture with one file replaced.
fn with_file(name: &str, file: &str, content: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::write(folder.path().join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
    }
    fs::write(folder.path().join(file), content).unwrap();
    folder
}

fn compiled(folder: &Path) -> PathBuf {
    let artifact = folder.join("model.moesaic");
    let output = moesaic(&["compile", text(&golden("llama31")), "-o", text(&artifact), "--activations", "f32"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    artifact
}

#[test]
fn damaged_checkpoints_are_refused_by_file_and_field() {
    let read = |file: &str| fs::read(golden("llama31").join(file)).unwrap();
    let weights = read("model.safetensors");
    for (file, content, part) in [
        ("model.safetensors", &weights[..weights.len() / 2], "header"),
        ("model.safetensors", &weights[..100], "header"),
        ("model.safetensors", b"".as_slice(), "header"),
        ("config.json", b"{\"model_type\": ".as_slice(), "line 1"),
        ("config.json", b"{\"model_type\": \"mamba\"}".as_slice(), "\"mamba\""),
        ("tokenizer.json", &read("tokenizer.json")[..5000], "tokenizer"),
        ("generation_config.json", b"[]".as_slice(), "object"),
    ] {
        let folder = with_file("llama31", file, content);
        assert_compile_fails(folder.path(), &[file, part]);
    }
    let gguf = fs::read(golden("gguf/llama31.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (length, part) in
        [(3, "magic"), (20, "metadata"), (600, "tensors"), (100_000, "tensor"), (gguf.len() - 1, "tensor")]
    {
        let file = folder.path().join("cut.gguf");
        fs::write(&file, &gguf[..length]).unwrap();
        assert_compile_fails(&file, &["cut.gguf", part]);
    }
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (golden("llama31"), folder.path().join("x.moesaic"));
    let (model, out) = (text(&model), text(&out));
    assert_fails(&["compile", "/no/such/model", "-o", out], &["/no/such/model", "No such file"]);
    assert_fails(&["compile", model, "-o", out, "--target", "sm_1"], &["sm_1", "cpu"]);
    assert_fails(&["compile", model, "-o", out, "--cost-table", "/no/such/table"], &["/no/such/table", "cost table"]);
    assert_fails(&["compile", model, "-o", out, "--quant", "q3"], &["q3", "keep"]);
    assert_fails(&["compile", model, "-o", out, "--activations", "f8"], &["f8", "int8"]);
    assert_fails(&["compile", model, "-o", out, "--max-model-len", "1m"], &["--max-model-len", "512"]);
    assert_fails(&["compile", model, "-o", out, "--stop-after", "x"], &["--stop-after", "schedule"]);
    assert_fails(&["compile", model, "-o", "/dev/null/x.moesaic"], &["/dev/null/x.moesaic"]);
    assert_fails(&["compile", model, "-o", env!("CARGO_MANIFEST_DIR")], &["no artifact stands there"]);
    assert_fails(&["run", "/no/such/model", "-p", "x"], &["/no/such/model"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(moesaic(&["compose"]).status.code(), Some(2));
    assert_eq!(moesaic(&["compile"]).status.code(), Some(2));
}

#[test]
fn damaged_artifacts_are_refused_by_file_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = compiled(folder.path());
    let check = |file: &str, damage: &dyn Fn(Vec<u8>) -> Vec<u8>, part: &str| {
        let path = artifact.join(file);
        let content = fs::read(&path).unwrap();
        fs::write(&path, damage(content.clone())).unwrap();
        assert_fails(
            &["logits", text(&artifact), "--tokens", "1", "-o", text(&folder.path().join("l"))],
            &[file, part],
        );
        fs::write(&path, content).unwrap();
        assert!(!folder.path().join("l").exists());
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let flip = |mut bytes: Vec<u8>| {
        let at = bytes.len() * 3 / 4;
        bytes[at] ^= 1;
        bytes
    };
    for file in ["weights-00001.safetensors", "programs/tokens-1.ir", "tokenizer.json"] {
        check(file, &cut, "bytes, expected");
        check(file, &flip, "BLAKE3");
    }
    check("manifest.json", &cut, "line");
    check("manifest.json", &|_| b"{\"schema\": 99}".to_vec(), "schema");
    let path = artifact.join("manifest.json");
    let outside = fs::read_to_string(&path).unwrap().replace("\"tokenizer.json", "\"../tokenizer.json");
    fs::write(&path, outside).unwrap();
    assert_fails(&["inspect", text(&artifact)], &["../tokenizer.json", "relative path"]);
}

#[test]
fn bad_requests_are_refused_and_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = compiled(folder.path());
    let (artifact, out) = (text(&artifact).to_string(), folder.path().join("l.safetensors"));
    assert_fails(&["logits", &artifact, "--tokens", "1,512", "-o", text(&out)], &["512"]);
    assert_fails(&["logits", &artifact, "--tokens", "1", "-o", "/no/such/folder/l"], &["/no/such/folder"]);
    assert_fails(&["run", &artifact, "-p", "x", "--top-p", "3"], &["top_p", "3"]);
    assert_fails(&["run", &artifact, "-p", "x", "--temperature", "-1"], &["temperature", "-1"]);
    assert_fails(&["run", &artifact, "-p", ""], &["prompt"]);
    assert_fails(&["run", &artifact, "-p", "x", "--device", "cuda"], &["cuda", "cpu"]);
    assert_fails(&["run", &artifact, "-p", "x", "--isa", "sse"], &["--isa", "portable"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn equal_input_gives_equal_bytes() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (compiled(first.path()), compiled(second.path()));
    let manifest = fs::read(a.join("manifest.json")).unwrap();
    assert_eq!(manifest, fs::read(b.join("manifest.json")).unwrap());
    let files: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for file in files["files"].as_object().unwrap().keys() {
        assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{file}");
    }
}

#[test]
fn a_killed_compile_leaves_no_artifact() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = folder.path().join("model.moesaic");
    let (mut killed, mut finished) = (0, 0);
    for delay in (0..60).map(|i| Duration::from_micros(i * 700)) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_moesaic"))
            .args(["compile", text(&golden("llama31")), "-o", text(&artifact)])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(delay);
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            finished += 1
        } else {
            killed += 1
        }
        if artifact.exists() {
            let output = moesaic(&["inspect", text(&artifact)]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            fs::remove_dir_all(&artifact).unwrap();
        }
    }
    assert!(killed > 0, "no compile was killed, {finished} finished");
    // The next compile sweeps what the killed ones left.
    compiled(folder.path());
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["model.moesaic"]);
}

#[test]
fn logits_and_generation_work_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = compiled(folder.path());
    let out = folder.path().join("logits.safetensors");
    assert!(moesaic(&["logits", text(&artifact), "--tokens", "1,2,3", "-o", text(&out)]).status.success());
    let bytes = fs::read(&out).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("logits").unwrap().shape(), [3, 512]);
    let run = |seed: &str| {
        let output = moesaic(&["run", text(&artifact), "-p", "hello", "-n", "8", "--seed", seed, "--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["tokens"].clone()
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));
    let inspect = moesaic(&["inspect", text(&artifact), "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&inspect.stdout).unwrap();
    for key in ["launches_per_layer_decode", "launches_per_token", "arena_bytes", "arena_lower_bound_bytes"] {
        assert!(report[key].as_u64().is_some_and(|n| n > 0), "{key}");
    }
}

/// Greedy tokens of an artifact on the processor.
fn greedy(artifact: &Path) -> String {
    let output = moesaic(&["run", text(artifact), "-p", "hello", "-n", "8", "--temperature", "0", "--device", "cpu"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_artifact_for_a_gpu_runs_on_the_processor() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = folder.path().join("sm_90.moesaic");
    let output = moesaic(&["compile", text(&golden("llama31")), "-o", text(&artifact), "--target", "sm_90"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(artifact.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["target"], "sm_90");
    assert_eq!(manifest["activations"], "f16");
    assert_eq!(greedy(&artifact), greedy(&compiled(folder.path())));
    let doctor = moesaic(&["doctor", "--json"]).stdout;
    let machine: serde_json::Value = serde_json::from_slice(&doctor).unwrap();
    if machine["gpus"].as_array().unwrap().is_empty() {
        assert_fails(&["run", text(&artifact), "-p", "x", "--device", "cuda"], &["CUDA", "--device cpu"]);
    }
}

/// The cost of a bucket as `inspect` prints it.
fn costs(artifact: &str, more: &[&str]) -> serde_json::Value {
    let output = moesaic(&[&["inspect", artifact, "--json", "--cost"], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn inspect_shows_costs_that_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = compiled(folder.path());
    let artifact = text(&artifact);
    let decode = costs(artifact, &[]);
    assert_eq!((&decode["bucket"], &decode["target"]["name"]), (&"tokens-1".into(), &"cpu".into()));
    let launches = decode["launches"].as_array().unwrap();
    let sum = |field: &str| launches.iter().map(|l| l[field].as_f64().unwrap()).sum::<f64>();
    for field in ["bytes", "operations", "seconds"] {
        let step = decode["step"][field].as_f64().unwrap();
        assert!((sum(field) - step).abs() <= 1e-9 * step, "{field}");
    }
    assert!((sum("share") - 1.0).abs() < 1e-9);
    assert_eq!(decode["layers"], 2);
    let gpu = costs(artifact, &["tokens-512", "--target", "sm_90"]);
    assert_eq!((&gpu["tokens"], &gpu["target"]["name"]), (&512.into(), &"sm_90".into()));
    assert!(gpu["seconds_per_token"].as_f64() < decode["seconds_per_token"].as_f64());

    // A table in which memory is a thousand times slower.
    let table = folder.path().join("table.json");
    let mut row = decode["target"].clone();
    row["bytes_per_s"] = (row["bytes_per_s"].as_f64().unwrap() / 1000.0).into();
    fs::write(&table, serde_json::json!({"schema": 1, "targets": [row]}).to_string()).unwrap();
    let slow = costs(artifact, &["tokens-1", "--cost-table", text(&table)]);
    assert_eq!(slow["step"]["bytes"], decode["step"]["bytes"]);
    assert!(slow["step"]["seconds"].as_f64() > decode["step"]["seconds"].as_f64());
    let table = moesaic(&["inspect", artifact, "--cost"]);
    assert!(String::from_utf8_lossy(&table.stdout).lines().count() == launches.len() + 5);
    assert_fails(&["inspect", artifact, "--cost", "tokens-2"], &["tokens-2", "tokens-8"]);
    assert_fails(&["inspect", artifact, "--cost", "--target", "sm_1"], &["sm_1", "sm_100"]);
}

#[test]
fn doctor_describes_any_machine() {
    let output = moesaic(&["doctor", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["cores"].as_u64().is_some_and(|cores| cores > 0));
    assert!(report["nvrtc"]["found"].is_boolean() && report["gpus"].is_array() && report["advice"].is_array());
    let advised = report["advice"].to_string();
    let has_gpu = report["gpus"].as_array().is_some_and(|gpus| !gpus.is_empty());
    assert!(has_gpu || advised.contains("cpu device"), "{advised}");
    assert!(!has_gpu || advised.contains("--target sm_"), "{advised}");
    let plain = moesaic(&["doctor"]);
    assert!(plain.status.success() && String::from_utf8_lossy(&plain.stdout).contains("  processor  "));
    if !has_gpu {
        assert_fails(&["doctor", "--calibrate", "--device", "cuda"], &["cuda"]);
    }
    assert_eq!(moesaic(&["doctor", "--device", "cuda"]).status.code(), Some(2));
}

#[test]
fn doctor_measures_a_table_that_compile_takes() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table.json");
    let output = moesaic(&["doctor", "--calibrate", "--json", "--threads", "1", "-o", text(&table)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["measured"]["units"], &report["assumed"]["name"]), (&1.into(), &"cpu".into()));
    let artifact = folder.path().join("x.moesaic");
    let output = moesaic(&["compile", text(&golden("llama31")), "-o", text(&artifact), "--cost-table", text(&table)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_fails(&["doctor", "--calibrate", "-o", "/no/such/folder/t.json"], &["/no/such/folder/t.json"]);
}
