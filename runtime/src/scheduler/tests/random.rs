//! Random requests, readers, times and failures over random pools, held against what each answer is by definition.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::world::*;
use crate::sample::SamplingParams;
use crate::scheduler::Progress;

/// The token that steps fail with in worlds with a poison.
const POISON: u32 = 39;

/// Steps over all cases, as many as the issue that brought this test asks for.
const STEPS: u64 = 100_000;

#[derive(Clone, Debug)]
enum Action {
    Ask(Question),
    Step(u8),
    /// The reader of a request leaves so much room.
    Room(usize, usize),
    Close(usize),
    End(usize, u32),
    Wait(u8),
    FailOnce,
    PanicOnce,
    FailCollectOnce,
    PanicCollectOnce,
}

#[derive(Clone, Debug)]
struct Setting {
    /// Whether the device chooses tokens.
    chooses: bool,
    pages: u64,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    cache: bool,
    poison: bool,
}

fn settings(chooses: bool) -> impl Strategy<Value = Setting> {
    (2u64..20, 1usize..6, 1usize..40, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        move |(pages, max_num_seqs, max_num_batched_tokens, cache, poison)| Setting {
            chooses,
            pages,
            max_num_seqs,
            max_num_batched_tokens,
            cache,
            poison,
        },
    )
}

fn sampling() -> impl Strategy<Value = SamplingParams> {
    let penalty = prop_oneof![Just(0.0f32), 0.0f32..1.5];
    let random = (any::<u64>(), 0.1f32..2.0, penalty).prop_map(|(seed, temperature, presence_penalty)| {
        SamplingParams { seed, temperature, presence_penalty, ..SamplingParams::default() }
    });
    prop_oneof![Just(SamplingParams::greedy()), random]
}

/// Prompts share prefixes: `length` tokens of one of three texts, then some of their own.
fn prompts() -> impl Strategy<Value = Vec<u32>> {
    (0u32..3, 0usize..60, prop::collection::vec(0u32..POISON, 1..8)).prop_map(|(text, length, own)| {
        let shared = (0..length as u32).map(|i| (i * 7 + text * 5) % POISON);
        shared.chain(own).collect()
    })
}

