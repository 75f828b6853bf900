//! The engine over a device that checks its inputs, and over the processor.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::generate::{FinishReason, GenerationRequest, generate};
use super::*;
use crate::artifact::OpenOptions;
use crate::sample::SamplingParams;
use crate::testing::{FakeDevice, TinyModel, reference_logits, shapes};

const VOCABULARY: usize = shapes::VOCABULARY;

fn manifest() -> Manifest {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new().write(folder.path())
}

fn fake_engine(pages: u64) -> Engine {
    let manifest = manifest();
    Engine::with_device(&manifest, Box::new(FakeDevice::new(&manifest, pages)), shapes::MAX_CONTEXT)
}

fn cpu_engine(options: &EngineOptions) -> Result<Engine, EngineError> {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new().write(folder.path());
    // The mapping outlives the folder's names.
    let artifact = Artifact::open(folder.path(), &OpenOptions { mmap: false, ..OpenOptions::default() }).unwrap();
    Engine::new(Arc::new(artifact), options)
}

#[test]
fn buckets_are_the_smallest_that_fit_and_prompts_are_cut() {
    let manifest = manifest();
    let device = FakeDevice::new(&manifest, 8);
    let log = device.log();
    let mut engine = Engine::with_device(&manifest, Box::new(device), shapes::MAX_CONTEXT);
    let id = engine.open_sequence();
    let tokens: Vec<u32> = (0..37).collect();
    let logits = engine.step(&[Chunk { sequence: id, tokens: &tokens, logits: Rows::Last }]).unwrap();
    assert_eq!((logits.rows(), logits.row(0).unwrap()), (1, FakeDevice::row(&tokens, VOCABULARY).as_slice()));
    engine.step(&[Chunk { sequence: id, tokens: &[1], logits: Rows::Last }]).unwrap();
    engine.step(&[Chunk { sequence: id, tokens: &[1, 2], logits: Rows::None }]).unwrap();
    engine.step(&[Chunk { sequence: id, tokens: &[0; 12], logits: Rows::All }]).unwrap();
    let steps = log.lock().unwrap().clone();
    assert_eq!(steps, [(2, 16, 1), (2, 16, 1), (2, 5, 1), (0, 1, 1), (1, 2, 1), (2, 8, 8), (1, 4, 4)]);
}

#[test]
fn bad_steps_are_errors_and_change_nothing() {
    let mut engine = fake_engine(3);
    let (a, b) = (engine.open_sequence(), engine.open_sequence());
    let chunk = |sequence, tokens| Chunk { sequence, tokens, logits: Rows::Last };
    engine.step(&[chunk(a, &[1; 20])]).unwrap();
    let closed = engine.open_sequence();
    engine.close_sequence(closed).unwrap();
    let unknown = [VOCABULARY as u32];
    type IsExpected = fn(&EngineError) -> bool;
    let bad: Vec<(Vec<Chunk>, IsExpected)> = vec![
        (vec![chunk(a, &[])], |e| matches!(e, EngineError::EmptyChunk { chunk: 0 })),
        (vec![chunk(b, &[1]), chunk(a, &unknown)], |e| matches!(e, EngineError::UnknownToken { token: 40, .. })),
        (vec![chunk(a, &[1]), chunk(a, &[2])], |e| matches!(e, EngineError::RepeatedSequence { chunk: 1 })),
        (vec![chunk(a, &[1; 109])], |e| matches!(e, EngineError::TooLong { tokens: 129, max_model_len: 128 })),
        (vec![chunk(b, &[1]), chunk(a, &[1; 13])], |e| {
            matches!(e, EngineError::Pages(PageError::OutOfPages { needed: 2, free: 1 }))
        }),
        (vec![chunk(closed, &[1])], |e| matches!(e, EngineError::Pages(PageError::UnknownSequence(_)))),
    ];
    for (chunks, expected) in bad {
        let error = engine.step(&chunks).unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert_eq!((engine.pool().tokens(a), engine.pool().tokens(b)), (Ok(20), Ok(0)));
        assert_eq!(engine.pool().free_pages(), 1);
    }
}

#[test]
fn a_failing_device_leaves_sequences_as_they_were() {
    let manifest = manifest();
    for fail_after in 0..3 {
        let mut device = FakeDevice::new(&manifest, 8);
        device.fail_after = Some(fail_after);
        let mut engine = Engine::with_device(&manifest, Box::new(device), shapes::MAX_CONTEXT);
        let id = engine.open_sequence();
        let chunk = Chunk { sequence: id, tokens: &[1; 40], logits: Rows::All };
        assert!(matches!(engine.step(&[chunk]), Err(EngineError::Device(_))));
        assert_eq!((engine.pool().tokens(id), engine.pool().free_pages()), (Ok(0), 8));
    }
}

