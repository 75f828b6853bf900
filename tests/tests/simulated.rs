//! Compiled fixtures on the simulator: the PTX of an artifact, every launch with every check, against the reference outputs.
//!
//! Logits of whole prompts must agree with the reference, in pieces and in batches they must have the same bits, and no check may find
//! anything. A few fixtures run always; all of them, for both dialects of PTX and both kinds of activations, take minutes and are asked for
//! with `cargo xtask test --all`. With `MOESAIC_TEST_DEVICE=cuda` a GPU takes the simulator's place, with its own machine code.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use compiler::fuse::Fusion;
use compiler::pipeline::CompileOptions;
use compiler::target::{Activations, Arch, Target};
use moesaic_tests::artifacts::{checked, compile_with, gpu_architecture, logits, on_gpu, turn};
use moesaic_tests::golden::{self, Golden, Prompt};
use runtime::engine::{Chunk, Engine, Rows};
use runtime::kv::pages::SequenceId;

/// One of each dialect of PTX; of a GPU its own.
fn targets() -> Vec<&'static str> {
    if on_gpu() { vec![gpu_architecture().name()] } else { vec!["sm_80", "sm_100"] }
}

/// Tokens of the continuation that are decoded together with other sequences.
const DECODED: usize = 3;

/// Below this gap between the two largest logits a different choice is rounding.
const NEAR_TIE: f32 = 1e-4;

/// The same where activations are rounded.
const NEAR_HALF_TIE: f32 = 0.2;

/// Dense, tied and untied; windows, caps, sinks; mixtures of every routing; latent attention; every way of storing weights.
const REPRESENTATIVE: [(&str, &str, Activations); 10] = [
    ("llama31", "sm_80", Activations::F16),
    ("odd_llama", "sm_80", Activations::F32),
    ("gemma2", "sm_100", Activations::F32),
    ("aix", "sm_80", Activations::F16),
    ("qwen2_moe_sharded", "sm_100", Activations::F16),
    ("phimoe", "sm_80", Activations::F32),
    ("deepseek_v3", "sm_100", Activations::F32),
    ("gpt_oss_mxfp4", "sm_80", Activations::F16),
    ("llama_gptq_desc_act", "sm_80", Activations::F32),
    ("bitnet_packed", "sm_100", Activations::F16),
];

/// Norms of rows, heads and layers, gates and caps, routing by partial logits, shared experts.
const FUSED: [(&str, Activations); 5] = [
    ("qwen3", Activations::F16),
    ("odd_llama", Activations::F32),
    ("gemma2", Activations::F16),
    ("aix", Activations::F16),
    ("phimoe", Activations::F32),
];

/// A fixture compiled for a target.
struct Case {
    fixture: Golden,
    target: &'static str,
    activations: Activations,
}

impl Case {
    fn name(&self) -> String {
        format!("{} {} {}", self.fixture.name(), self.target, self.activations)
    }

    fn tolerance(&self) -> f64 {
        match self.activations {
            Activations::F32 => self.fixture.tolerance(),
            _ => self.fixture.half_tolerance(),
        }
    }

    /// Runs everything; gives the worst relative RMS over the prompts.
    fn check(&self) -> f64 {
        let target: Target = self.target.parse().expect("a target");
        let options = CompileOptions { threads: 1, ..CompileOptions::new(target, self.activations) };
        let (_folder, artifact) = compile_with(&self.fixture.folder, &options);
        let _turn = turn();
        let mut engine = checked(&artifact, self.target, 512);
        let prompts = &self.fixture.prompts;
        let whole: Vec<Vec<f32>> = prompts.iter().map(|p| logits(&mut engine, &p.ids, usize::MAX)).collect();
        let errors = whole.iter().zip(prompts).map(|(found, prompt)| golden::relative_rms(found, &prompt.logits));
        let worst = errors.fold(0f64, f64::max);
        assert!(worst < self.tolerance(), "relative RMS {worst:.2e}, limit {:.0e}", self.tolerance());
        if let (Some(prompt), Some(whole)) = (prompts.get(1), whole.get(1)) {
            for chunk in [1, 7] {
                assert!(logits(&mut engine, &prompt.ids, chunk) == *whole, "other bits in pieces of {chunk}");
            }
        }
        let sequences = check_batch(&mut engine, prompts, &whole);
        check_decoding(&mut engine, prompts, &sequences, self.tolerance() < 1e-3);
        worst
    }
}

/// All prompts in one step; leaves their sequences open.
fn check_batch(engine: &mut Engine, prompts: &[Prompt], alone: &[Vec<f32>]) -> Vec<SequenceId> {
    let sequences: Vec<SequenceId> = prompts.iter().map(|p| engine.open_sequence_for(p.ids.len() as u64)).collect();
    let mut together = vec![Vec::new(); prompts.len()];
    let tokens: Vec<_> = sequences.iter().zip(prompts).map(|(s, prompt)| (*s, prompt.ids.clone())).collect();
    step(engine, &tokens, |i, row| together[i].extend_from_slice(row));
    assert!(together == alone, "other bits in a batch");
    sequences
}

