//! What `fit` says of a configuration is what the cpu device then reserves, within 3 %.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use compiler::budget::{Footprint, KvFit, KvType, Request};
use compiler::lower::Registry;
use compiler::pipeline::{CompileOptions, compile_programs};
use compiler::target::Activations;
use models::Checkpoint;
use models::synth::{SynthModel, SynthOptions, WeightFormat, find_preset};
use moesaic_tests::artifacts::{compile_with, options};
use moesaic_tests::golden;
use runtime::artifact::Artifact;
use runtime::device::{DeviceMemory, LoadError};
use runtime::engine::{Engine, EngineError, EngineOptions};

const THREADS: usize = 3;

/// Families and formats that differ in what they keep in memory.
const FIXTURES: &[&str] =
    &["llama31", "aix", "deepseek_v3", "gpt_oss_mxfp4", "llama_w4a16", "gemma3", "bitnet_packed", "phi3_longrope"];

/// The answer from a folder that holds `config.json` alone.
fn fit(checkpoint: &Path, options: &CompileOptions, memory: u64) -> (Footprint, KvFit) {
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::copy(checkpoint.join("config.json"), folder.path().join("config.json")).expect("config.json");
    let description = Checkpoint::open_description(folder.path()).expect("configuration");
    let (model, programs) =
        compile_programs(&description, options, &Registry::default()).expect("programs").expect("every pass");
    let mut footprint = Footprint::of(&model, &programs, options, Some(THREADS)).expect("footprint");
    let request = Request { memory, max_model_len: None, sequences: 1 };
    let fit = footprint.require(options.kv_type(), &request).expect("room");
    (footprint, fit)
}

/// What an engine given that memory reserves, and its longest sequence.
fn used(artifact: &Arc<Artifact>, memory: Option<u64>) -> (DeviceMemory, u64, u64) {
    let options = EngineOptions { threads: Some(THREADS), memory, ..EngineOptions::default() };
    let engine = Engine::new(artifact.clone(), &options).expect("engine");
    (engine.memory(), engine.max_model_len(), engine.pool().free_pages())
}

/// Both within 3 %, part by part where a part matters.
fn assert_agrees(name: &str, said: &DeviceMemory, used: &DeviceMemory) {
    let parts = |m: &DeviceMemory| [m.weights, m.arena, m.kv, m.other, m.total()];
    println!("{name:<24} said {:?} used {:?}", parts(said), parts(used));
    let total = used.total() as f64;
    for (said, used) in parts(said).into_iter().zip(parts(used)) {
        let error = (said as f64 - used as f64).abs();
        assert!(error <= 0.03 * used as f64 || error <= 0.003 * total, "{name}: said {said}, used {used}");
    }
}

#[test]
fn what_fit_says_of_fixtures_is_what_the_device_reserves() {
    for name in FIXTURES {
        let folder = golden::folder().join(name);
        let cases = [
            (Activations::Int8, None, 48 << 20),
            (Activations::Int8, Some(KvType::Int8), 24 << 20),
            (Activations::F32, None, 24 << 20),
        ];
        for (activations, kv, memory) in cases {
            let options = CompileOptions { kv, ..options(activations) };
            let (_, said) = fit(&folder, &options, memory);
            let (_keep, artifact) = compile_with(&folder, &options);
            let (used, longest, pages) = used(&artifact, Some(memory));
            assert_agrees(name, &said.memory, &used);
            assert!(used.total() <= memory, "{name}");
            assert_eq!((said.max_context, said.pages), (longest, pages), "{name}");
        }
    }
}

#[test]
fn what_fit_says_of_a_synthetic_model_is_what_the_device_reserves() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let format = WeightFormat::Int4 { group_size: 32 };
    let preset = find_preset("aix-tiny").expect("a preset");
    let synth = SynthModel::new(&SynthOptions { preset, format, seed: 1, layers: Some(6) }).expect("a model");
    let checkpoint = folder.path().join("model");
    synth.write(&checkpoint, &|_| ()).expect("a checkpoint");
    let options = options(Activations::Int8);
    let memory = 64 << 20;
    let (_, said) = fit(&checkpoint, &options, memory);
    let (_keep, artifact) = compile_with(&checkpoint, &options);
    assert_agrees("aix-tiny, 6 layers", &said.memory, &used(&artifact, Some(memory)).0);
}

/// An artifact for a GPU holds its weights as `fit` says; the cpu device, which holds them as panels, keeps to its budget.
#[test]
fn weights_of_a_gpu_artifact_are_counted_in_the_layout_they_are_held_in() {
    let checkpoint = golden::folder().join("odd_llama");
    let memory = 24 << 20;
    let target = "sm_90".parse().expect("a target");
    let gpu = CompileOptions { buckets: vec![1], ..CompileOptions::new(target, Activations::F32) };
    let (footprint, _) = fit(&checkpoint, &gpu, 4 << 30);
    let (_keep, artifact) = compile_with(&checkpoint, &gpu);
    assert_eq!(footprint.weights, artifact.manifest().weight_bytes());
    let (used, _, _) = used(&artifact, Some(memory));
    let (panels, _) = fit(&checkpoint, &options(Activations::F32), memory);
    assert_eq!(used.weights, panels.weights);
    assert_ne!(panels.weights, footprint.weights);
    assert!(used.total() <= memory && used.total() as f64 > 0.9 * memory as f64, "{used:?}");
}

/// Pages recorded by the compiler are the runtime's default, and leave room for the device's own memory.
#[test]
fn an_artifact_for_a_memory_fills_it() {
    let folder = golden::folder().join("aix");
    let memory = 40 << 20;
    let options = CompileOptions { vram: Some(memory), ..options(Activations::Int8) };
    let (_keep, artifact) = compile_with(&folder, &options);
    let recorded = artifact.manifest().kv.pages.expect("pages");
    let (used, _, pages) = used(&artifact, None);
    assert_eq!(pages, recorded);
    assert!(used.total() <= memory && used.total() as f64 > 0.97 * memory as f64, "{} of {memory}", used.total());
}

#[test]
fn an_engine_refuses_a_memory_that_is_too_small() {
    let (_keep, artifact) = compile_with(&golden::folder().join("aix"), &options(Activations::Int8));
    let refused = |memory, kv_tokens| {
        let options = EngineOptions { memory: Some(memory), kv_tokens, threads: Some(1), ..EngineOptions::default() };
        match Engine::new(artifact.clone(), &options) {
            Err(EngineError::Device(error)) => error.to_string(),
            Err(EngineError::Load(LoadError::Device(error))) => error.to_string(),
            other => panic!("{:?}", other.map(|e| e.memory())),
        }
    };
    for text in [refused(1 << 10, None), refused(32 << 20, Some(1 << 24))] {
        assert!(text.contains("--vram allows") && text.contains("KV cache"), "{text}");
    }
}

/// The refusal comes before weights are read: there are none.
#[test]
fn a_model_that_cannot_fit_is_refused_before_weights_are_read() {
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::copy(golden::folder().join("aix/config.json"), folder.path().join("config.json")).expect("config.json");
    let mut described = Checkpoint::open_description(folder.path()).expect("configuration");
    let options = CompileOptions { vram: Some(100_000), ..options(Activations::Int8) };
    let output = folder.path().join("out.moesaic");
    let registry = Registry::default();
    let progress = compiler::progress::Silent;
    let error = compiler::pipeline::compile(&mut described, &output, &options, &registry, &progress).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("does not fit") && text.contains("of --vram; store weights in fewer bits"), "{text}");
    assert!(!output.exists());
}
