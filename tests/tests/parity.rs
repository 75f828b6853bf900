//! Compiled fixtures on the cpu device against the reference outputs: logits of every position, greedy continuations, and the
//! same bits whatever the chunking, batch, thread count and instruction set.

use std::ops::ControlFlow;

use compiler::target::Activations;
use kernels::cpu::isa::Isa;
use moesaic_tests::artifacts::{compile, engine};
use moesaic_tests::golden::{self, Golden, Prompt};
use runtime::engine::generate::{GenerationRequest, generate};
use runtime::engine::{Chunk, Engine, EngineOptions, Rows};
use runtime::sample::SamplingParams;

/// Below this gap between the two largest logits a different greedy token is rounding, not an error.
const NEAR_TIE: f32 = 1e-4;

/// Logits of every position, the prompt given in pieces of `chunk` tokens.
fn logits(engine: &mut Engine, ids: &[u32], chunk: usize) -> Vec<f32> {
    let sequence = engine.open_sequence();
    let mut all = Vec::new();
    for tokens in ids.chunks(chunk) {
        let step = [Chunk { sequence, tokens, logits: Rows::All }];
        engine.step_each(&step, |row| all.extend_from_slice(row.logits)).unwrap();
    }
    engine.close_sequence(sequence).unwrap();
    all
}

fn check_logits(name: &str, engine: &mut Engine, prompts: &[Prompt]) {
    for (n, prompt) in prompts.iter().enumerate() {
        let whole = logits(engine, &prompt.ids, usize::MAX);
        let error = golden::relative_rms(&whole, &prompt.logits);
        let worst = whole.iter().zip(&prompt.logits).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        println!("{name} prompt {n}: relative RMS {error:.1e}, largest difference {worst:.1e}");
        assert!(error < 2e-5 && worst < 1e-3, "{name} prompt {n}: relative RMS {error:.2e}, largest {worst:.2e}");
        for chunk in [1, 7, 16] {
            assert_eq!(logits(engine, &prompt.ids, chunk), whole, "{name} prompt {n} in chunks of {chunk}");
        }
    }
}

fn greedy(prompt: &Prompt) -> GenerationRequest {
    GenerationRequest {
        prompt: prompt.ids.clone(),
        sampling: SamplingParams::greedy(),
        stop_ids: Vec::new(),
        max_tokens: prompt.greedy_ids.len() as u64,
    }
}

/// All prompts together in one batch.
fn check_greedy(name: &str, engine: &mut Engine, prompts: &[Prompt]) {
    let requests: Vec<_> = prompts.iter().map(greedy).collect();
    let (texts, _) = generate(engine, &requests, |_| ControlFlow::Continue(())).unwrap();
    for (n, (text, prompt)) in texts.iter().zip(prompts).enumerate() {
        let agree = text.tokens.iter().zip(&prompt.greedy_ids).take_while(|(a, b)| a == b).count();
        if let Some(gap) = prompt.greedy_gap.get(agree) {
            assert!(*gap < NEAR_TIE, "{name} prompt {n} leaves the reference at token {agree}, gap {gap}");
            println!("{name} prompt {n}: near-tie at token {agree}, gap {gap:.1e}");
        }
    }
}

fn check(fixture: &Golden) {
    let name = fixture.name();
    let (_folder, artifact) = compile(&fixture.folder, Activations::F32);
    let mut engine = engine(&artifact, 512, EngineOptions { threads: Some(2), ..EngineOptions::default() });
    check_logits(&name, &mut engine, &fixture.prompts);
    check_greedy(&name, &mut engine, &fixture.prompts);
}

#[test]
fn every_fixture_agrees_with_the_reference() {
    let fixtures = golden::fixtures();
    assert!(fixtures.len() >= 10, "only {} fixtures found", fixtures.len());
    fixtures.iter().for_each(check);
}

#[test]
fn gguf_conversions_agree_with_the_reference() {
    for name in ["llama31", "odd_qwen3"] {
        let mut fixture = Golden::read(&golden::folder().join(name));
        fixture.folder = golden::folder().join("gguf").join(format!("{name}.gguf"));
        check(&fixture);
    }
}

#[test]
fn bits_do_not_depend_on_batch_threads_or_instruction_set() {
    for (name, activations) in [("odd_llama", Activations::F32), ("mistral", Activations::Int8)] {
        let fixture = Golden::read(&golden::folder().join(name));
        let (_folder, artifact) = compile(&fixture.folder, activations);
        let ids: Vec<&[u32]> = fixture.prompts.iter().map(|p| p.ids.as_slice()).collect();
        let mut reference = engine(&artifact, 512, EngineOptions { threads: Some(1), ..EngineOptions::default() });
        let alone: Vec<Vec<f32>> = ids.iter().map(|ids| logits(&mut reference, ids, usize::MAX)).collect();
        for isa in Isa::available() {
            let options = EngineOptions { threads: Some(3), isa: Some(*isa), ..EngineOptions::default() };
            let mut engine = engine(&artifact, 512, options);
            let chunks: Vec<Chunk> = ids
                .iter()
                .map(|tokens| Chunk { sequence: engine.open_sequence(), tokens, logits: Rows::All })
                .collect();
            let mut together = vec![Vec::new(); ids.len()];
            engine.step_each(&chunks, |row| together[row.chunk].extend_from_slice(row.logits)).unwrap();
            assert_eq!(together, alone, "{name} on {isa}");
        }
    }
}
