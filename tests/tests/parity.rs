//! Compiled fixtures on the cpu device against the reference outputs: logits of every position, greedy continuations, and the
//! same bits whatever the chunking, batch, thread count and instruction set. On a GPU with `MOESAIC_TEST_DEVICE=cuda`.

use std::ops::ControlFlow;
use std::path::Path;

use compiler::target::Activations;
use kernels::cpu::isa::Isa;
use moesaic_tests::artifacts::{compile, compile_traced, engine, logits, on_gpu, turn};
use moesaic_tests::golden::{self, Golden, Prompt};
use runtime::engine::generate::{GenerationRequest, generate};
use runtime::engine::{Chunk, Engine, EngineOptions, Rows};
use runtime::sample::SamplingParams;

/// Where the table of fixtures is left, in cargo's folder for tests' files.
const TABLE_FILE: &str = "golden.txt";

/// Below this gap between the two largest logits a different greedy token is rounding, not an error.
const NEAR_TIE: f32 = 1e-4;

/// Worst relative RMS over the prompts.
fn check_logits(golden: &Golden, engine: &mut Engine) -> f64 {
    let (name, limit) = (golden.name(), golden.tolerance());
    let mut worst = 0f64;
    for (n, prompt) in golden.prompts.iter().enumerate() {
        let whole = logits(engine, &prompt.ids, usize::MAX);
        let error = golden::relative_rms(&whole, &prompt.logits);
        let largest = whole.iter().zip(&prompt.logits).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        println!("{name} prompt {n}: relative RMS {error:.1e}, largest difference {largest:.1e}");
        assert!(error < limit, "{name} prompt {n}: relative RMS {error:.2e}");
        assert!(limit > 1e-3 || largest < 1e-3, "{name} prompt {n}: largest difference {largest:.2e}");
        for chunk in [1, 7, 16] {
            assert_eq!(logits(engine, &prompt.ids, chunk), whole, "{name} prompt {n} in chunks of {chunk}");
        }
        worst = worst.max(error);
    }
    worst
}

/// Selected experts and their weights in every mixture layer of prompt 1; gives the number of choices compared.
fn check_routing(golden: &Golden, engine: &mut Engine) -> usize {
    let Some(prompt) = golden.prompts.get(1) else { return 0 };
    let sequence = engine.open_sequence_for(prompt.ids.len() as u64);
    engine.step_each(&[Chunk { sequence, tokens: &prompt.ids, logits: Rows::Last }], |_| ()).unwrap();
    let mut compared = 0;
    for routing in &golden.routing {
        let place = format!("{} layer {}", golden.name(), routing.layer);
        let experts = engine.output_ints(&format!("router.{}.experts", routing.layer)).expect("traced experts");
        let weights = engine.output(&format!("router.{}.weights", routing.layer)).expect("traced weights");
        assert_eq!(experts.len(), routing.experts.len(), "{place}");
        let slots = experts.len() / routing.margin.len();
        for (t, margin) in routing.margin.iter().enumerate() {
            let row = t * slots..(t + 1) * slots;
            if *margin > NEAR_TIE {
                assert_eq!(experts[row.clone()], routing.experts[row], "{place} token {t}, margin {margin}");
                compared += slots;
            }
        }
        let error = golden::relative_rms(weights, &routing.weights);
        assert!(error < 1e-5, "{place}: weights differ by {error:.1e}");
    }
    engine.close_sequence(sequence).unwrap();
    compared
}

fn greedy(prompt: &Prompt) -> GenerationRequest {
    GenerationRequest {
        prompt: prompt.ids.clone(),
        sampling: SamplingParams::greedy(),
        stop_ids: Vec::new(),
        max_tokens: prompt.greedy_ids.len() as u64,
        needs_logits: false,
    }
}

