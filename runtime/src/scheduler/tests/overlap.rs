//! Steps that the device has while the tokens of the one before are not known.

use std::time::Duration;

use super::world::*;
use super::*;

fn drawn(prompt: Vec<u32>, seed: u64, max_tokens: u64) -> Question {
    Question { sampling: SamplingParams { seed, ..Default::default() }, ..Question::new(prompt, max_tokens) }
}

/// Everybody has ended as by definition.
fn check_all(world: &World) {
    for asked in &world.asked {
        assert!(asked.is_over() && asked.failure().is_none(), "{:?}", asked.events());
        asked.check(world.limits.max_model_len);
    }
}

#[test]
fn tokens_come_one_step_later_and_none_is_computed_past_the_end() {
    let mut world = World::choosing(64, 8, 256, false);
    world.ask(drawn(prompt(7), 1, 4));
    world.ask(drawn(prompt(9), 2, 1));
    assert_eq!((world.step(), progress(&world)), (Progress::Submitted, vec![0, 0]));
    assert_eq!(world.engine.pool().tokens(world.sequence(0)).unwrap(), 7);
    // The first goes on by a token that nobody knows yet; the second ends with its first.
    assert_eq!((world.step(), progress(&world)), (Progress::Stepped, vec![1, 1]));
    assert_eq!(world.engine.pool().tokens(world.sequence(0)).unwrap(), 8);
    assert_eq!((world.engine.pool().sequences(), world.scheduler.under_way[0].len()), (1, 1));
    (2..5).for_each(|tokens| {
        world.step();
        assert_eq!(progress(&world)[0], tokens);
    });
    assert_eq!((world.step(), world.scheduler.is_idle()), (Progress::Idle, true));
    check_all(&world);
}

#[test]
fn who_chooses_follows_from_the_request_alone() {
    for companion in [false, true] {
        let mut world = World::choosing(64, 8, 40, true);
        world.ask(drawn(prompt(30), 5, 20));
        if companion {
            let of = |i: usize| drawn(prompt(11 + i), 6, 12);
            world.ask(Question { logprobs: Some(1), ..of(0) });
            world.ask(Question { constrained: Some(5), ..of(1) });
            world.ask(Question { answers: 3, ..of(2) });
            world.ask(Question { needs_logits: true, ..of(3) });
            world.ask(Question { hidden: true, ..of(4) });
            let sampling = SamplingParams { presence_penalty: 0.5, ..Default::default() };
            world.ask(Question { sampling, ..of(5) });
            world.ask(Question { logprobs: Some(0), prompt_logprobs: true, ..of(6) });
        }
        world.drain(400);
        assert!(world.asked[0].on_device && world.asked[1..].iter().all(|asked| !asked.on_device));
        check_all(&world);
    }
}

/// Hidden states come every other step, whatever is under way in between.
#[test]
fn a_step_that_is_not_shared_has_its_turn() {
    let mut world = World::choosing(64, 8, 7, false);
    world.ask(Question::new(prompt(5), 100));
    world.ask(Question { hidden: true, ..Question::new(prompt(30), 1) });
    (0..30).for_each(|_| drop(world.step()));
    assert!(world.asked[1].is_over() && !world.asked[0].is_over());
    world.drain(200);
    check_all(&world);
}

#[test]
fn what_is_computed_past_a_stop_token_is_dropped_with_its_page() {
    let mut world = World::choosing(64, 8, 256, true);
    let text = Question::new(prompt(15), 40).expected(0, MAX_LEN, true).0;
    // The token after it would begin a page.
    let stop = text[1].0;
    world.ask(Question { stop_ids: vec![stop], ..Question::new(prompt(15), 40) });
    world.ask(drawn(prompt(20), 3, 40));
    (0..3).for_each(|_| drop(world.step()));
    assert_eq!(world.asked[0].finish(0), Some(FinishReason::Stop));
    assert_eq!(world.engine.pool().sequences(), 1);
    // Another takes the pages at once.
    world.ask(drawn(prompt(33), 4, 40));
    world.drain(100);
    check_all(&world);
}