fn questions() -> impl Strategy<Value = Question> {
    let kind =
        (prop::option::weighted(0.3, 0usize..3), prop::bool::weighted(0.3), prop::option::weighted(0.2, 1u32..9));
    let rest =
        (-1i32..2, any::<bool>(), prop::bool::weighted(0.08), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    let shape = (1u64..40, prop_oneof![4 => Just(1u32), 1 => 2u32..4], prop::collection::vec(0u32..40, 0..3));
    (prompts(), sampling(), shape, kind, rest).prop_map(
        |(mut prompt, sampling, (max_tokens, answers, stop_ids), (logprobs, prompt_logprobs, constrained), rest)| {
            let (priority, salted, hidden, poisoned, needs_logits) = rest;
            if poisoned {
                prompt.push(POISON);
            }
            let salt = if salted { CacheSalt::new(Some("key"), None) } else { CacheSalt::PUBLIC };
            let prompt_logprobs = prompt_logprobs && logprobs.is_some() && !hidden;
            let (logprobs, constrained) = if hidden { (None, None) } else { (logprobs, constrained) };
            let answers = if hidden { 1 } else { answers };
            Question {
                prompt,
                sampling,
                stop_ids,
                max_tokens,
                answers,
                logprobs,
                prompt_logprobs,
                constrained,
                priority,
                salt,
                hidden,
                needs_logits,
            }
        },
    )
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let which = 0usize..64;
    let action = prop_oneof![
        6 => questions().prop_map(Action::Ask),
        8 => (1u8..24).prop_map(Action::Step),
        // Never 0: whatever is sent leaves room for a failure.
        2 => (which.clone(), prop_oneof![1usize..12, Just(usize::MAX)]).prop_map(|(i, room)| Action::Room(i, room)),
        1 => which.clone().prop_map(Action::Close),
        1 => (which, 0u32..4).prop_map(|(i, answer)| Action::End(i, answer)),
        1 => (0u8..8).prop_map(Action::Wait),
        1 => Just(Action::FailOnce),
        1 => Just(Action::PanicOnce),
        1 => Just(Action::FailCollectOnce),
        1 => Just(Action::PanicCollectOnce),
    ];
    prop::collection::vec(action, 10..60)
}

struct Case {
    world: World,
    poison: bool,
    /// Least room that a reader leaves: what a step under way may send, and a failure.
    least_room: usize,
    steps: u64,
}

impl Case {
    fn new(setting: &Setting) -> Case {
        let Setting { chooses, pages, max_num_seqs, max_num_batched_tokens, cache, .. } = *setting;
        let world = World::over(chooses, pages, max_num_seqs, max_num_batched_tokens, cache);
        world.faults.lock().unwrap().poison = setting.poison.then_some(POISON);
        Case { world, poison: setting.poison, least_room: if chooses { 3 } else { 1 }, steps: 0 }
    }

    fn apply(&mut self, action: &Action) {
        let (count, least_room) = (self.world.asked.len().max(1), self.least_room);
        let asked = |world: &mut World, i: usize| world.asked.get(i % count).map(|a| a.inbox.clone());
        match action {
            Action::Ask(question) => {
                if self.world.limits.check(&question.request()).is_ok() {
                    self.world.ask(question.clone());
                }
            }
            Action::Step(times) => (0..*times).for_each(|_| self.step()),
            Action::Room(i, room) => {
                asked(&mut self.world, *i).into_iter().for_each(|inbox| inbox.room.set(least_room.max(*room)));
            }
            Action::Close(i) => asked(&mut self.world, *i).into_iter().for_each(|inbox| inbox.closed.set(true)),
            Action::End(i, answer) => asked(&mut self.world, *i).into_iter().for_each(|inbox| {
                inbox.ended.borrow_mut().insert(*answer);
            }),
            Action::Wait(seconds) => self.world.advance_clock(Duration::from_secs(u64::from(*seconds))),
            Action::FailOnce => self.fault(|faults| faults.fail_once = true),
            Action::PanicOnce => self.fault(|faults| faults.panic_once = true),
            Action::FailCollectOnce => self.fault(|faults| faults.fail_collect_once = true),
            Action::PanicCollectOnce => self.fault(|faults| faults.panic_collect_once = true),
        }
    }

    /// A fault that meets a step of one sequence ends that; of others none.
    fn fault(&mut self, set: impl Fn(&mut crate::testing::Faults)) {
        // So many in a row would be the device's fault.
        if self.world.scheduler.failures > 4 {
            return self.step();
        }
        set(&mut self.world.faults.lock().unwrap());
        self.world.asked.iter_mut().filter(|a| !a.is_over()).for_each(|a| a.may_fail = true);
        self.step();
        *self.world.faults.lock().unwrap() =
            crate::testing::Faults { poison: self.poison.then_some(POISON), ..Default::default() };
    }

    fn step(&mut self) {
        self.steps += 1;
        let progress = self.world.step();
        assert!(!matches!(progress, Progress::Lost(_)), "{progress:?}");
    }

    /// All readers read on; then everything must end.
    fn finish(&mut self) {
        for asked in &self.world.asked {
            asked.inbox.room.set(usize::MAX);
        }
        let tokens: u64 =
            self.world.asked.iter().map(|a| u64::from(a.question.answers) * (a.question.max_tokens + 70)).sum();
        self.steps += self.world.drain(64 + 4 * tokens as usize) as u64;
        for asked in &self.world.asked {
            assert!(asked.is_over(), "{:?} never ended: {:?}", asked.question, asked.events());
            asked.check(self.world.limits.max_model_len);
            self.check_failure(asked);
        }
        assert_eq!(self.world.scheduler.take_ended(), self.world.asked.len());
    }

    fn check_failure(&self, asked: &Asked) {
        use crate::serving::RequestError::{SlowReader, Step};
        let poisoned = |tokens: &[u32]| self.poison && tokens.contains(&POISON);
        let meets = poisoned(&asked.question.prompt) || (0..asked.question.answers).any(|a| poisoned(&asked.tokens(a)));
        match asked.failure() {
            None => assert!(!poisoned(&asked.question.prompt) || asked.inbox.closed.get() || asked.is_over()),
            Some(Step(why)) => assert!(asked.may_fail || meets, "{:?} failed for nothing: {why}", asked.question),
            Some(SlowReader(limit)) => assert_eq!(limit, SLOW),
            Some(other) => panic!("{:?}: {other}", asked.question),
        }
    }
}

fn run(chooses: bool) {
    let steps = AtomicU64::new(0);
    while steps.load(Ordering::Relaxed) < STEPS {
        let mut runner = TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
        let result = runner.run(&(settings(chooses), actions()), |(setting, actions)| {
            let mut case = Case::new(&setting);
            actions.iter().for_each(|action| case.apply(action));
            case.finish();
            steps.fetch_add(case.steps, Ordering::Relaxed);
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{failure}");
        }
    }
}

#[test]
fn random_requests_end_once_with_the_tokens_of_requests_run_alone() {
    run(false);
}

#[test]
fn so_they_do_where_the_device_chooses_and_steps_overlap() {
    run(true);
}
