//! Compiled fixtures on the cuda device, over a driver whose launches the simulator executes from the artifact's PTX: recorded steps that are
//! filled up, on memory that is one arena and one pool, give the bits that the sim device gives with a place of its own for every result.

use std::ops::ControlFlow;
use std::sync::Arc;

use compiler::pipeline::CompileOptions;
use compiler::target::{Activations, Target};
use moesaic_tests::artifacts::{compile_with, logits};
use moesaic_tests::golden::{self, Golden};
use runtime::artifact::Artifact;
use runtime::device::cuda::simulated::{Call, SimulatedDriver, SimulatedGpu};
use runtime::device::cuda::{CudaMachine, GpuOptions};
use runtime::device::sim::{ArtifactModules, Checks, SimDevice, SimOptions};
use runtime::engine::generate::{GenerationRequest, generate};
use runtime::engine::{Chunk, Engine, Rows};
use runtime::sample::SamplingParams;

/// Pages of a device.
const PAGES: u64 = 16;

/// Tokens of the continuation that are decoded.
const DECODED: usize = 3;

/// A GPU that cannot run the machine code of a target, so that it takes the PTX.
fn gpu(target: &str) -> SimulatedGpu {
    let capability = if target == "sm_80" { (9, 0) } else { (10, 0) };
    SimulatedGpu { capability, ..SimulatedGpu::default() }
}

fn compiled(name: &str, target: &str, activations: Activations) -> (tempfile::TempDir, Arc<Artifact>) {
    let target: Target = target.parse().expect("a target");
    let options = CompileOptions { threads: 1, buckets: vec![1, 8, 64], ..CompileOptions::new(target, activations) };
    compile_with(&golden::folder().join(name), &options)
}

fn on_cuda(artifact: &Arc<Artifact>, driver: &SimulatedDriver) -> Engine {
    let machine = CudaMachine::with_driver(Box::new(driver.clone()), artifact, GpuOptions::default());
    let device = machine.and_then(|machine| machine.load(PAGES)).unwrap_or_else(|e| panic!("{e}"));
    Engine::with_device(artifact.manifest(), Box::new(device), longest(artifact))
}

fn on_sim(artifact: &Arc<Artifact>) -> Engine {
    let source = ArtifactModules::open(artifact, None).expect("PTX");
    let options = SimOptions { pages: PAGES, checks: Checks::none(), ..SimOptions::default() };
    let device = SimDevice::load(artifact.clone(), &source, options).unwrap_or_else(|e| panic!("{e}"));
    Engine::with_device(artifact.manifest(), Box::new(device), longest(artifact))
}

fn longest(artifact: &Artifact) -> u64 {
    artifact.manifest().model.max_context.min(PAGES * 16 / 2)
}

/// Logits of all prompts in one step, and of some tokens more, a step each: every row in its order.
fn together(engine: &mut Engine, fixture: &Golden) -> Vec<Vec<f32>> {
    let prompts = &fixture.prompts;
    let sequences: Vec<_> = prompts.iter().map(|p| engine.open_sequence_for(p.ids.len() as u64)).collect();
    let mut rows = Vec::new();
    for step in 0..=DECODED {
        let tokens = |n: usize| match step {
            0 => prompts[n].ids.clone(),
            more => vec![prompts[n].greedy_ids[more - 1]],
        };
        let tokens: Vec<Vec<u32>> = (0..prompts.len()).map(tokens).collect();
        let chunks = sequences.iter().zip(&tokens);
        let chunks: Vec<Chunk> = chunks.map(|(s, t)| Chunk { sequence: *s, tokens: t, logits: Rows::All }).collect();
        engine.step_each(&chunks, |row| rows.push(row.logits.to_vec())).expect("a step");
    }
    sequences.into_iter().for_each(|sequence| engine.close_sequence(sequence).expect("an open sequence"));
    rows
}

