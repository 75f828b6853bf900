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

/// Targets by whose costs programs are fused.
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
    // The costs of a GPU decide what is fused; its machine code is another test's matter.
    let costs = target.parse::<Target>().expect("a target").spec();
    let options = CompileOptions { fusion, spec: costs, ..CompileOptions::new(Target::Cpu, activations) };
    let (_folder, artifact) = compile_with(checkpoint, &options);
    let mut engine = engine(&artifact, 512, EngineOptions { threads: Some(2), ..EngineOptions::default() });
    prompts.iter().map(|ids| logits(&mut engine, ids, chunk)).collect()
}

#[test]
fn exact_fusion_leaves_every_bit() {
    for fixture in golden::fixtures() {
        let prompts: Vec<&[u32]> = fixture.prompts.iter().take(2).map(|p| p.ids.as_slice()).collect();
        for activations in Activations::ALL {
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

/// What a GPU's programs are by default.
#[test]
fn f16_activations_agree_with_the_reference_and_with_themselves() {
    let default = Activations::default_for("sm_90".parse().expect("a target"));
    assert_eq!(default, Activations::F16);
    for fixture in golden::fixtures() {
        let prompts: Vec<&[u32]> = fixture.prompts.iter().map(|p| p.ids.as_slice()).collect();
        let run = |chunk| run(&fixture.folder, "sm_90", default, Fusion::Full, &prompts, chunk);
        let whole = run(usize::MAX);
        for (n, (found, prompt)) in whole.iter().zip(&fixture.prompts).enumerate() {
            let error = golden::relative_rms(found, &prompt.logits);
            println!("{:<26} prompt {n}: relative RMS {error:.1e} of {:.0e}", fixture.name(), fixture.half_tolerance());
            assert!(error < fixture.half_tolerance(), "{} prompt {n}: relative RMS {error:.2e}", fixture.name());
            // Rounding there is: the mode must not be f32 by another name.
            assert!(error > 1e-5, "{} prompt {n}: relative RMS {error:.2e}", fixture.name());
        }
        assert_eq!(run(1), whole, "{}", fixture.name());
    }
}
