//! Fusion end to end: programs that are not fused, fused without a change of rounding, and fused for a GPU, all executed by the cpu
//! device, against the reference outputs and against each other.

use std::sync::Arc;

use compiler::fuse::Fusion;
use compiler::pipeline::CompileOptions;
use compiler::target::{Activations, Target};
use moesaic_tests::artifacts::{compile_with, engine, logits};
use moesaic_tests::golden::{self, Golden};
use runtime::engine::EngineOptions;

/// Logits of all prompts, given in pieces of `chunk` tokens.
fn all_logits(golden: &Golden, options: &CompileOptions, chunk: usize) -> Vec<Vec<f32>> {
    let (_folder, artifact) = compile_with(&golden.folder, options);
    let mut engine =
        engine(&Arc::clone(&artifact), 512, EngineOptions { threads: Some(2), ..EngineOptions::default() });
    golden.prompts.iter().map(|p| logits(&mut engine, &p.ids, chunk)).collect()
}

/// Pieces of one token and whole prompts run programs of different buckets: their bits must agree.
fn check(golden: &Golden, options: &CompileOptions) -> f64 {
    let name = format!("{} for {}, fusion {}", golden.name(), options.target, options.fusion);
    let whole = all_logits(golden, options, usize::MAX);
    let errors = whole.iter().zip(&golden.prompts).map(|(found, p)| golden::relative_rms(found, &p.logits));
    let worst = errors.fold(0f64, f64::max);
    assert!(worst < golden.tolerance(), "{name}: relative RMS {worst:.2e}");
    assert_eq!(all_logits(golden, options, 1), whole, "{name}: token by token");
    worst
}

#[test]
fn parity_holds_with_fusion_off_and_for_a_gpu() {
    let gpu = "sm_90".parse::<Target>().expect("a target");
    for golden in golden::fixtures() {
        let off = CompileOptions { fusion: Fusion::Off, ..CompileOptions::new(Target::Cpu, Activations::F32) };
        let fused = CompileOptions::new(gpu, Activations::F32);
        let (off, fused) = (check(&golden, &off), check(&golden, &fused));
        println!("{:<26} off {off:.1e}, sm_90 {fused:.1e}", golden.name());
    }
}

/// Exact rules keep every bit: kernels that carry out a chain of ops carry out the same operations in the same order.
#[test]
fn exact_fusion_gives_the_bits_of_no_fusion() {
    for golden in golden::fixtures() {
        for activations in [Activations::F32, Activations::Int8] {
            let with = |fusion| CompileOptions { fusion, ..CompileOptions::new(Target::Cpu, activations) };
            let (off, exact) = (with(Fusion::Off), with(Fusion::Exact));
            for chunk in [1, usize::MAX] {
                let same = all_logits(&golden, &off, chunk) == all_logits(&golden, &exact, chunk);
                assert!(same, "{} with activations {activations}, {chunk} tokens at a time", golden.name());
            }
        }
    }
}
