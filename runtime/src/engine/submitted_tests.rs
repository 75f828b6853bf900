//! Steps under way over a device that does nothing before it is asked for its tokens.

use super::*;
use crate::kv::PrefixCacheOptions;
use crate::kv::salt::CacheSalt;
use crate::sample::{History, Sampler, SamplingParams};
use crate::testing::{FakeDevice, TinyModel, shapes};

const VOCABULARY: usize = shapes::VOCABULARY;

/// An engine with a prefix cache, whose device fails at a call of its own.
fn engine_failing_after(pages: u64, calls: Option<usize>) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let manifest = TinyModel::new().write(folder.path());
    let mut device = FakeDevice::choosing(&manifest, pages);
    device.fail_after = calls;
    let mut engine = Engine::with_device(&manifest, Box::new(device), shapes::MAX_CONTEXT);
    let options = PrefixCacheOptions { host_bytes: 0, dir: None, disk_bytes: 0 };
    engine.enable_prefix_cache(&options).unwrap();
    engine
}

fn engine(pages: u64) -> Engine {
    engine_failing_after(pages, None)
}

fn sampling() -> SamplingParams {
    SamplingParams { seed: 11, ..SamplingParams::default() }
}

fn chunk(sequence: SequenceId, tokens: Next<'_>, position: usize) -> ChoosingChunk<'_> {
    ChoosingChunk { sequence, tokens, logits: Rows::Last, settings: sampling().settings(position as u64) }
}

/// What the device chooses after a text.
fn after(text: &[u32]) -> u32 {
    let params = SamplingParams { seed: sampling().seed + FakeDevice::SEED, ..sampling() };
    let (row, history) = (FakeDevice::row(text, VOCABULARY), History { prompt: &[], output: &[] });
    Sampler::new().sample(&row, history, &params, text.len() as u64).unwrap()
}

/// A text and so many tokens that the device chooses for it.
fn continued(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut text = prompt.to_vec();
    (0..count).for_each(|_| text.push(after(&text)));
    text
}

fn open(engine: &mut Engine, prompt: &[u32]) -> SequenceId {
    engine.open_cached(&CacheSalt::PUBLIC, prompt).unwrap().0
}

fn collect(engine: &mut Engine) -> Vec<u32> {
    engine.collect().unwrap().iter().map(|code| *code as u32).collect()
}

#[test]
fn a_sequence_goes_on_by_a_token_that_is_not_known() {
    let mut engine = engine(32);
    let prompts: [&[u32]; 2] = [&[1, 2, 3], &[4, 5]];
    let texts = prompts.map(|prompt| continued(prompt, 20));
    let ids = prompts.map(|prompt| open(&mut engine, prompt));
    let first = [chunk(ids[0], Next::Known(prompts[0]), 3), chunk(ids[1], Next::Known(prompts[1]), 2)];
    engine.submit(&first).unwrap();
    for step in 1..20 {
        // In another order than before.
        let mut next = [chunk(ids[0], Next::Chosen, 3 + step), chunk(ids[1], Next::Chosen, 2 + step)];
        if step % 3 == 0 {
            next.reverse();
        }
        engine.submit(&next).unwrap();
        let mut expected = [texts[0][2 + step], texts[1][1 + step]];
        if step > 1 && (step - 1) % 3 == 0 {
            expected.reverse();
        }
        assert_eq!(collect(&mut engine), expected, "step {step}");
    }
    collect(&mut engine);
    engine.check_pages();
    // The first page is known with tokens that the device chose.
    let (_, cached) = engine.open_cached(&CacheSalt::PUBLIC, &texts[0][..20]).unwrap();
    assert_eq!(cached.total(), 16, "{cached:?}");
}

#[test]
fn sequences_end_while_a_step_of_theirs_is_under_way() {
    let mut engine = engine(3);
    let (a, b) = (open(&mut engine, &[1; 16]), open(&mut engine, &[2; 5]));
    engine.step(&[Chunk { sequence: a, tokens: &[1; 15], logits: Rows::None }]).unwrap();
    engine.submit(&[chunk(a, Next::Known(&[1]), 16), chunk(b, Next::Known(&[2; 5]), 5)]).unwrap();
    engine.submit(&[chunk(a, Next::Chosen, 17), chunk(b, Next::Chosen, 6)]).unwrap();
    assert_eq!(collect(&mut engine), [after(&[1; 16]), after(&[2; 5])]);
    engine.close_sequence(a).unwrap();
    engine.check_pages();
    // Another takes the page that the step under way still writes.
    let c = open(&mut engine, &[3; 15]);
    let text = continued(&[2; 5], 3);
    engine.submit(&[chunk(b, Next::Chosen, 7), chunk(c, Next::Known(&[3; 15]), 15)]).unwrap();
    assert_eq!(collect(&mut engine)[1], text[6]);
    assert_eq!(collect(&mut engine), [text[7], after(&[3; 15])]);
    engine.check_pages();
}

#[test]
fn cuts_and_forks_wait_for_tokens_and_the_cache_knows_what_is_in_pages() {
    let mut engine = engine(32);
    let text = continued(&[7; 15], 6);
    let a = open(&mut engine, &[7; 15]);
    engine.submit(&[chunk(a, Next::Known(&[7; 15]), 15)]).unwrap();
    engine.submit(&[chunk(a, Next::Chosen, 16)]).unwrap();
    let fork = engine.fork_sequence(a, 16).unwrap();
    engine.truncate_sequence(a, 15).unwrap();
    engine.prefixes.as_ref().unwrap().check(&engine.pool);
    assert_eq!(collect(&mut engine), [text[15]]);
    assert_eq!(collect(&mut engine), [text[16]]);
    engine.submit(&[chunk(fork, Next::Known(&text[16..17]), 17), chunk(a, Next::Known(&[9]), 16)]).unwrap();
    let mut other = vec![7; 15];
    other.push(9);
    assert_eq!(collect(&mut engine), [text[17], after(&other)]);
    engine.check_pages();
    // A step that is waited for comes after what is under way.
    engine.submit(&[chunk(fork, Next::Chosen, 18)]).unwrap_err();
    engine.submit(&[chunk(fork, Next::Known(&text[17..18]), 18)]).unwrap();
    let rows = engine.step(&[Chunk { sequence: fork, tokens: &text[18..19], logits: Rows::Last }]).unwrap();
    assert_eq!(rows.row(0).unwrap(), FakeDevice::row(&text[..19], VOCABULARY));
    assert_eq!(collect(&mut engine), [text[18]]);
    engine.check_pages();
}

#[test]
fn a_step_of_several_sub_steps_is_waited_for() {
    let mut engine = engine(32);
    let (long, text) = ((0..37).map(|i| i % 40).collect::<Vec<u32>>(), continued(&[5], 4));
    let (a, b) = (open(&mut engine, &[5]), open(&mut engine, &long));
    engine.submit(&[chunk(a, Next::Known(&[5]), 1)]).unwrap();
    let chunks = [chunk(b, Next::Known(&long), 37), chunk(a, Next::Chosen, 2)];
    assert!(!engine.is_one_sub_step([(37, Rows::Last), (1, Rows::Last)].into_iter()));
    engine.submit(&chunks).unwrap_err();
    let more = continued(&long, 2);
    // What is under way comes before it.
    let chosen = engine.step_choosing(&chunks).unwrap();
    assert_eq!(chosen.tokens, [more[37] as i32, text[2] as i32]);
    assert_eq!(chosen.logits.row(1).unwrap(), FakeDevice::row(&text[..2], VOCABULARY));
    assert_eq!(collect(&mut engine), [text[1]]);
    engine.check_pages();
    engine.submit(&[chunk(a, Next::Known(&text[2..3]), 3), chunk(b, Next::Known(&more[37..38]), 38)]).unwrap();
    assert_eq!(collect(&mut engine), [text[3], more[38]]);
    let all = ChoosingChunk { logits: Rows::All, ..chunk(a, Next::Known(&text[3..]), 4) };
    let chosen = engine.step_choosing(&[all]).unwrap();
    assert_eq!((chosen.tokens.len(), chosen.logits.rows()), (2, 2));
    assert_eq!(chosen.logits.row(1).unwrap(), FakeDevice::row(&text, VOCABULARY));
    engine.check_pages();
}

#[test]
fn a_failure_takes_back_what_was_submitted() {
    for calls in 0..6 {
        let mut engine = engine_failing_after(32, Some(calls));
        let a = open(&mut engine, &[6; 14]);
        // Three steps submitted, the first two collected.
        let mut known = 0;
        let mut run = |engine: &mut Engine| -> Result<(), EngineError> {
            engine.submit(&[chunk(a, Next::Known(&[6; 14]), 14)])?;
            known = 14;
            engine.submit(&[chunk(a, Next::Chosen, 15)])?;
            known = 15;
            let collected = engine.collect().map(|_| ());
            known = if collected.is_err() { 0 } else { known };
            collected?;
            engine.submit(&[chunk(a, Next::Chosen, 16)])?;
            known = 16;
            let collected = engine.collect().map(|_| ());
            known = if collected.is_err() { 14 } else { known };
            collected
        };
        let failed = run(&mut engine);
        assert_eq!(failed.is_err(), calls < 5, "{calls}: {failed:?}");
        assert_eq!(engine.pool().tokens(a).unwrap(), known, "{calls}");
        engine.check_pages();
        engine.give_up_submitted();
        engine.check_pages();
        assert!(engine.collect().is_err());
    }
}

#[test]
fn where_tables_change_with_the_length_the_host_chooses() {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = TinyModel::new().write(folder.path());
    manifest.model.rope_switch = Some(20);
    let device = FakeDevice::choosing(&manifest, 8);
    let mut engine = Engine::with_device(&manifest, Box::new(device), shapes::MAX_CONTEXT);
    let a = engine.open_sequence_for(3);
    let chunks = [chunk(a, Next::Known(&[1, 2, 3]), 3)];
    assert!(!engine.chooses() && engine.submit(&chunks).is_err());
    let chosen = engine.step_choosing(&chunks).unwrap();
    assert!(chosen.tokens.is_empty() && chosen.logits.row(0).unwrap() == FakeDevice::row(&[1, 2, 3], VOCABULARY));
}