#[test]
fn those_that_lose_their_pages_go_on_with_the_same_tokens() {
    for cache in [false, true] {
        let mut world = World::choosing(8, 4, 64, cache);
        (0..4).for_each(|i| {
            world.ask(drawn(prompt(20 + i), i as u64, 60));
        });
        world.drain(1000);
        assert!(world.scheduler.metrics().preemptions > 0);
        check_all(&world);
    }
}

#[test]
fn only_the_request_to_blame_fails() {
    let mut world = World::choosing(64, 8, 256, false);
    world.faults.lock().unwrap().poison = Some(39);
    let good: Vec<Question> = (0..60).map(|seed| drawn(prompt(10), seed, 8)).collect();
    let spoken = |q: &&Question| !q.expected(0, MAX_LEN, true).0.iter().any(|(token, _)| *token == 39);
    let good: Vec<Question> = good.iter().filter(spoken).take(3).cloned().collect();
    assert_eq!(good.len(), 3);
    good.into_iter().for_each(|question| {
        world.ask(question);
    });
    world.step();
    only_a_poisoned_prompt_fails(&mut world);
}

#[test]
fn failures_with_a_step_under_way_cost_no_token() {
    type Set = fn(&mut crate::testing::Faults);
    let faults: [(Set, bool); 4] = [
        (|f| f.fail_once = true, false),
        (|f| f.fail_collect_once = true, false),
        (|f| f.panic_once = true, true),
        (|f| f.panic_collect_once = true, true),
    ];
    for (set, breaks) in faults {
        let mut world = World::choosing(64, 8, 256, true);
        (0..3).for_each(|i| {
            world.ask(drawn(prompt(10 + i), i as u64, 8));
        });
        (0..3).for_each(|_| drop(world.step()));
        set(&mut world.faults.lock().unwrap());
        let met = world.step();
        assert_eq!(matches!(met, Progress::Broken(_)), breaks, "{met:?}");
        assert_eq!(progress(&world), [2, 2, 2]);
        world.drain(100);
        check_all(&world);
    }
}

#[test]
fn a_lost_device_is_noticed_though_nobody_waits_for_its_step() {
    let mut world = World::choosing(64, 8, 256, false);
    world.ask(Question::new(prompt(10), 8));
    world.step();
    world.faults.lock().unwrap().lost = true;
    world.asked[0].inbox.closed.set(true);
    assert!(matches!(world.step(), Progress::Lost(_)));
    assert!(world.scheduler.is_idle() && world.step() == Progress::Idle);
}

/// As a generation that is broken off leaves it to the next.
#[test]
fn ended_requests_leave_an_engine_without_steps_under_way() {
    let mut world = World::choosing(64, 8, 256, true);
    world.ask(Question::new(prompt(40), 30));
    (0..4).for_each(|_| drop(world.step()));
    world.scheduler.fail_all(Some(&mut world.engine), &RequestError::ShuttingDown, Duration::ZERO);
    assert_eq!((world.step(), world.engine.pool().sequences()), (Progress::Idle, 0));
    let second = world.ask(drawn(prompt(40), 9, 30));
    world.drain(100);
    world.asked[second].check(MAX_LEN);
    assert_eq!(world.asked[second].finish(0), Some(FinishReason::Length));
}

#[test]
fn a_reader_without_room_rests_and_what_is_under_way_still_fits() {
    let mut world = World::choosing(64, 8, 256, false);
    let slow = world.ask(Question::new(prompt(10), 60));
    // `Started`, and room for two steps.
    world.asked[slow].inbox.room.set(1 + events_in_a_step(1));
    (0..10).for_each(|_| drop(world.step()));
    assert_eq!(world.step(), Progress::Resting);
    assert!(world.scheduler.rests() && world.asked[slow].inbox.room.get() >= 1);
    world.asked[slow].inbox.room.set(usize::MAX);
    world.drain(100);
    check_all(&world);
}