/// All prompts together in one batch; gives the number of equal tokens.
fn check_greedy(golden: &Golden, engine: &mut Engine) -> usize {
    let (name, prompts) = (golden.name(), &golden.prompts);
    let near_tie = if golden.tolerance() > 1e-3 { 0.1 } else { NEAR_TIE };
    let requests: Vec<_> = prompts.iter().map(greedy).collect();
    let (texts, _) = generate(engine, &requests, |_| ControlFlow::Continue(())).unwrap();
    let mut equal = 0;
    for (n, (text, prompt)) in texts.iter().zip(prompts).enumerate() {
        let agree = text.tokens.iter().zip(&prompt.greedy_ids).take_while(|(a, b)| a == b).count();
        equal += agree;
        if let Some(gap) = prompt.greedy_gap.get(agree) {
            assert!(*gap < near_tie, "{name} prompt {n} leaves the reference at token {agree}, gap {gap}");
            println!("{name} prompt {n}: near-tie at token {agree}, gap {gap:.1e}");
        }
    }
    equal
}

/// Checks a checkpoint on the device against a fixture; gives its line of the table.
fn check(checkpoint: &Path, fixture: &Golden) -> String {
    let (_folder, artifact) = compile_traced(checkpoint, Activations::F32);
    let _turn = turn();
    let mut engine = engine(&artifact, 512, EngineOptions { threads: Some(2), ..EngineOptions::default() });
    let error = check_logits(fixture, &mut engine);
    let equal = check_greedy(fixture, &mut engine);
    let tokens: usize = fixture.prompts.iter().map(|p| p.greedy_ids.len()).sum();
    let experts = match check_routing(fixture, &mut engine) {
        0 => "-".to_string(),
        compared => format!("{compared} equal"),
    };
    let family = &artifact.manifest().model.family;
    format!("{:<26} {family:<12} {error:>10.1e}   {equal:>3} of {tokens:<3} {experts:>12}", fixture.name())
}

/// The table goes to a file as well, from which `cargo xtask test` prints it.
#[test]
fn every_fixture_agrees_with_the_reference() {
    let fixtures = golden::fixtures();
    assert!(fixtures.len() >= 38, "only {} fixtures found", fixtures.len());
    let header = format!("{:<26} {:<12} {:>10}   {:>10} {:>12}", "fixture", "family", "logits", "greedy", "experts");
    let lines: Vec<String> = std::iter::once(header).chain(fixtures.iter().map(|f| check(&f.folder, f))).collect();
    let table = lines.join("\n") + "\n";
    print!("{table}");
    // An executable that was built elsewhere leaves no table.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if folder.is_dir() {
        std::fs::write(folder.join(TABLE_FILE), table).unwrap();
    }
}

#[test]
fn gguf_conversions_agree_with_the_reference() {
    let conversions = golden::conversions();
    assert!(conversions.len() >= 10, "only {} conversions found", conversions.len());
    for (file, golden) in conversions {
        println!("{}", check(&file, &golden));
    }
}

/// Dense, mixtures, latent attention, quantised experts, activation order, ternary.
const BIT_CASES: [(&str, Activations); 10] = [
    ("odd_llama", Activations::F32),
    ("mistral", Activations::Int8),
    ("aix", Activations::F32),
    ("deepseek_v3", Activations::F32),
    ("gpt_oss_mxfp4", Activations::Int8),
    ("mixtral_gptq", Activations::Int8),
    ("qwen3_moe_gptq_desc_act", Activations::Int8),
    ("bitnet_packed", Activations::Int8),
    ("deepseek_v3", Activations::F16),
    ("qwen3_moe", Activations::F16),
];

#[test]
fn bits_do_not_depend_on_batch_threads_or_instruction_set() {
    for (name, activations) in BIT_CASES {
        let fixture = Golden::read(&golden::folder().join(name));
        let (_folder, artifact) = compile(&fixture.folder, activations);
        let ids: Vec<&[u32]> = fixture.prompts.iter().map(|p| p.ids.as_slice()).collect();
        let _turn = turn();
        let mut reference = engine(&artifact, 512, EngineOptions { threads: Some(1), ..EngineOptions::default() });
        let alone: Vec<Vec<f32>> = ids.iter().map(|ids| logits(&mut reference, ids, usize::MAX)).collect();
        // A GPU has one instruction set.
        for isa in if on_gpu() { &Isa::available()[..1] } else { Isa::available() } {
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