/// One step of several sequences.
fn step(engine: &mut Engine, tokens: &[(SequenceId, Vec<u32>)], mut sink: impl FnMut(usize, &[f32])) {
    let chunks = tokens.iter().map(|(sequence, tokens)| Chunk { sequence: *sequence, tokens, logits: Rows::All });
    let chunks: Vec<Chunk> = chunks.collect();
    engine.step_each(&chunks, |row| sink(row.chunk, row.logits)).expect("a step");
}

/// Continues all sequences together, a token of the reference's continuation each a step: the largest logit is the reference's
/// next token, except where that is a matter of rounding.
fn check_decoding(engine: &mut Engine, prompts: &[Prompt], sequences: &[SequenceId], exact: bool) {
    for i in 0..DECODED {
        let tokens: Vec<_> =
            sequences.iter().zip(prompts).map(|(sequence, p)| (*sequence, vec![p.greedy_ids[i]])).collect();
        step(engine, &tokens, |n, row| {
            let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let next = row[prompts[n].greedy_ids[i + 1] as usize];
            let near = if exact { NEAR_TIE } else { NEAR_HALF_TIE };
            let gap = prompts[n].greedy_gap[i + 1];
            assert!(best == next || gap < near, "prompt {n}: another token after {i} of the continuation, gap {gap}");
        });
    }
    for sequence in sequences {
        engine.close_sequence(*sequence).expect("an open sequence");
    }
}

/// Runs cases on all cores; panics at the end with everything that failed.
fn check_all(cases: &[Case]) {
    let (next, lines) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (passed, line) = outcome(case);
                    println!("{line}");
                    lines.lock().expect("no worker panics").push((passed, line));
                }
            });
        }
    });
    let lines = lines.into_inner().expect("no worker panics");
    assert_eq!(lines.len(), cases.len());
    let failed: Vec<String> = lines.into_iter().filter(|(passed, _)| !passed).map(|(_, line)| line).collect();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

fn outcome(case: &Case) -> (bool, String) {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| case.check()));
    let seconds = start.elapsed().as_secs_f64();
    match result {
        Ok(error) => (true, format!("{:<40} {error:>9.1e} {seconds:>6.1} s", case.name())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            (false, format!("{:<40} FAILED {seconds:>6.1} s: {text}", case.name()))
        }
    }
}

/// Buckets are fused differently, which must not change a bit: kernels do the same operations in the same order, fused or not.
fn check_fusion(fixture: &Golden, activations: Activations) {
    let target = if on_gpu() { Target::Cuda(gpu_architecture()) } else { Target::Cuda(Arch::Sm80) };
    let ids = &fixture.prompts[1].ids;
    let run = |fusion| {
        let options = CompileOptions { fusion, buckets: vec![1, 64], ..CompileOptions::new(target, activations) };
        let (_folder, artifact) = compile_with(&fixture.folder, &options);
        let _turn = turn();
        let mut engine = checked(&artifact, target.name(), 512);
        [usize::MAX, 1].map(|chunk| logits(&mut engine, ids, chunk))
    };
    let (separate, fused) = (run(Fusion::Off), run(Fusion::Exact));
    assert!(separate[0] == separate[1], "{}: other bits a token at a time", fixture.name());
    let error = golden::relative_rms(&fused[0], &separate[0]);
    assert!(separate == fused, "{}: fusion changes bits, relative RMS {error:.1e}", fixture.name());
}

#[test]
fn exact_fusion_leaves_every_bit() {
    for (name, activations) in FUSED {
        check_fusion(&Golden::read(&golden::folder().join(name)), activations);
    }
}

#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn exact_fusion_leaves_every_bit_of_every_fixture() {
    golden::fixtures().iter().for_each(|fixture| check_fusion(fixture, Activations::F16));
}

#[test]
fn representative_fixtures_agree_with_the_reference_and_no_check_finds_anything() {
    let case = |(name, target, activations): (&str, &'static str, Activations)| Case {
        fixture: Golden::read(&golden::folder().join(name)),
        target: if on_gpu() { gpu_architecture().name() } else { target },
        activations,
    };
    check_all(&REPRESENTATIVE.map(case));
}

/// `MOESAIC_SIMULATED=llama31,aix` runs those fixtures only.
#[test]
#[ignore = "takes minutes: cargo xtask test --all"]
fn every_fixture_agrees_with_the_reference_and_no_check_finds_anything() {
    let only = std::env::var("MOESAIC_SIMULATED").ok();
    let chosen = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|o| o == name));
    let mut cases = Vec::new();
    for target in targets() {
        for activations in [Activations::F32, Activations::F16] {
            let fixtures = golden::fixtures().into_iter().filter(|f| chosen(&f.name()));
            cases.extend(fixtures.map(|fixture| Case { fixture, target, activations }));
        }
    }
    let least = if only.is_none() { 2 * targets().len() * 38 } else { 1 };
    assert!(cases.len() >= least, "only {} cases", cases.len());
    check_all(&cases);
}
