//! A whole run with commands that only pretend: shell scripts in place of `moesaic` and of the test executables.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// Answers as `moesaic` does; `synth llama-3.1-8b` fails, and so does the prompt of 4096 tokens.
const MOESAIC: &str = r#"#!/bin/sh
all="$*"
last() { for last; do :; done; echo "$last"; }
case "$all" in
    "doctor --calibrate --device cuda --json") echo '{"copy_bytes_per_s": 2e12, "launch_s": 2e-6, "launch_pdl_s": 1e-6}' ;;
    "doctor --json") echo '{"gpus": [], "cuda": "no CUDA driver"}' ;;
    synth*llama-3.1-8b*) echo 'error: no room' >&2; exit 1 ;;
    synth*) mkdir -p "$(last "$@")" && touch "$(last "$@")/config.json" ;;
    compile*) mkdir -p "$(last "$@")" ;;
    run*) echo 'error: device cuda: nothing here' >&2; exit 1 ;;
    inspect*) echo '{"launches_per_token": 145, "launches_per_layer_decode": 5, "launches_per_layer_prefill": 5}' ;;
    bench*--prefix*) echo '{"cold_s": 0.1, "memory_s": 0.01, "disk_s": 0.02, "baked_s": 0.015}' ;;
    bench*"-p 4096"*) echo 'error: out of memory' >&2; exit 1 ;;
    bench*--no-overlap*) echo '{"generation_tokens_per_s": 800.0}' ;;
    bench*"-n 2000"*) echo '{"joules_per_token": 0.125}' ;;
    bench*"-n 1 "*) echo '{"prompt_tokens": 512, "prompt_tokens_per_s": 50000.0, "time_to_first_token_s": 0.01}' ;;
    bench*) echo '{"load_s": 1.0, "prompt_tokens": 2048, "batches": [
        {"batch": 1, "generation_tokens_per_s": 1000.0, "bytes_per_step": 500000000, "joules_per_token": 0.2}]}' ;;
    *) echo "error: unexpected $all" >&2; exit 1 ;;
esac
"#;

/// Passes as a test executable does, where it runs for a GPU.
const PASSING: &str = "#!/bin/sh\ntest \"$MOESAIC_TEST_DEVICE\" = cuda && echo 'test result: ok. 2 passed; 0 failed'\n";

fn tools(folder: &Path, models: Option<&str>) -> Tools {
    let script = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let binaries = Binaries {
        moesaic: script("moesaic", MOESAIC),
        models: models.map(|text| script("models", text)),
        kernels: None,
        cache: Some(folder.join("cache")),
        commit: "abc".into(),
    };
    let work = folder.join("work");
    fs::create_dir_all(&work).unwrap();
    Tools { binaries, work }
}

fn machine_with_gpu() -> Value {
    serde_json::json!({"gpus": [{"name": "Example GPU", "target": "sm_90"}], "driver": {"version": "1.2"}})
}

#[test]
fn a_run_reports_every_step_and_keeps_what_it_could_measure() {
    let folder = tempfile::tempdir().unwrap();
    let tools = tools(folder.path(), Some(PASSING));
    let results = steps(&tools, machine_with_gpu(), Budget::new(Duration::from_secs(120)));
    let verdict = |name: &str| {
        let steps: Vec<&str> = results.steps.iter().filter(|s| s.name == name).map(|s| s.verdict.word()).collect();
        assert_eq!(steps.len(), 1, "{name} in {:?}", results.steps);
        steps[0]
    };
    assert_eq!(verdict("copies and launches"), "passed");
    assert_eq!(verdict("golden parity, f32: logits, greedy, experts"), "passed");
    assert_eq!(verdict("kernels beside the interpreter on random shapes"), "skipped");
    assert_eq!(verdict("aix-4b: generation, batch 1,4,16"), "passed");
    assert_eq!(verdict("aix-4b: prompt of 4096"), "failed");
    assert_eq!(verdict("llama-3.1-8b: random weights"), "failed");
    assert_eq!(verdict("llama-3.1-8b: measurements"), "skipped");
    let aix = results.models.iter().find(|model| model.name == "aix-4b").unwrap();
    assert_eq!(aix.generation[0].share(&results.gpu), Some(0.25));
    assert_eq!((aix.no_overlap_tokens_per_s, aix.joules_per_token), (Some(800.0), Some(0.125)));
    assert_eq!((aix.prompts.len(), aix.first_token.as_ref().unwrap().cached_s), (1, 0.01));
    assert!(results.models.iter().any(|model| model.name == "llama-3.1-8b" && model.generation.is_empty()));
    let failed = results.failed();
    assert!(
        failed.contains(&"aix-1b: prompt of 4096") && !failed.contains(&"aix-1b: generation, batch 64"),
        "{failed:?}"
    );
    assert_eq!(results.json()["models"][1]["launches"]["decode"], 145);
    assert!(results.table().contains("Example GPU, driver 1.2, commit abc"), "{}", results.table());
}

#[test]
fn a_run_without_time_skips_everything_and_still_has_results() {
    let folder = tempfile::tempdir().unwrap();
    let tools = tools(folder.path(), Some(PASSING));
    let results = steps(&tools, machine_with_gpu(), Budget::new(Duration::ZERO));
    assert!(results.failed().is_empty());
    assert!(results.steps.iter().all(|step| step.verdict.word() == "skipped"), "{:?}", results.steps);
    assert!(results.models.iter().all(|model| model.generation.is_empty()));
}

#[test]
fn without_a_gpu_the_error_is_that_of_the_device_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let tools = tools(folder.path(), None);
    let error = machine(&tools).unwrap_err().to_string();
    assert_eq!(error, "device cuda: nothing here");
    let out = folder.path().join("results.json");
    let options =
        Options { binary: Some(tools.binaries.moesaic.clone()), out: Some(out.clone()), ..Options::default() };
    assert_eq!(check_and_measure(&options).unwrap_err().to_string(), "device cuda: nothing here");
    assert!(!out.exists());
}

#[test]
fn options_are_read_and_wrong_ones_are_no_options() {
    let options = Options::parse(&["--json", "--binaries", "d", "--out", "f.json"]).unwrap();
    assert_eq!((options.json, options.binaries, options.out), (true, Some("d".into()), Some("f.json".into())));
    assert_eq!(Options::parse(&["--prepare", "d"]).unwrap().prepare, Some("d".into()));
    assert_eq!(Options::parse(&[]), Some(Options::default()));
    for wrong in [&["--binary"][..], &["--out", ""], &["x"], &["--json", "--all"]] {
        assert_eq!(Options::parse(wrong), None, "{wrong:?}");
    }
}
