//! Fusion on the cpu device: exact rules leave every bit of the logits as it is, all rules leave them within the fixtures' tolerance.
//!
//! Programs for a GPU target are fused more than those for the cpu, and the cpu device runs them as well: both are held to it.

use std::path::Path;

use compiler::fuse::Fusion;
use compiler::pipeline::CompileOptions;
use compiler::target::{Activations, Target};
use moesaic_tests::artifacts::{compile_with, engine, logits};
use moesaic_tests::golden;
use runtime::engine::EngineOptions;

const TARGETS: [&str; 2] = ["cpu", "sm_90"];

/// Logits of every prompt, each given in pieces of `chunk` tokens.
fn run(
    checkpoint: &Path,
    target: &str,
    activations: Activations,
    fusion: Fusion,
    prompts: &[&[u32]],
    chunk: usize,
) -> Vec<Vec<f32>> {
    let target: Target = target.parse().expect("a target");
    let options = CompileOptions { fusion, ..CompileOptions::new(target, activations) };
    let (_folder, artifact) = compile_with(checkpoint, &options);
    let mut engine = engine(&artifact, 512, EngineOptions { threads: Some(2), ..EngineOptions::default() });
    prompts.iter().map(|ids| logits(&mut engine, ids, chunk)).collect()
}

#[test]
fn exact_fusion_leaves_every_bit() {
    for fixture in golden::fixtures() {
        let prompts: Vec<&[u32]> = fixture.prompts.iter().take(2).map(|p| p.ids.as_slice()).collect();
        for activations in [Activations::F32, Activations::Int8] {
            let run = |target, fusion| run(&fixture.folder, target, activations, fusion, &prompts, 9);
            let unfused = run("cpu", Fusion::Off);
            for (found, prompt) in unfused.iter().zip(&fixture.prompts).filter(|_| activations == Activations::F32) {
                let error = golden::relative_rms(found, &prompt.logits);
                assert!(error < fixture.tolerance(), "{} without fusion: relative RMS {error:.2e}", fixture.name());
            }
            for target in TARGETS {
                assert_eq!(run(target, Fusion::Exact), unfused, "{} {activations} for {target}", fixture.name());
            }
        }
    }
}

#[test]
fn all_rules_agree_with_the_reference_and_with_themselves() {
    for fixture in golden::fixtures() {
        let prompts: Vec<&[u32]> = fixture.prompts.iter().map(|p| p.ids.as_slice()).collect();
        let run = |chunk| run(&fixture.folder, "sm_90", Activations::F32, Fusion::Full, &prompts, chunk);
        let whole = run(usize::MAX);
        for (found, prompt) in whole.iter().zip(&fixture.prompts) {
            let error = golden::relative_rms(found, &prompt.logits);
            assert!(error < fixture.tolerance(), "{}: relative RMS {error:.2e}", fixture.name());
        }
        // A token at a time takes another bucket, which is fused otherwise.
        assert_eq!(run(1), whole, "{}", fixture.name());
    }
}
