//! The scheduler over a device that answers by a sequence's whole history.

mod overlap;
mod random;
mod world;

use std::time::Duration;

use super::*;
use crate::sample::SamplingParams;
use crate::serving::Event;
use crate::testing::shapes;
use world::*;

fn prompt(length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| i * 11 % 38).collect()
}

/// How many tokens each request has been sent.
fn progress(world: &World) -> Vec<usize> {
    world.asked.iter().map(|asked| asked.tokens(0).len()).collect()
}

#[test]
fn a_long_prompt_does_not_hold_up_those_that_generate() {
    let mut world = World::new(64, 4, 10, false);
    world.ask(Question::new(prompt(5), 100));
    world.step();
    world.ask(Question::new(prompt(100), 5));
    for tokens in 2..12 {
        world.step();
        assert_eq!(progress(&world), [tokens, 0]);
    }
    // Nine tokens of the prompt a step beside the one that is generated.
    world.step();
    world.step();
    assert_eq!(progress(&world), [13, 1]);
    world.drain(200);
    world.asked.iter().for_each(|asked| asked.check(MAX_LEN));
}

#[test]
fn several_prompts_share_a_step() {
    let mut world = World::new(64, 8, 30, false);
    (0..3).for_each(|_| {
        world.ask(Question::new(prompt(10), 3));
    });
    world.step();
    assert_eq!(progress(&world), [1, 1, 1]);
}

#[test]
fn more_urgent_requests_go_first_and_take_the_pages_of_others() {
    let mut world = World::new(6, 4, 64, false);
    world.ask(Question { priority: 1, ..Question::new(prompt(60), 30) });
    world.step();
    world.ask(Question { priority: 1, ..Question::new(prompt(40), 4) });
    world.ask(Question { priority: 0, ..Question::new(prompt(50), 4) });
    world.step();
    // The urgent one has its first token; the other has lost its pages and will go on later.
    assert_eq!(progress(&world), [1, 0, 1]);
    assert_eq!(world.scheduler.metrics().preemptions, 1);
    world.drain(200);
    world.asked.iter().for_each(|asked| asked.check(96));
    assert!(world.asked.iter().all(|asked| asked.finish(0) == Some(FinishReason::Length)));
}

#[test]
fn equal_requests_start_in_the_order_they_came_and_small_ones_do_not_pass() {
    let mut world = World::new(8, 8, 128, false);
    world.ask(Question::new(prompt(60), 20));
    world.ask(Question::new(prompt(100), 2));
    world.ask(Question::new(prompt(20), 2));
    let started = |world: &World| -> Vec<bool> { world.asked.iter().map(|asked| !asked.events().is_empty()).collect() };
    world.step();
    assert_eq!(started(&world), [true, false, false]);
    (0..19).for_each(|_| drop(world.step()));
    world.step();
    assert_eq!(started(&world), [true, true, false]);
    world.drain(50);
}

#[test]
fn an_unimportant_request_starts_however_many_important_ones_come() {
    let mut world = World::new(64, 1, 128, false);
    let unimportant = world.ask(Question { priority: 9, ..Question::new(prompt(3), 1) });
    for _ in 0..2 * FAVOUR_EVERY {
        world.ask(Question::new(prompt(3), 1));
        world.ask(Question::new(prompt(3), 1));
        world.step();
    }
    assert!(world.asked[unimportant].is_over());
}

#[test]
fn a_preempted_request_goes_on_with_the_same_tokens() {
    for cache in [false, true] {
        let mut world = World::new(8, 4, 64, cache);
        (0..4).for_each(|i| {
            world.ask(Question::new(prompt(20 + i), 60));
        });
        world.drain(1000);
        assert!(world.scheduler.metrics().preemptions > 0);
        for asked in &world.asked {
            asked.check(MAX_LEN);
            assert_eq!(asked.finish(0), Some(FinishReason::Length));
            let Some(Event::Finished { timings, .. }) = asked.events().pop() else { panic!("no end") };
            assert!(timings.decode + timings.prefill <= world.clock.now());
        }
    }
}

#[test]
fn the_prompt_of_several_answers_is_computed_once() {
    let mut world = World::new(64, 8, 256, false);
    let sampling = SamplingParams { seed: 5, ..Default::default() };
    world.ask(Question { answers: 4, sampling, ..Question::new(prompt(37), 6) });
    world.step();
    // Two full pages are shared, the third is each answer's own.
    assert_eq!(world.engine.pool().pages() - world.engine.pool().free_pages(), 2 + 4);
    assert_eq!(world.drain(20), 5);
    world.asked[0].check(MAX_LEN);
    let texts: std::collections::HashSet<_> = (0..4).map(|answer| world.asked[0].tokens(answer)).collect();
    assert!(texts.len() > 1, "seeds differ");
}

#[test]
fn more_answers_than_seats_take_turns() {
    let mut world = World::new(16, 2, 64, true);
    world.ask(Question { answers: 5, ..Question::new(prompt(33), 8) });
    world.drain(100);
    world.asked[0].check(MAX_LEN);
    assert!((0..5).all(|answer| world.asked[0].finish(answer) == Some(FinishReason::Length)));
}

