//! Which tokens of which requests a step computes: continuous batching as a state machine, without thread, channel or clock
//! of its own.
//!
//! Each call of [`Scheduler::step`] plans one step over the engine's pages, runs it, chooses tokens and sends events.
//! - Requests wait in the order (priority, arrival), and none passes one that goes before it, so that a large one is not starved
//!   by small ones. Every [`FAVOUR_EVERY`]th request to start is the one that waited longest, whatever its priority.
//! - A step takes one token of every sequence that generates, then pieces of prompts up to a budget of tokens.
//! - When pages run out, the sequence that goes last loses its own and waits again with all its tokens. Nothing else is kept
//!   of it: logits depend on tokens alone and the choice on seed and position, so what follows is the same.
//! - A step that fails is repeated with each of its sequences alone, so that only the one to blame fails.
//! - Where the device chooses tokens, a step is handed to it before those of the step before are known: a sequence goes on by the token that is
//!   being chosen, unless it ends with it for certain. What turns out to have ended drops what is computed for it. Who chooses follows from
//!   the request alone; a step in which the host chooses is waited for.

mod choose;
mod clock;
mod limits;
mod outcome;
mod plan;
mod task;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub(crate) use choose::guarded;
pub use clock::{Clock, SystemClock};
pub use limits::{Limits, MAX_ANSWERS};
pub use task::{Reader, events_in_a_step};

use crate::engine::Engine;
use crate::sample::Sampler;
use crate::serving::{FinishReason, Request, RequestError, ServiceMetrics};
use task::{Key, Planned, Task};

/// Of so many requests that start, one is the one that waited longest.
pub const FAVOUR_EVERY: u64 = 8;

/// So many sequences failing alone, one after the other and nothing succeeding between, are the device's fault.
const MOST_FAILURES: u32 = 8;

/// How a scheduler fills steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Most sequences that hold pages at a time, at least 1.
    pub max_num_seqs: usize,
    /// Most tokens of a step; sequences that generate are never left out, and at least one token of a prompt always fits.
    pub max_num_batched_tokens: usize,
    /// How long a reader may leave no room before its request fails.
    pub slow_reader: Duration,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Tokens were computed, or a failure was dealt with: there may be more to do.
    Stepped,
    /// Tokens are being computed, and nothing has become known since the last step.
    Submitted,
    /// Requests are left, but all wait for their readers.
    Resting,
    /// No request is left.
    Idle,
    /// The engine panicked and must be replaced: see [`Scheduler::engine_replaced`].
    Broken(String),
    /// The device is lost.
    Lost(String),
}

/// The state of all requests.
pub struct Scheduler<R> {
    limits: Limits,
    options: SchedulerOptions,
    /// In the order they came.
    tasks: BTreeMap<u64, Task<R>>,
    next_task: u64,
    /// Requests that had ended when last asked.
    ended: usize,
    sampler: Sampler,
    metrics: ServiceMetrics,
    /// Requests started since the one that had waited longest was favoured.
    starts: u64,
    last_start: Option<Duration>,
    /// Moving average of the time between starts while requests waited.
    start_interval: Option<Duration>,
    /// Sequences that failed alone since something succeeded.
    failures: u32,
    /// Whether the last step was one that cannot be shared.
    was_exclusive: bool,
    /// Steps that the device has and whose tokens are not known, the oldest first: two while a step is handed over, one between calls.
    under_way: VecDeque<Vec<Planned>>,
}

impl<R: Reader> Scheduler<R> {
    /// A scheduler without requests.
    pub fn new(limits: Limits, options: SchedulerOptions) -> Scheduler<R> {
        Scheduler {
            limits,
            options,
            tasks: BTreeMap::new(),
            next_task: 0,
            ended: 0,
            sampler: Sampler::new(),
            metrics: ServiceMetrics::default(),
            starts: 0,
            last_start: None,
            start_interval: None,
            failures: 0,
            was_exclusive: false,
            under_way: VecDeque::new(),
        }
    }

    /// Queues a request that [`Limits::check`] accepts; `taken` is when it came.
    pub fn add(&mut self, request: Request, reader: R, taken: Duration) {
        self.tasks.insert(self.next_task, Task::new(request, reader, taken));
        self.next_task += 1;
    }

    /// Plans one step, and runs it or hands it to the device; gives out the tokens that are known then.
    pub fn step(&mut self, engine: &mut Engine, clock: &dyn Clock) -> Progress {
        self.reap(engine, clock.now());
        let was_exclusive = self.was_exclusive;
        let plan = self.plan(engine, clock.now());
        let mut progress = match self.under_way.is_empty() {
            true if plan.is_empty() && self.tasks.is_empty() => Progress::Idle,
            true if plan.is_empty() => Progress::Resting,
            _ if self.may_overlap(engine, &plan) => self.submit(engine, plan, clock),
            true => self.run(engine, &plan, clock),
            // What is under way comes first; with its tokens another step may be the right one.
            false => {
                self.was_exclusive = was_exclusive;
                self.collect(engine, clock)
            }
        };
        // Nobody is left to ask for what is computed; but a lost device must be noticed.
        while self.tasks.is_empty() && !self.under_way.is_empty() {
            progress = self.collect(engine, clock);
        }
        self.update_gauges(engine);
        progress
    }

    /// Ends every request with an error.
    pub fn fail_all(&mut self, engine: Option<&mut Engine>, error: &RequestError, now: Duration) {
        match engine {
            Some(engine) => {
                for id in self.ids() {
                    self.fail(engine, id, error.clone(), now);
                }
                self.under_way.clear();
                engine.give_up_submitted();
                self.update_gauges(engine);
            }
            None => {
                self.engine_replaced(now);
                while let Some((_, mut task)) = self.tasks.pop_first() {
                    self.note_failure(&mut task, error.clone(), now);
                }
            }
        }
    }