fn check(name: &str, target: &'static str, activations: Activations) {
    let fixture = Golden::read(&golden::folder().join(name));
    let (_folder, artifact) = compiled(name, target, activations);
    let driver = SimulatedDriver::new(gpu(target));
    let (mut cuda, mut sim) = (on_cuda(&artifact, &driver), on_sim(&artifact));
    let limit = if activations == Activations::F32 { fixture.tolerance() } else { fixture.half_tolerance() };
    for (n, prompt) in fixture.prompts.iter().enumerate() {
        let whole = logits(&mut cuda, &prompt.ids, usize::MAX);
        let error = golden::relative_rms(&whole, &prompt.logits);
        println!("{name} {target} prompt {n}: {} tokens, relative RMS {error:.1e}", prompt.ids.len());
        assert!(error < limit, "{name} {target} prompt {n}: relative RMS {error:.2e}, limit {limit:.0e}");
        assert!(whole == logits(&mut sim, &prompt.ids, usize::MAX), "{name} {target} prompt {n}: other bits than sim");
        // Steps of 5 are filled up to 6, steps of 1 are not.
        for chunk in [1, 5] {
            let pieces = logits(&mut cuda, &prompt.ids, chunk);
            assert!(pieces == whole, "{name} {target} prompt {n}: other bits in pieces of {chunk}");
        }
    }
    let batch = together(&mut cuda, &fixture);
    assert!(batch == together(&mut sim, &fixture), "{name} {target}: other bits in a batch than sim");
    drop(cuda);
    assert_eq!((driver.live(), driver.violations()), (0, Vec::new()), "{name} {target}");
}

#[test]
fn a_dense_model_has_the_bits_of_the_simulator() {
    check("llama31", "sm_90", Activations::F16);
}

#[test]
fn a_mixture_has_the_bits_of_the_simulator() {
    check("aix", "sm_80", Activations::F16);
}

#[test]
fn full_precision_and_windows_have_the_bits_of_the_simulator() {
    check("gemma2", "sm_90", Activations::F32);
}

/// Tokens that fill a step up all write one slot of the scratch page, the same bits, which is no race.
#[test]
fn checks_find_nothing_and_a_step_is_recorded_once() {
    let fixture = Golden::read(&golden::folder().join("llama31"));
    let (_folder, artifact) = compiled("llama31", "sm_90", Activations::F16);
    let driver = SimulatedDriver::new(SimulatedGpu { checks: true, ..gpu("sm_90") });
    let mut engine = on_cuda(&artifact, &driver);
    let ids = &fixture.prompts[1].ids[..7];
    let nine: Vec<u32> = (3..12).collect();
    driver.take_calls();
    // Alone in its step, a token needs no filling.
    logits(&mut engine, &ids[..1], 1);
    assert!(driver.findings().is_empty(), "{:?}", driver.findings());
    let first = driver.take_calls();
    assert_eq!(first.iter().filter(|c| **c == Call::LaunchGraph).count(), 1);
    let seven = logits(&mut engine, ids, 7);
    let recorded = driver.take_calls();
    assert!(recorded.contains(&Call::Instantiate));
    assert!(recorded.iter().any(|c| matches!(c, Call::Launch { overlaps: true, .. })));
    assert!(seven == logits(&mut engine, ids, 7));
    let calls = driver.take_calls();
    let bytes = (seven.len() * 4) as u64;
    assert!(matches!(calls[0], Call::Upload { .. }), "{calls:?}");
    assert_eq!(calls[1..], [Call::LaunchGraph, Call::Download { bytes }, Call::Synchronize]);
    // One token fills the step of 7 up, three that of 9.
    assert!(driver.findings().is_empty(), "{:?}", driver.findings());
    logits(&mut engine, &nine, 9);
    let findings = driver.findings();
    assert!(findings.is_empty(), "{findings:?}");
}

