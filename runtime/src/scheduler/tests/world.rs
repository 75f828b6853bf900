//! A scheduler with an engine, a clock and readers that tests control, and what every answer must be.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::*;
use crate::artifact::Manifest;
use crate::kv::PrefixCacheOptions;
use crate::sample::{History, SamplingParams, TokenLogProbs, token_logprobs};
use crate::serving::{ConstraintError, Event, Output, TokenConstraint};
use crate::testing::{FakeDevice, Faults, FaultyDevice, TinyModel, shapes};

pub const VOCABULARY: usize = shapes::VOCABULARY;
pub const MAX_LEN: u64 = shapes::MAX_CONTEXT;

/// A clock that is set.
pub struct ManualClock(Mutex<Duration>);

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// The state a reader shares with its test.
#[derive(Default)]
pub struct Inbox {
    pub room: Cell<usize>,
    pub closed: Cell<bool>,
    pub ended: RefCell<HashSet<u32>>,
    pub events: RefCell<Vec<Event>>,
}

/// A reader, and whether it wants to see logits.
pub struct TestReader(Rc<Inbox>, bool);

impl Reader for TestReader {
    fn room(&self) -> usize {
        self.0.room.get()
    }

    fn is_closed(&self) -> bool {
        self.0.closed.get()
    }

    fn is_ended(&self, answer: u32) -> bool {
        self.0.ended.borrow().contains(&answer)
    }

    fn needs_logits(&self) -> bool {
        self.1
    }

    fn send(&mut self, event: Event) -> bool {
        if self.0.closed.get() {
            return false;
        }
        assert!(self.0.room.get() > 0, "an event is sent where there is no room: {event:?}");
        self.0.room.set(self.0.room.get() - 1);
        self.0.events.borrow_mut().push(event);
        true
    }
}

/// Allows tokens of one remainder by three, another after each, and ends after `left` tokens.
#[derive(Clone)]
pub struct Thirds {
    pub left: u32,
    mask: Vec<u32>,
}

impl Thirds {
    pub fn new(left: u32) -> Thirds {
        Thirds { left, mask: Vec::new() }
    }

    pub fn allows(&self, token: u32) -> bool {
        token % 3 == self.left % 3
    }
}

impl TokenConstraint for Thirds {
    fn allowed(&mut self) -> Result<&[u32], ConstraintError> {
        self.mask = vec![0; VOCABULARY.div_ceil(32)];
        (0..VOCABULARY as u32)
            .filter(|t| t % 3 == self.left % 3)
            .for_each(|t| self.mask[t as usize / 32] |= 1 << (t % 32));
        Ok(&self.mask)
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        if !self.allows(token) {
            return Err(ConstraintError(format!("{token} is not allowed")));
        }
        self.left -= 1;
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.left == 0
    }

    fn fork(&self) -> Box<dyn TokenConstraint> {
        Box::new(self.clone())
    }
}

/// A request as data, so that it can be made twice.
#[derive(Clone, Debug)]
pub struct Question {
    pub prompt: Vec<u32>,
    pub sampling: SamplingParams,
    pub stop_ids: Vec<u32>,
    pub max_tokens: u64,
    pub answers: u32,
    pub logprobs: Option<usize>,
    pub prompt_logprobs: bool,
    /// Tokens that [`Thirds`] lets pass.
    pub constrained: Option<u32>,
    pub priority: i32,
    pub salt: CacheSalt,
    pub hidden: bool,
    /// Its reader wants to see logits.
    pub needs_logits: bool,
}

pub use crate::kv::salt::CacheSalt;

impl Question {
    pub fn new(prompt: Vec<u32>, max_tokens: u64) -> Question {
        Question {
            prompt,
            sampling: SamplingParams::greedy(),
            stop_ids: Vec::new(),
            max_tokens,
            answers: 1,
            logprobs: None,
            prompt_logprobs: false,
            constrained: None,
            priority: 0,
            salt: CacheSalt::PUBLIC,
            hidden: false,
            needs_logits: false,
        }
    }