    /// Says that the engine is another one: all sequences wait again.
    pub fn engine_replaced(&mut self, now: Duration) {
        self.under_way.clear();
        for task in self.tasks.values_mut() {
            let generates = task.prompt_done.is_some();
            for answer in task.answers.iter_mut().filter(|a| a.sequence.is_some()) {
                answer.sequence = None;
                answer.preempted = answer.preempted.or(generates.then_some(now));
            }
        }
    }

    /// Requests whose first step has not begun.
    pub fn unstarted(&self) -> usize {
        self.tasks.values().filter(|t| t.started.is_none()).count()
    }

    /// Whether there are no requests.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Whether all requests wait for their readers, and nothing is being computed.
    pub fn rests(&self) -> bool {
        self.under_way.is_empty() && !self.tasks.is_empty() && self.tasks.values().all(|t| t.resting.is_some())
    }

    /// Requests that ended since the last call.
    pub fn take_ended(&mut self) -> usize {
        let ended = self.next_task as usize - self.tasks.len();
        ended - std::mem::replace(&mut self.ended, ended)
    }

    /// How long the queue has lately taken to move by one; `None` while it never had to.
    pub fn start_interval(&self) -> Option<Duration> {
        self.start_interval
    }

    /// What was counted so far.
    pub fn metrics(&self) -> &ServiceMetrics {
        &self.metrics
    }

    fn ids(&self) -> Vec<u64> {
        self.tasks.keys().copied().collect()
    }

    /// Drops requests nobody reads, ends answers nobody wants, and notes who rests.
    fn reap(&mut self, engine: &mut Engine, now: Duration) {
        for id in self.ids() {
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            if task.reader.is_closed() {
                let unfinished =
                    task.request.answers as usize - task.answers.iter().filter(|a| a.finish.is_some()).count();
                self.metrics.answers_cancelled += unfinished as u64;
                self.close_all(engine, id);
                self.tasks.remove(&id);
                continue;
            }
            let no_room = task.reader.room() < task.room_needed();
            task.resting = if no_room { task.resting.or(Some(now)) } else { None };
            if task.resting.is_some_and(|since| now.saturating_sub(since) > self.options.slow_reader) {
                self.fail(engine, id, RequestError::SlowReader(self.options.slow_reader), now);
            } else {
                self.end_unwanted(engine, id, now);
            }
        }
    }

    /// Ends the answers that their reader wants no more of. Before the prompt is computed there is one sequence for all.
    fn end_unwanted(&mut self, engine: &mut Engine, id: u64, now: Duration) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let unwanted =
            |i: &u32| task.reader.is_ended(*i) && task.answers.get(*i as usize).is_none_or(|a| a.finish.is_none());
        let ended: Vec<u32> = (0..task.request.answers).filter(unwanted).collect();
        let early = task.answers.len() < task.request.answers as usize && ended.len() < task.request.answers as usize;
        if ended.is_empty() || early || task.reader.room() <= ended.len() {
            return;
        }
        task.fork_answers();
        for i in ended {
            choose::finish(task, i as usize, FinishReason::Cancelled, &mut self.metrics, now);
        }
        self.settle(engine, id, now);
    }

    /// Ends a request with an error.
    fn fail(&mut self, engine: &mut Engine, id: u64, error: RequestError, now: Duration) {
        self.close_all(engine, id);
        if let Some(mut task) = self.tasks.remove(&id) {
            self.note_failure(&mut task, error, now);
        }
    }

    fn note_failure(&mut self, task: &mut Task<R>, error: RequestError, now: Duration) {
        task.reader.send(crate::serving::Event::Failed(error));
        self.metrics.requests_failed += 1;
        self.metrics.e2e_request_latency.observe(now.saturating_sub(task.taken));
    }

    fn close_all(&mut self, engine: &mut Engine, id: u64) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        for sequence in task.answers.iter_mut().filter_map(|a| a.sequence.take()) {
            close(engine, sequence);
        }
    }

    /// Takes the pages of a sequence away; it waits again.
    fn preempt(&mut self, engine: &mut Engine, key: Key, now: Duration) {
        let Some(task) = self.tasks.get_mut(&key.task) else { return };
        let Some(answer) = task.answers.get_mut(key.answer as usize) else { return };
        let Some(sequence) = answer.sequence.take() else { return };
        close(engine, sequence);
        answer.preempted = answer.preempted.or(task.prompt_done.map(|_| now));
        task.preemptions += 1;
        self.metrics.preemptions += 1;
    }

    fn update_gauges(&mut self, engine: &Engine) {
        let runs = |t: &&Task<R>| t.answers.iter().any(|a| a.sequence.is_some());
        self.metrics.num_requests_running = self.tasks.values().filter(runs).count() as u64;
        self.metrics.num_requests_waiting = self.tasks.len() as u64 - self.metrics.num_requests_running;
        let (pages, available) = (engine.pool().pages().max(1), engine.available_pages());
        self.metrics.kv_cache_usage = 1.0 - available as f64 / pages as f64;
    }
}

/// Closes a sequence of the scheduler's own: the engine knows it.
fn close(engine: &mut Engine, sequence: crate::kv::pages::SequenceId) {
    let closed = engine.close_sequence(sequence);
    debug_assert!(closed.is_ok(), "{closed:?}");
}