#[test]
fn a_shared_prefix_is_read_by_both() {
    let mut engine = fake_engine(8);
    let first = engine.open_sequence();
    let prompt: Vec<u32> = (0..20).collect();
    engine.step(&[Chunk { sequence: first, tokens: &prompt, logits: Rows::None }]).unwrap();
    let second = engine.fork_sequence(first, 16).unwrap();
    let chunks = [
        Chunk { sequence: first, tokens: &[30], logits: Rows::Last },
        Chunk { sequence: second, tokens: &[31, 32], logits: Rows::Last },
    ];
    let logits = engine.step(&chunks).unwrap();
    assert_eq!(logits.row(0).unwrap(), FakeDevice::row(&[&prompt[..], &[30]].concat(), VOCABULARY));
    assert_eq!(logits.row(1).unwrap(), FakeDevice::row(&[&prompt[..16], &[31, 32]].concat(), VOCABULARY));
    assert_eq!(engine.pool().free_pages(), 8 - 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any mix of chunks in any order of steps gives each token the row of its own history.
    #[test]
    fn every_row_sees_its_own_history(
        steps in prop::collection::vec(prop::collection::vec((0usize..6, 1usize..24, 0u8..3), 1..6), 1..8),
    ) {
        let mut engine = fake_engine(64);
        let ids: Vec<_> = (0..6).map(|_| engine.open_sequence()).collect();
        let mut histories: Vec<Vec<u32>> = vec![Vec::new(); 6];
        let mut next = 0u32;
        for mut step in steps {
            step.sort_unstable();
            step.dedup_by_key(|c| c.0);
            step.retain(|(s, n, _)| histories[*s].len() + n <= shapes::MAX_CONTEXT as usize);
            let tokens: Vec<Vec<u32>> = step.iter().map(|(_, n, _)| (0..*n).map(|_| { next += 7; next % 40 }).collect()).collect();
            let rows = |kind| [Rows::None, Rows::Last, Rows::All][kind as usize];
            let chunks: Vec<Chunk> = step.iter().zip(&tokens)
                .map(|((s, _, kind), tokens)| Chunk { sequence: ids[*s], tokens, logits: rows(*kind) }).collect();
            let mut expected = Vec::new();
            for (i, ((s, _, kind), tokens)) in step.iter().zip(&tokens).enumerate() {
                for (t, token) in tokens.iter().enumerate() {
                    histories[*s].push(*token);
                    if rows(*kind) == Rows::All || (rows(*kind) == Rows::Last && t + 1 == tokens.len()) {
                        expected.push((i, t, FakeDevice::row(&histories[*s], VOCABULARY)));
                    }
                }
            }
            if next.is_multiple_of(2) {
                let logits = engine.step(&chunks).unwrap();
                prop_assert_eq!(logits.rows(), expected.len());
                prop_assert_eq!(logits.values(), expected.into_iter().flat_map(|(.., row)| row).collect::<Vec<_>>());
            } else {
                let mut found = Vec::new();
                engine.step_each(&chunks, |row| found.push((row.chunk, row.token, row.logits.to_vec()))).unwrap();
                prop_assert_eq!(found, expected);
            }
        }
    }
}

fn request(prompt: &[u32], max_tokens: u64) -> GenerationRequest {
    GenerationRequest {
        prompt: prompt.to_vec(),
        sampling: SamplingParams::greedy(),
        stop_ids: vec![],
        max_tokens,
        needs_logits: true,
    }
}

/// The greedy continuation by the fake device's rule.
fn continuation(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..count {
        let row = FakeDevice::row(&history, VOCABULARY);
        history.push(row.iter().position(|v| *v == 1.0).unwrap() as u32);
    }
    history.split_off(prompt.len())
}

#[test]
fn requests_are_generated_together_and_end_for_their_own_reasons() {
    let mut engine = fake_engine(64);
    let prompts: [&[u32]; 4] = [&[1, 2, 3], &[9; 30], &[4], &[7, 7]];
    let mut requests: Vec<_> = prompts.iter().map(|p| request(p, 20)).collect();
    let expected: Vec<_> = prompts.iter().map(|p| continuation(p, 20)).collect();
    let stop = expected[1].iter().position(|t| *t == expected[1][5]).unwrap();
    requests[1].stop_ids = vec![expected[1][5]];
    requests[3].max_tokens = 1;
    let mut seen = vec![Vec::new(); 4];
    let (generations, timings) = generate(&mut engine, &requests, |event| {
        assert_eq!(event.index, seen[event.request].len());
        assert_eq!(event.logits[event.token as usize], 1.0);
        seen[event.request].push(event.token);
        if event.request == 2 && event.index == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    let lengths = [20, stop, 4, 1];
    let finishes = [FinishReason::Length, FinishReason::Stop, FinishReason::Cancelled, FinishReason::Length];
    for (i, generation) in generations.iter().enumerate() {
        assert_eq!(generation.tokens, expected[i][..lengths[i]], "request {i}");
        assert_eq!((generation.finish, &seen[i]), (finishes[i], &generation.tokens));
    }
    assert_eq!(timings.prompt_tokens, 36);
    assert_eq!(timings.generated_tokens, (20 + stop + 1 + 4 + 1) as u64);
    assert_eq!(timings.later_tokens, timings.generated_tokens - 4);
    assert_eq!((engine.pool().free_pages(), engine.pool().sequences()), (64, 0));
}

#[test]
fn generation_ends_at_the_longest_length_and_frees_pages_on_errors() {
    let mut engine = fake_engine(8);
    let (generations, _) = generate(&mut engine, &[request(&[5; 120], 100)], |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((generations[0].tokens.len(), generations[0].finish), (9, FinishReason::Length));
    let (none, timings) = generate(&mut engine, &[request(&[5], 0)], |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((none[0].tokens.len(), timings.generated_tokens), (0, 0));
    for bad in [request(&[], 1), request(&[99], 1), request(&[1; 129], 1)] {
        assert!(generate(&mut engine, &[request(&[1], 5), bad], |_| ControlFlow::Continue(())).is_err());
    }
    let mut params = request(&[1], 1);
    params.sampling.top_p = 2.0;
    assert!(matches!(generate(&mut engine, &[params], |_| ControlFlow::Continue(())), Err(EngineError::Params(_))));
    assert_eq!((engine.pool().free_pages(), engine.pool().sequences()), (8, 0));
}

#[test]
fn a_ragged_batch_on_the_processor_has_the_bits_of_single_sequences() {
    let options = EngineOptions { threads: Some(2), kv_tokens: Some(512), ..EngineOptions::default() };
    let mut engine = cpu_engine(&options).unwrap();
    let prompts: Vec<Vec<u32>> = (0..4).map(|s| (0..7 + 5 * s).map(|i| (i * 13 + s * 3) % 40).collect()).collect();
    let alone: Vec<Vec<f32>> = prompts
        .iter()
        .map(|prompt| {
            let id = engine.open_sequence();
            prompt
                .iter()
                .flat_map(|t| {
                    let chunk = Chunk { sequence: id, tokens: &[*t], logits: Rows::All };
                    engine.step(&[chunk]).unwrap().values().to_vec()
                })
                .collect()
        })
        .collect();
    let ids: Vec<_> = prompts.iter().map(|_| engine.open_sequence()).collect();
    let chunks: Vec<Chunk> =
        ids.iter().zip(&prompts).map(|(id, tokens)| Chunk { sequence: *id, tokens, logits: Rows::All }).collect();
    assert_eq!(engine.step(&chunks).unwrap().values(), alone.concat());
    let expected = reference_logits(&TinyModel::new(), &prompts[3]).concat();
    assert!(alone[3].iter().zip(expected).all(|(a, e)| (f64::from(*a) - e).abs() < 1e-4));
}

#[test]
fn options_out_of_range_are_named() {
    for (options, name) in [
        (EngineOptions { max_model_len: Some(129), ..EngineOptions::default() }, "max_model_len"),
        (EngineOptions { max_model_len: Some(0), ..EngineOptions::default() }, "max_model_len"),
        (EngineOptions { kv_tokens: Some(0), ..EngineOptions::default() }, "pages"),
        (EngineOptions { threads: Some(0), ..EngineOptions::default() }, "threads"),
        (EngineOptions { device: DeviceChoice::Cuda, ..EngineOptions::default() }, "target cpu"),
    ] {
        let text = cpu_engine(&options).err().unwrap().to_string();
        assert!(text.contains(name) && !text.contains('\n'), "{text}");
    }
}