#[test]
fn a_cached_prompt_is_not_computed_again() {
    let mut world = World::new(64, 4, 256, true);
    let cached = |world: &World, i: usize| match &world.asked[i].events()[0] {
        Event::Started { cached, .. } => cached.total(),
        other => panic!("{other:?}"),
    };
    let tenant = |key| Question { salt: CacheSalt::new(Some(key), None), ..Question::new(prompt(50), 2) };
    let first = world.ask(tenant("one"));
    world.drain(10);
    let second = world.ask(tenant("one"));
    let other = world.ask(tenant("other"));
    world.drain(10);
    assert_eq!((cached(&world, first), cached(&world, second), cached(&world, other)), (0, 48, 0));
    let metrics = world.scheduler.metrics();
    assert_eq!((metrics.prefix_cache_queries, metrics.prefix_cache_hits, metrics.prompt_tokens), (150, 48, 150));
}

#[test]
fn a_slow_reader_rests_without_holding_up_others_and_fails_at_last() {
    let mut world = World::new(8, 2, 64, false);
    let slow = world.ask(Question::new(prompt(60), 30));
    world.step();
    world.asked[slow].inbox.room.set(1);
    let quick = world.ask(Question::new(prompt(70), 20));
    world.advance_clock(SLOW);
    // Two steps for the prompt, one for each token after the first.
    (0..21).for_each(|_| drop(world.step()));
    assert!(world.asked[quick].is_over() && !world.asked[slow].is_over());
    assert_eq!(world.step(), Progress::Resting);
    world.advance_clock(Duration::from_millis(1));
    world.advance_clock(SLOW);
    world.step();
    assert_eq!(world.asked[slow].failure(), Some(RequestError::SlowReader(SLOW)));
    assert_eq!(world.step(), Progress::Idle);
}

#[test]
fn only_the_request_to_blame_fails() {
    let mut world = World::new(64, 8, 256, false);
    world.faults.lock().unwrap().poison = Some(39);
    (0..3).for_each(|i| {
        let sampling = SamplingParams { logit_bias: vec![(39, f32::NEG_INFINITY)], ..SamplingParams::greedy() };
        world.ask(Question { sampling, ..Question::new(prompt(10 + i), 8) });
    });
    only_a_poisoned_prompt_fails(&mut world);
}

/// Asks what the device fails at, beside what was asked before.
fn only_a_poisoned_prompt_fails(world: &mut World) {
    let mut bad = prompt(10);
    bad.push(39);
    let bad = world.ask(Question::new(bad, 8));
    world.drain(100);
    for (i, asked) in world.asked.iter().enumerate() {
        asked.check(MAX_LEN);
        assert_eq!(asked.failure().is_some(), i == bad, "{:?}", asked.events());
    }
}

#[test]
fn after_a_panic_requests_go_on_with_another_engine() {
    let mut world = World::new(64, 8, 256, true);
    (0..3).for_each(|i| {
        world.ask(Question::new(prompt(10 + i), 8));
    });
    (0..3).for_each(|_| drop(world.step()));
    world.faults.lock().unwrap().panic_once = true;
    assert_eq!(world.step(), Progress::Broken("a panic: told to panic".into()));
    world.drain(100);
    for asked in &world.asked {
        asked.check(MAX_LEN);
        assert_eq!(asked.finish(0), Some(FinishReason::Length));
    }
}

#[test]
fn a_lost_device_says_so_and_all_requests_can_be_failed() {
    let mut world = World::new(64, 8, 256, false);
    (0..3).for_each(|i| {
        world.ask(Question::new(prompt(10 + i), 8));
    });
    world.step();
    world.faults.lock().unwrap().lost = true;
    assert!(matches!(world.step(), Progress::Lost(_)));
    let error = RequestError::DeviceLost("gone".into());
    world.scheduler.fail_all(Some(&mut world.engine), &error, world.clock.now());
    assert!(world.asked.iter().all(|asked| asked.failure() == Some(error.clone())));
    assert_eq!((world.step(), world.engine.pool().sequences()), (Progress::Idle, 0));
}

#[test]
fn answers_end_early_when_asked_and_at_the_longest_length() {
    let mut world = World::new(64, 8, 256, false);
    let stopped = world.ask(Question { answers: 2, ..Question::new(prompt(4), 50) });
    let longest = world.ask(Question::new(prompt(shapes::MAX_CONTEXT as usize - 3), 50));
    world.step();
    world.step();
    world.asked[stopped].inbox.ended.borrow_mut().insert(1);
    world.step();
    assert_eq!((world.asked[stopped].finish(0), world.asked[stopped].finish(1)), (None, Some(FinishReason::Cancelled)));
    world.drain(100);
    assert_eq!((world.asked[longest].tokens(0).len(), world.asked[longest].finish(0)), (4, Some(FinishReason::Length)));
    world.asked.iter().for_each(|asked| asked.check(MAX_LEN));
}

#[test]
fn hidden_states_come_in_pieces_and_once() {
    let mut world = World::new(64, 8, 7, false);
    let generating = world.ask(Question::new(prompt(5), 40));
    let hidden = world.ask(Question { hidden: true, ..Question::new(prompt(30), 1) });
    (0..4).for_each(|_| drop(world.step()));
    world.faults.lock().unwrap().panic_once = true;
    world.drain(100);
    assert!(
        world.asked[generating].finish(0) == Some(FinishReason::Length) || world.asked[generating].failure().is_some()
    );
    world.asked[hidden].check(MAX_LEN);
    assert!(world.asked[hidden].is_over());
}
