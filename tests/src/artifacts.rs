//! Checkpoints compiled into temporary artifacts, and engines over them.
//!
//! `MOESAIC_TEST_DEVICE=cuda` has the tests of whole models run on the first GPU instead of the processor or the simulator.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use compiler::lower::Registry;
use compiler::pipeline::{self, CompileOptions};
use compiler::progress::Silent;
use compiler::target::{Activations, Arch, Target};
use models::Checkpoint;
use runtime::artifact::{Artifact, OpenOptions};
use runtime::device::DeviceChoice;
use runtime::device::cuda::{self, CudaStatus};
use runtime::device::sim::{ArtifactModules, SimDevice, SimOptions};
use runtime::engine::{Chunk, Engine, EngineOptions, Rows};
use tempfile::TempDir;

/// Whether tests of whole models run on a GPU.
pub fn on_gpu() -> bool {
    std::env::var("MOESAIC_TEST_DEVICE").is_ok_and(|device| device == "cuda")
}

/// The architecture of the first GPU's kernels.
///
/// # Panics
/// If there is none that kernels are compiled for.
pub fn gpu_architecture() -> Arch {
    let status = cuda::probe();
    let CudaStatus::Gpus(gpus) = &status else { panic!("MOESAIC_TEST_DEVICE=cuda, and here: {status}") };
    let (major, minor) = gpus.first().expect("a GPU").capability;
    let own = u32::try_from(10 * major + minor).expect("a compute capability");
    let fitting = Arch::ALL.into_iter().rfind(|arch| arch.number() <= own);
    fitting.unwrap_or_else(|| panic!("no kernels for compute capability {major}.{minor}"))
}

/// A turn on the GPU: one engine at a time, so that tests that run at once neither lack memory nor share a fault. `None` on other devices.
pub fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    on_gpu().then(|| TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Options for the cpu target, or for the GPU that tests run on.
pub fn options(activations: Activations) -> CompileOptions {
    let target = if on_gpu() { Target::Cuda(gpu_architecture()) } else { Target::Cpu };
    CompileOptions::new(target, activations)
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

/// An engine over an artifact with room for `kv_tokens`; on the GPU if tests run there.
pub fn engine(artifact: &Arc<Artifact>, kv_tokens: u64, options: EngineOptions) -> Engine {
    let device = if on_gpu() { DeviceChoice::Cuda } else { options.device };
    let options = EngineOptions { kv_tokens: Some(kv_tokens), device, ..options };
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

/// The GPU that tests run on, else [`simulator`].
pub fn checked(artifact: &Arc<Artifact>, architecture: &str, kv_tokens: u64) -> Engine {
    match on_gpu() {
        true => engine(artifact, kv_tokens, EngineOptions::default()),
        false => simulator(artifact, architecture, kv_tokens),
    }
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