/// Memory that the simulator guards stands for a GPU's: a kernel that leaves its result ends the context, and the engine says so.
#[test]
fn a_kernel_that_leaves_its_memory_loses_the_device() {
    let fixture = Golden::read(&golden::folder().join("llama31"));
    let (_folder, artifact) = compiled("llama31", "sm_90", Activations::F16);
    let driver = SimulatedDriver::new(gpu("sm_90"));
    let mut engine = on_cuda(&artifact, &driver);
    let sequence = engine.open_sequence();
    let step = |engine: &mut Engine, tokens: &[u32]| {
        let chunks = [Chunk { sequence, tokens, logits: Rows::Last }];
        engine.step_each(&chunks, |_| ())
    };
    step(&mut engine, &fixture.prompts[1].ids[..2]).expect("a step");
    // What a driver answers when a kernel touched what is not there.
    driver.fail_at(1, 700);
    let lost = step(&mut engine, &fixture.prompts[1].ids[2..3]).expect_err("a lost device");
    assert!(lost.is_lost() && lost.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{lost}");
    let asked = driver.call_count();
    let again = step(&mut engine, &fixture.prompts[1].ids[3..4]).expect_err("a lost device");
    assert!(again.is_lost());
    assert_eq!(driver.call_count(), asked);
    drop(engine);
    assert_eq!((driver.live(), driver.violations()), (0, Vec::new()));
}

/// Requests for so many tokens: one greedy, others drawn with filters.
fn requests(fixture: &Golden, max_tokens: u64, needs_logits: bool) -> Vec<GenerationRequest> {
    let drawn = |seed| SamplingParams { seed, ..SamplingParams::default() };
    let samplings = [
        SamplingParams::greedy(),
        drawn(1),
        SamplingParams { top_k: 20, top_p: 0.9, temperature: 1.5, ..drawn(2) },
        SamplingParams { min_p: 0.02, temperature: 0.8, ..drawn(3) },
    ];
    let request = |(i, sampling): (usize, SamplingParams)| {
        let ids = &fixture.prompts[i % fixture.prompts.len()].ids;
        let prompt = ids[..ids.len().min(3 + i)].to_vec();
        GenerationRequest { prompt, sampling, stop_ids: Vec::new(), max_tokens, needs_logits }
    };
    samplings.into_iter().enumerate().map(request).collect()
}

fn texts(engine: &mut Engine, requests: &[GenerationRequest]) -> Vec<Vec<u32>> {
    let (texts, _) = generate(engine, requests, |_| ControlFlow::Continue(())).expect("texts");
    texts.into_iter().map(|text| text.tokens).collect()
}

/// The kernel that chooses may differ from the host where rounding decides, which is rare: these tokens do not lie there. Of a step nothing comes
/// back but token ids, and the next one is handed over before they are waited for.
#[test]
fn tokens_that_the_gpu_chooses_are_those_of_the_host() {
    let fixture = Golden::read(&golden::folder().join("llama31"));
    let (_folder, artifact) = compiled("llama31", "sm_90", Activations::F16);
    let driver = SimulatedDriver::new(SimulatedGpu { checks: true, ..gpu("sm_90") });
    let (mut cuda, mut sim) = (on_cuda(&artifact, &driver), on_sim(&artifact));
    assert!(cuda.chooses() && !sim.chooses());
    let asked = requests(&fixture, 6, false);
    let expected = texts(&mut sim, &asked);
    driver.take_calls();
    assert_eq!(texts(&mut cuda, &asked), expected);
    let calls = driver.take_calls();
    let ids = 4 * asked.len() as u64;
    let downloads: Vec<u64> =
        calls.iter().filter_map(|c| if let Call::Download { bytes } = c { Some(*bytes) } else { None }).collect();
    assert_eq!(downloads, [ids; 6]);
    let steps: Vec<Call> =
        calls.into_iter().filter(|c| matches!(c, Call::LaunchGraph | Call::Copy { .. } | Call::Wait)).collect();
    let (launch, copy) = (Call::LaunchGraph, Call::Copy { bytes: ids });
    let mut overlapping = vec![launch];
    (1..6).for_each(|_| overlapping.extend([copy, launch, Call::Wait]));
    overlapping.push(Call::Wait);
    assert_eq!(steps, overlapping);
    // One alone, and those whose logits somebody wants to see, which the host chooses.
    assert_eq!(texts(&mut cuda, &asked[2..3]), expected[2..3]);
    assert_eq!(texts(&mut cuda, &requests(&fixture, 6, true)), expected);
    drop(cuda);
    assert_eq!((driver.live(), driver.violations(), driver.findings().len()), (0, Vec::new(), 0));
}
