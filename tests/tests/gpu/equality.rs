//! The same artifact on the simulator and on the GPU: the simulator's findings are worth what its arithmetic is.
//!
//! Everything is one operation in one order on both, except what hardware only approximates (`ex2.approx`, `rsqrt.approx`) and sums within a
//! tensor-core product, whose order NVIDIA does not document. The test asks for equal bits; what it says of a difference tells which it is.

use compiler::pipeline::CompileOptions;
use compiler::target::{Activations, Target};
use moesaic_tests::artifacts::{compile_with, engine, gpu_architecture, logits, on_gpu, simulator, turn};
use moesaic_tests::golden::{self, Golden};
use runtime::engine::EngineOptions;

fn compare(name: &str, activations: Activations) -> Option<String> {
    let arch = gpu_architecture();
    let fixture = Golden::read(&golden::folder().join(name));
    let options = CompileOptions::new(Target::Cuda(arch), activations);
    let (_folder, artifact) = compile_with(&fixture.folder, &options);
    let ids = &fixture.prompts[1].ids;
    let simulated = logits(&mut simulator(&artifact, arch.name(), 512), ids, usize::MAX);
    let _turn = turn();
    let found = logits(&mut engine(&artifact, 512, EngineOptions::default()), ids, usize::MAX);
    let different = found.iter().zip(&simulated).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    let error = golden::relative_rms(&found, &simulated);
    println!("{name} {activations}: {different} of {} logits differ, relative RMS {error:.1e}", found.len());
    (different > 0).then(|| format!("{name} {activations}: {different} of {} logits, RMS {error:.1e}", found.len()))
}

#[test]
fn the_simulator_gives_the_bits_of_the_gpu() {
    assert!(on_gpu(), "this compares a GPU: set MOESAIC_TEST_DEVICE=cuda");
    let cases = [("llama31", Activations::F32), ("llama31", Activations::F16), ("aix", Activations::F16)];
    let different: Vec<String> = cases.into_iter().filter_map(|(name, form)| compare(name, form)).collect();
    assert!(different.is_empty(), "other bits than the simulator's: {}", different.join("; "));
}