    pub fn request(&self) -> Request {
        let mut request = Request::new(self.prompt.clone(), self.sampling.clone(), self.max_tokens);
        request.stop_ids.clone_from(&self.stop_ids);
        request.answers = self.answers;
        (request.logprobs, request.prompt_logprobs) = (self.logprobs, self.prompt_logprobs);
        request.constraint = self.constrained.map(|left| Box::new(Thirds::new(left)) as Box<dyn TokenConstraint>);
        (request.priority, request.salt) = (self.priority, self.salt);
        request.output = if self.hidden { Output::HiddenStates } else { Output::Tokens };
        request
    }

    /// Whether a device that chooses tokens chooses those of the answer.
    pub fn suits_devices(&self) -> bool {
        let p = &self.sampling;
        let is_neutral = (p.repetition_penalty, p.presence_penalty, p.frequency_penalty) == (1.0, 0.0, 0.0);
        let is_plain = is_neutral && p.logit_bias.is_empty() && self.constrained.is_none() && self.answers == 1;
        is_plain && self.logprobs.is_none() && !self.prompt_logprobs && !self.hidden && !self.needs_logits
    }

    /// An answer by definition: one token after the other, each from the row of the whole history, chosen on the host or on the device.
    pub fn expected(
        &self,
        answer: u32,
        longest: u64,
        on_device: bool,
    ) -> (Vec<(u32, Option<TokenLogProbs>)>, FinishReason) {
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(u64::from(answer));
        if on_device {
            sampling.seed = sampling.seed.wrapping_add(FakeDevice::SEED);
        }
        let (mut history, mut tokens) = (self.prompt.clone(), Vec::new());
        let mut grammar = self.constrained.map(Thirds::new);
        let mut sampler = Sampler::new();
        loop {
            if grammar.as_ref().is_some_and(|g| g.left == 0) {
                return (tokens, FinishReason::Stop);
            }
            let row = FakeDevice::row(&history, VOCABULARY);
            let mut masked = row.clone();
            if let Some(grammar) = &grammar {
                (0..VOCABULARY).filter(|t| !grammar.allows(*t as u32)).for_each(|t| masked[t] = f32::NEG_INFINITY);
            }
            let (prompt, output) = history.split_at(self.prompt.len());
            let token = sampler.sample(&masked, History { prompt, output }, &sampling, history.len() as u64).unwrap();
            if self.stop_ids.contains(&token) {
                return (tokens, FinishReason::Stop);
            }
            history.push(token);
            tokens.push((token, self.logprobs.map(|top| token_logprobs(&row, token, top).unwrap())));
            if let Some(grammar) = &mut grammar {
                grammar.left -= 1;
            }
            let complete = grammar.as_ref().is_some_and(|g| g.left == 0);
            if !complete && (tokens.len() as u64 >= self.max_tokens || history.len() as u64 > longest) {
                return (tokens, FinishReason::Length);
            }
        }
    }

    fn expected_prompt_logprobs(&self) -> Vec<TokenLogProbs> {
        let row = |i: usize| FakeDevice::row(&self.prompt[..i], VOCABULARY);
        (1..self.prompt.len())
            .map(|i| token_logprobs(&row(i), self.prompt[i], self.logprobs.unwrap()).unwrap())
            .collect()
    }
}

/// A submitted question.
pub struct Asked {
    pub question: Question,
    pub inbox: Rc<Inbox>,
    /// A fault may have met it.
    pub may_fail: bool,
    /// The device chooses its tokens.
    pub on_device: bool,
}

impl Asked {
    pub fn events(&self) -> Vec<Event> {
        self.inbox.events.borrow().clone()
    }

    pub fn failure(&self) -> Option<RequestError> {
        self.events().into_iter().find_map(|event| match event {
            Event::Failed(error) => Some(error),
            _ => None,
        })
    }

    pub fn finish(&self, answer: u32) -> Option<FinishReason> {
        self.events().into_iter().find_map(|event| match event {
            Event::Finished { answer: a, reason, .. } if a == answer => Some(reason),
            _ => None,
        })
    }

    pub fn tokens(&self, answer: u32) -> Vec<u32> {
        let token = |event| match event {
            Event::Token { answer: a, token, .. } if a == answer => Some(token),
            _ => None,
        };
        self.events().into_iter().filter_map(token).collect()
    }

