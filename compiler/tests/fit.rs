//! `moesaic fit`: its report, its refusals, and the models it takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn fit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moesaic")).arg("fit").args(arguments).output().unwrap()
}

fn report(arguments: &[&str]) -> Value {
    let output = fit(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The exit code and the last line on standard error.
fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let output = fit(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text.lines().last().unwrap_or_default().to_owned())
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

#[test]
fn a_preset_is_answered_for_both_caches() {
    let report = report(&["aix-tiny", "--vram", "64MiB", "--max-sequences", "2", "--threads", "2"]);
    // 2 layers of 2 heads of 32 numbers, keys and values.
    assert_eq!(report["kv_bytes_per_token"], 2 * 2 * 2 * 32 * 2);
    assert_eq!(report["kv"][1]["kv_bytes_per_token"], 2 * 2 * 2 * (32 + 2));
    assert_eq!((report["kv"][0]["type"].as_str(), report["kv"][1]["type"].as_str()), (Some("f16"), Some("int8")));
    for key in ["fits", "kv_pages", "max_context", "max_sequences", "kv_bytes_per_token"] {
        assert_eq!(report[key], report["kv"][0][key], "{key}");
    }
    let number = |value: &Value| value.as_u64().unwrap();
    let kv = number(&report["kv_pages"]) * 16 * number(&report["kv_bytes_per_token"]);
    let parts = ["weights_bytes", "arena_bytes", "overhead_bytes"].map(|key| number(&report[key]));
    let total = number(&report["total_bytes"]);
    assert_eq!(parts.iter().sum::<u64>() + kv, total);
    let page = 16 * number(&report["kv_bytes_per_token"]);
    assert!(total <= 64 << 20 && total + page > 64 << 20, "{total}");
    assert_eq!((report["max_context"].as_u64(), report["overhead_is"].as_str()), (Some(2048), Some("computed")));
}

#[test]
fn the_cache_asked_for_is_answered_first() {
    let f16 = report(&["aix-tiny", "--vram", "16MiB", "--threads", "2"]);
    for option in ["--kv", "--kv-cache-dtype"] {
        let int8 = report(&["aix-tiny", "--vram", "16MiB", "--threads", "2", option, "int8"]);
        assert_eq!((int8["kv"][0]["type"].as_str(), int8["kv"][1]["type"].as_str()), (Some("int8"), Some("f16")));
        assert_eq!(int8["kv_bytes_per_token"], 2 * 2 * 2 * (32 + 2));
        assert!(int8["kv_pages"].as_u64() > f16["kv_pages"].as_u64());
    }
    let output = fit(&["aix-tiny", "--vram", "16MiB", "--kv", "fp8"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && message.contains("there are: f16, int8, f32"), "{message}");
}

#[test]
fn quantising_makes_room_and_a_gpu_has_an_estimated_overhead() {
    let pages = |arguments: &[&str]| report(arguments)["kv_pages"].as_u64().unwrap();
    assert!(pages(&["aix-tiny", "--vram", "16MiB", "--quant", "q4g32"]) > pages(&["aix-tiny", "--vram", "16MiB"]));
    let gpu = report(&["aix-1b", "--vram", "8GiB", "--target", "sm_90", "-c", "4k"]);
    assert_eq!((gpu["overhead_is"].as_str(), gpu["max_context"].as_u64()), (Some("estimate"), Some(4096)));
    let f32 = report(&["aix-1b", "--vram", "8GiB", "--target", "sm_90", "-c", "4k", "--activations", "f32"]);
    assert!(f32["kv"].as_array().unwrap().iter().any(|entry| entry["type"] == "f32"));
    let table = String::from_utf8(fit(&["aix-tiny", "--vram", "1G", "--target", "sm_80"]).stdout).unwrap();
    assert!(table.contains("an estimate") && table.contains("max context"), "{table}");
}

#[test]
fn folders_configurations_and_gguf_files_are_answered_alike() {
    let alone = tempfile::tempdir().unwrap();
    let whole = golden().join("llama31");
    fs::copy(whole.join("config.json"), alone.path().join("config.json")).unwrap();
    let gguf = golden().join("gguf/llama31.gguf");
    let paths = [whole.as_path(), alone.path()].map(|p| p.to_str().unwrap().to_owned());
    let [whole, alone] = paths.map(|path| report(&[&path, "--vram", "32MB"]));
    for key in ["weights_bytes", "arena_bytes", "kv_pages", "max_context", "max_sequences"] {
        assert_eq!(whole[key], alone[key], "{key}");
    }
    let gguf_report = report(&[gguf.to_str().unwrap(), "--vram", "32MB"]);
    assert_eq!(gguf_report["kv_bytes_per_token"], whole["kv_bytes_per_token"]);
}

#[test]
fn what_does_not_fit_fails_with_one_line() {
    let (code, line) = refusal(&["aix-4b", "--vram", "2GiB"]);
    assert_eq!(code, Some(1));
    assert!(
        line.starts_with("error: does not fit") && line.contains("more than the 2.00 GiB") && line.contains("--quant"),
        "{line}"
    );
    let (code, line) = refusal(&["aix-tiny", "--vram", "12MiB", "--max-sequences", "64"]);
    assert_eq!(code, Some(1));
    assert!(line.contains("64 x 2048 tokens") && line.contains("lower --max-model-len"), "{line}");
    let unfit: Value = serde_json::from_slice(&fit(&["aix-4b", "--vram", "2GiB", "--json"]).stdout).unwrap();
    assert_eq!((unfit["fits"].as_bool(), unfit["kv_pages"].as_u64()), (Some(false), Some(0)));
}

#[test]
fn wrong_words_are_named() {
    let (code, line) = refusal(&["no-such-model", "--vram", "8G"]);
    assert!(code == Some(1) && line.contains("aix-4b"), "{line}");
    let (code, line) = refusal(&["no/such/model", "--vram", "8G"]);
    assert!(code == Some(1) && line.contains("cannot open"), "{line}");
    let output = fit(&["aix-tiny", "--vram", "8 parsecs"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("such as 24GiB"));
    let (code, line) = refusal(&["aix-tiny", "--vram", "8G", "-c", "1m"]);
    assert!(code == Some(1) && line.contains("--max-model-len"), "{line}");
}
