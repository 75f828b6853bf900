//! Checkpoints compiled into temporary artifacts.

use std::path::Path;
use std::sync::Arc;

use compiler::lower::Registry;
use compiler::pipeline::{self, CompileOptions};
use compiler::progress::Silent;
use compiler::target::{Activations, Target};
use models::Checkpoint;
use runtime::artifact::{Artifact, OpenOptions};
use runtime::device::sim::{ArtifactModules, SimDevice, SimOptions};
use runtime::engine::{Chunk, Engine, EngineOptions, Rows};
use tempfile::TempDir;

/// Options for the cpu target.
pub fn options(activations: Activations) -> CompileOptions {
    CompileOptions::new(Target::Cpu, activations)
}

/// Compiles a checkpoint; the artifact lives as long as the folder.
pub fn compile(checkpoint: &Path, activations: Activations) -> (TempDir, Arc<Artifact>) {
    compile_with(checkpoint, &options(activations))
}

/// As [`compile`], with the routers' choices as outputs.
pub fn compile_traced(checkpoint: &Path, activations: Activations) -> (TempDir, Arc<Artifact>) {
    compile_with(checkpoint, &CompileOptions { trace_routing: true, ..options(activations) })
}

/// As [`compile`], with any options.
pub fn compile_with(checkpoint: &Path, options: &CompileOptions) -> (TempDir, Arc<Artifact>) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let output = folder.path().join("model.moesaic");
    let mut checkpoint = Checkpoint::open(checkpoint).expect("checkpoint");
    let compiled = pipeline::compile(&mut checkpoint, &output, options, &Registry::default(), &Silent);
    compiled.unwrap_or_else(|e| panic!("{e}"));
    let artifact = Artifact::open(&output, &OpenOptions::default()).expect("artifact");
    (folder, Arc::new(artifact))
}

/// An engine over an artifact with room for `kv_tokens`.
pub fn engine(artifact: &Arc<Artifact>, kv_tokens: u64, options: EngineOptions) -> Engine {
    let options = EngineOptions { kv_tokens: Some(kv_tokens), ..options };
    Engine::new(artifact.clone(), &options).expect("engine")
}

/// An engine on the simulator with every check, for an architecture the artifact has PTX of; a step with a finding fails.
pub fn simulator(artifact: &Arc<Artifact>, architecture: &str, kv_tokens: u64) -> Engine {
    let source = ArtifactModules::open(artifact, Some(architecture)).expect("PTX");
    let options = SimOptions { pages: kv_tokens.div_ceil(ir::op::PAGE_TOKENS), ..SimOptions::default() };
    let device = SimDevice::load(artifact.clone(), &source, options).unwrap_or_else(|e| panic!("{e}"));
    let longest = kv_tokens.min(artifact.manifest().model.max_context);
    Engine::with_device(artifact.manifest(), Box::new(device), longest)
}

/// Logits of every position, the prompt given in pieces of `chunk` tokens.
pub fn logits(engine: &mut Engine, ids: &[u32], chunk: usize) -> Vec<f32> {
    let sequence = engine.open_sequence_for(ids.len() as u64);
    let mut all = Vec::new();
    for tokens in ids.chunks(chunk) {
        let step = [Chunk { sequence, tokens, logits: Rows::All }];
        engine.step_each(&step, |row| all.extend_from_slice(row.logits)).expect("a step");
    }
    engine.close_sequence(sequence).expect("an open sequence");
    all
}