    pub fn is_over(&self) -> bool {
        self.inbox.closed.get()
            || self.failure().is_some()
            || (0..self.question.answers).all(|answer| self.finish(answer).is_some())
    }

    /// Everything that was sent is right and in order; `longest` sequence.
    pub fn check(&self, longest: u64) {
        let events = self.events();
        let started = events.iter().filter(|e| matches!(e, Event::Started { .. })).count();
        assert!(started <= 1 && (started == 0 || matches!(events[0], Event::Started { .. })), "{events:?}");
        let failed = events.iter().position(|e| matches!(e, Event::Failed(_)));
        assert!(failed.is_none_or(|at| at + 1 == events.len()), "nothing follows a failure: {events:?}");
        self.check_prompt(&events);
        (0..self.question.answers).for_each(|answer| self.check_answer(&events, answer, longest));
    }

    fn check_prompt(&self, events: &[Event]) {
        for event in events {
            if let Event::Prompt(logprobs) = event {
                assert_eq!(*logprobs, self.question.expected_prompt_logprobs());
            }
        }
        let given = events.iter().filter(|e| matches!(e, Event::Prompt(_))).count();
        let wanted = usize::from(self.question.prompt_logprobs && !self.tokens(0).is_empty());
        assert!(given <= 1 && given >= wanted && given <= usize::from(self.question.prompt_logprobs));
    }

    fn check_answer(&self, events: &[Event], answer: u32, longest: u64) {
        let ends: Vec<usize> = (0..events.len())
            .filter(|i| matches!(events[*i], Event::Finished { answer: a, .. } if a == answer))
            .collect();
        assert!(ends.len() <= 1, "answer {answer} ended twice");
        let own = |e: &Event| matches!(e, Event::Token { answer: a, .. } if *a == answer);
        assert!(ends.iter().all(|end| !events[*end..].iter().any(own)), "a token after the end");
        if self.question.hidden {
            return self.check_hidden(events);
        }
        let found: Vec<_> = events.iter().filter(|e| own(e)).collect();
        let (tokens, reason) = self.question.expected(answer, longest, self.on_device);
        assert!(found.len() <= tokens.len(), "{found:?}, expected {tokens:?}");
        for (event, (token, logprobs)) in found.iter().zip(&tokens) {
            let expected = Event::Token { answer, token: *token, logprobs: logprobs.clone() };
            assert_eq!(**event, expected, "{:?}", self.question);
        }
        match self.finish(answer) {
            Some(FinishReason::Cancelled) => assert!(self.inbox.ended.borrow().contains(&answer)),
            Some(found_reason) => {
                assert_eq!((found_reason, found.len()), (reason, tokens.len()), "{:?}", self.question)
            }
            None => {}
        }
    }

    fn check_hidden(&self, events: &[Event]) {
        let given: Vec<f32> = events
            .iter()
            .filter_map(|e| if let Event::Hidden(rows) = e { Some(rows.clone()) } else { None })
            .flatten()
            .collect();
        let prompt = &self.question.prompt;
        let expected: Vec<f32> = (1..=prompt.len()).flat_map(|i| FakeDevice::row(&prompt[..i], VOCABULARY)).collect();
        assert_eq!(given, expected[..given.len()]);
        if self.finish(0) == Some(FinishReason::Stop) {
            assert_eq!(given.len(), expected.len());
        }
    }
}

pub struct World {
    manifest: Manifest,
    pages: u64,
    cache: Option<PrefixCacheOptions>,
    /// Whether the device chooses tokens.
    chooses: bool,
    pub faults: Arc<Mutex<Faults>>,
    pub engine: Engine,
    pub scheduler: Scheduler<TestReader>,
    pub clock: ManualClock,
    pub asked: Vec<Asked>,
    pub options: SchedulerOptions,
    pub limits: Limits,
}

pub const SLOW: Duration = Duration::from_secs(10);

impl World {
    /// Over a device whose steps are waited for.
    pub fn new(pages: u64, max_num_seqs: usize, max_num_batched_tokens: usize, cache: bool) -> World {
        World::over(false, pages, max_num_seqs, max_num_batched_tokens, cache)
    }

    /// Over a device that chooses tokens.
    pub fn choosing(pages: u64, max_num_seqs: usize, max_num_batched_tokens: usize, cache: bool) -> World {
        World::over(true, pages, max_num_seqs, max_num_batched_tokens, cache)
    }

    pub fn over(chooses: bool, pages: u64, max_num_seqs: usize, max_num_batched_tokens: usize, cache: bool) -> World {
        let folder = tempfile::tempdir().unwrap();
        let manifest = TinyModel::new().write(folder.path());
        // A page of the host's memory or two: eviction and restoring happen.
        let cache =
            cache.then(|| PrefixCacheOptions { host_bytes: 3 * manifest.page_bytes(), dir: None, disk_bytes: 0 });
        let faults = Arc::new(Mutex::new(Faults::default()));
        let engine = engine(&manifest, chooses, pages, &cache, &faults);
        let options = SchedulerOptions { max_num_seqs, max_num_batched_tokens, slow_reader: SLOW };
        let limits = Limits::of(&engine, true);
        World {
            scheduler: Scheduler::new(limits, options),
            manifest,
            pages,
            cache,
            chooses,
            faults,
            engine,
            clock: ManualClock(Mutex::new(Duration::ZERO)),
            asked: Vec::new(),
            options,
            limits,
        }
    }

    /// Submits a question that the limits accept; its reader has room for everything.
    pub fn ask(&mut self, question: Question) -> usize {
        let request = question.request();
        assert_eq!(self.limits.check(&request), Ok(()), "{question:?}");
        let inbox = Rc::new(Inbox::default());
        inbox.room.set(usize::MAX);
        self.scheduler.add(request, TestReader(inbox.clone(), question.needs_logits), self.clock.now());
        let on_device = self.chooses && question.suits_devices();
        self.asked.push(Asked { question, inbox, may_fail: false, on_device });
        self.asked.len() - 1
    }

    /// The sequence of a request's first answer.
    pub fn sequence(&self, asked: u64) -> crate::kv::pages::SequenceId {
        self.scheduler.tasks[&asked].answers[0].sequence.expect("it has pages")
    }

    pub fn advance_clock(&mut self, time: Duration) {
        *self.clock.0.lock().unwrap() += time;
    }

    /// One step, after which the invariants hold.
    pub fn step(&mut self) -> Progress {
        let progress = self.scheduler.step(&mut self.engine, &self.clock);
        if let Progress::Broken(_) = progress {
            self.engine = engine(&self.manifest, self.chooses, self.pages, &self.cache, &self.faults);
        }
        self.check_pages();
        for asked in self.asked.iter().filter(|asked| asked.inbox.closed.get()) {
            assert_eq!(Rc::strong_count(&asked.inbox), 1, "a request outlives its reader by a step");
        }
        progress
    }

    fn check_pages(&self) {
        let pool = self.engine.pool();
        assert_eq!(
            pool.sequences(),
            self.scheduler.seats_taken(),
            "sequences of nobody, or of somebody and not the engine"
        );
        assert!(self.scheduler.seats_taken() <= self.options.max_num_seqs);
        self.engine.check_pages();
        if self.scheduler.is_idle() {
            assert_eq!(self.engine.available_pages(), pool.pages(), "pages are lost");
        }
    }

    /// Steps until no request is left; more steps than `most` mean that something is stuck.
    pub fn drain(&mut self, most: usize) -> usize {
        for steps in 0..most {
            if self.step() == Progress::Idle {
                return steps;
            }
            self.advance_clock(Duration::from_millis(1));
        }
        panic!("requests are stuck: {:?}", self.asked.iter().map(|a| (&a.question, a.events())).collect::<Vec<_>>());
    }
}

fn engine(
    manifest: &Manifest,
    chooses: bool,
    pages: u64,
    cache: &Option<PrefixCacheOptions>,
    faults: &Arc<Mutex<Faults>>,
) -> Engine {
    let device = if chooses { FaultyDevice::choosing } else { FaultyDevice::new };
    let mut engine = Engine::with_device(manifest, Box::new(device(manifest, pages, faults.clone())), MAX_LEN);
    cache.iter().for_each(|options| engine.enable_prefix_cache(options).unwrap());
    engine
}
