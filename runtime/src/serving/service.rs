//! A model that answers requests: an engine and a scheduler on a thread of their own.
//!
//! Requests come through a bounded channel, events go through bounded ones, and the thread waits for neither, so that no caller
//! can hold up another. A request that cannot be queued is refused at once. A panic in a step costs the engine, which is made
//! anew, and the request to blame; all others go on with the same tokens.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{EventSender, EventStream, Request, RequestError, ServiceMetrics, SubmitError, event_channel};
use crate::artifact::Artifact;
use crate::device::DeviceMemory;
use crate::engine::{Engine, EngineError, EngineOptions};
use crate::kv::{PrefixCacheOptions, Tending};
use crate::scheduler::{Clock, Limits, Progress, Scheduler, SchedulerOptions, SystemClock, events_in_a_step, guarded};

/// How often resting requests are looked at while nothing else runs.
const RESTING_POLL: Duration = Duration::from_millis(2);

/// How often an idle service looks whether the threads that write and read pages have got on.
const TENDING_POLL: Duration = Duration::from_millis(5);

/// How long a shutdown always waits for pages that are being written, whatever its deadline.
const LEAST_FLUSH: Duration = Duration::from_secs(2);

/// What the queue is taken to need to move by one while it was never measured.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);

/// Events beyond those of two steps that a reader may be late by.
const SPARE_EVENTS: usize = 64;

/// How a service is made.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// The engine.
    pub engine: EngineOptions,
    /// Most sequences that hold KV pages at a time, at least 1.
    pub max_num_seqs: usize,
    /// Most tokens of a step; `None` takes the artifact's largest bucket. Raised to [`ServiceOptions::max_num_seqs`] and one page.
    pub max_num_batched_tokens: Option<usize>,
    /// Most requests that wait for their first step.
    pub max_waiting: usize,
    /// How long a reader may leave its events unread before its request fails.
    pub slow_reader: Duration,
    /// Where prefixes of prompts are kept; `None` computes every prompt whole.
    pub prefix_cache: Option<PrefixCacheOptions>,
}

impl Default for ServiceOptions {
    fn default() -> ServiceOptions {
        ServiceOptions {
            engine: EngineOptions::default(),
            max_num_seqs: 64,
            max_num_batched_tokens: None,
            max_waiting: 256,
            slow_reader: Duration::from_secs(30),
            prefix_cache: Some(PrefixCacheOptions::default()),
        }
    }
}

/// Whether a service answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It takes requests.
    Ready,
    /// It is shutting down, or has.
    Draining,
    /// Its device failed, with this message.
    Lost(String),
}

/// A handle to a running service. The service ends after [`Service::shutdown`], or when the last handle is gone and all requests
/// are answered.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    commands: SyncSender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    max_waiting: usize,
    memory: DeviceMemory,
    device_name: String,
}

/// What handles and thread share.
struct Shared {
    metrics: Mutex<ServiceMetrics>,
    lost: Mutex<Option<String>>,
    draining: AtomicBool,
    /// When a shutdown gives up on requests, by the clock.
    deadline: Mutex<Option<Duration>>,
    /// Requests that were taken and have not begun.
    waiting: AtomicUsize,
    /// Requests that were taken and have not ended.
    open: AtomicUsize,
    /// What the queue has lately taken to move by one, in microseconds; 0 if it never had to.
    start_interval_micros: AtomicU64,
}

enum Command {
    Submit {
        request: Box<Request>,
        sender: EventSender,
        taken: Duration,
    },
    /// Look at the shared state.
    Wake,
}

/// Makes the engine, and makes it again after a failure.
type EngineFactory = Box<dyn FnMut() -> Result<Engine, EngineError> + Send>;

impl Service {
    /// Loads an artifact and starts to answer.
    ///
    /// # Errors
    /// Those of [`Engine::new`], options out of range, or no thread.
    pub fn start(artifact: Arc<Artifact>, options: ServiceOptions) -> Result<Service, EngineError> {
        let engine_options = options.engine;
        let hidden = artifact.programs().iter().all(|p| p.outputs.iter().any(|(name, _)| name == "hidden"));
        let largest = artifact.manifest().buckets.iter().map(|b| b.max_tokens as usize).max().unwrap_or(1);
        let options =
            ServiceOptions { max_num_batched_tokens: options.max_num_batched_tokens.or(Some(largest)), ..options };
        let prefix_cache = options.prefix_cache.clone();
        let factory = Box::new(move || {
            let mut engine = Engine::new(artifact.clone(), &engine_options)?;
            prefix_cache.iter().try_for_each(|options| engine.enable_prefix_cache(options))?;
            Ok(engine)
        });
        Service::start_with(factory, hidden, &options, Arc::new(SystemClock::start()))
    }

    /// Starts with engines of any kind.
    fn start_with(
        mut factory: EngineFactory,
        hidden_states: bool,
        options: &ServiceOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Service, EngineError> {
        check(options)?;
        let engine = factory()?;
        let limits = Limits::of(&engine, hidden_states);
        let (memory, device_name) = (engine.memory(), engine.device_name());
        let shared = Arc::new(Shared {
            metrics: Mutex::default(),
            lost: Mutex::default(),
            draining: AtomicBool::new(false),
            deadline: Mutex::default(),
            waiting: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            start_interval_micros: AtomicU64::new(0),
        });
        // Never full of requests: those in the channel wait, too.
        let (commands, receiver) = sync_channel(options.max_waiting + 1);
        let worker = Worker {
            engine: Some(engine),
            factory,
            scheduler: Scheduler::new(limits, scheduler_options(options)),
            commands: receiver,
            shared: shared.clone(),
            clock: clock.clone(),
            unstarted: 0,
            restarts: 0,
            tending: Tending::Now,
        };
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || worker.run_guarded());
        let thread =
            thread.map_err(|error| EngineError::Option { option: "engine thread", message: error.to_string() })?;
        let max_waiting = options.max_waiting;
        let thread = Mutex::new(Some(thread));
        let inner = Inner { commands, thread, shared, clock, limits, max_waiting, memory, device_name };
        Ok(Service { inner: Arc::new(inner) })
    }

    /// Queues a request. Never waits.
    ///
    /// # Errors
    /// A field out of range, a full queue, or a service that is ending or lost: nothing was done.
    pub fn submit(&self, request: Request) -> Result<EventStream, SubmitError> {
        let Inner { commands, shared, clock, limits, max_waiting, .. } = &*self.inner;
        limits.check(&request)?;
        self.check_health()?;
        let one_more = |waiting: usize| (waiting < *max_waiting).then_some(waiting + 1);
        let queued = shared.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        if let Err(waiting) = queued {
            return Err(SubmitError::QueueFull { waiting, retry_after: shared.retry_after() });
        }
        shared.open.fetch_add(1, Ordering::SeqCst);
        // An ending thread waits for what `open` counts: either it sees this request, or this sees that it ends.
        if shared.draining.load(Ordering::SeqCst) {
            shared.forget_one();
            return Err(self.check_health().err().unwrap_or(SubmitError::ShuttingDown));
        }
        let (sender, stream) = event_channel(2 * events_in_a_step(request.answers) + SPARE_EVENTS, request.answers);
        let command = Command::Submit { request: Box::new(request), sender, taken: clock.now() };
        commands.try_send(command).map_err(|error| {
            shared.forget_one();
            match error {
                TrySendError::Full(_) => {
                    SubmitError::QueueFull { waiting: *max_waiting, retry_after: shared.retry_after() }
                }
                TrySendError::Disconnected(_) => self.check_health().err().unwrap_or(SubmitError::ShuttingDown),
            }
        })?;
        Ok(stream)
    }

    fn check_health(&self) -> Result<(), SubmitError> {
        match self.health() {
            Health::Ready => Ok(()),
            Health::Draining => Err(SubmitError::ShuttingDown),
            Health::Lost(message) => Err(SubmitError::DeviceLost(message)),
        }
    }

    /// What was counted so far.
    pub fn metrics(&self) -> ServiceMetrics {
        let mut metrics = lock(&self.inner.shared.metrics).clone();
        // Those that the thread has not seen yet wait as well.
        let open = self.inner.shared.open.load(Ordering::Relaxed) as u64;
        metrics.num_requests_waiting = open.saturating_sub(metrics.num_requests_running);
        metrics
    }

    /// Whether it answers.
    pub fn health(&self) -> Health {
        let shared = &self.inner.shared;
        match &*lock(&shared.lost) {
            Some(message) => Health::Lost(message.clone()),
            None if shared.draining.load(Ordering::SeqCst) => Health::Draining,
            None => Health::Ready,
        }
    }

    /// Whether no request waits or runs.
    pub fn is_idle(&self) -> bool {
        self.inner.shared.open.load(Ordering::Relaxed) == 0
    }

    /// Takes no more requests, answers the taken ones for at most `deadline`, then fails the rest and ends. Returns when it has
    /// ended; blocks the calling thread until then.
    pub fn shutdown(&self, deadline: Duration) {
        let Inner { shared, commands, clock, thread, .. } = &*self.inner;
        let until = clock.now().saturating_add(deadline);
        let mut earliest = lock(&shared.deadline);
        *earliest = Some(earliest.map_or(until, |other| other.min(until)));
        drop(earliest);
        shared.draining.store(true, Ordering::SeqCst);
        // A full channel wakes the thread, too; a closed one needs no waking.
        let _ = commands.try_send(Command::Wake);
        if let Some(thread) = lock(thread).take() {
            // Its panics are caught within.
            let _ = thread.join();
        }
    }

    /// Longest sequence in tokens, prompt and answer together.
    pub fn max_model_len(&self) -> u64 {
        self.inner.limits.max_model_len
    }

    /// Number of tokens the model knows.
    pub fn vocabulary(&self) -> usize {
        self.inner.limits.vocabulary
    }

    /// Whether [`super::Output::HiddenStates`] can be asked for.
    pub fn gives_hidden_states(&self) -> bool {
        self.inner.limits.hidden_states
    }

    /// Memory the device has reserved.
    pub fn memory(&self) -> DeviceMemory {
        self.inner.memory
    }

    /// The device's description.
    pub fn device_name(&self) -> &str {
        &self.inner.device_name
    }
}

fn check(options: &ServiceOptions) -> Result<(), EngineError> {
    let zero = |option, value: usize| {
        let message = "must be at least 1".to_string();
        if value == 0 { Err(EngineError::Option { option, message }) } else { Ok(()) }
    };
    zero("max_num_seqs", options.max_num_seqs)?;
    zero("max_waiting", options.max_waiting)?;
    zero("max_num_batched_tokens", options.max_num_batched_tokens.unwrap_or(1))
}

fn scheduler_options(options: &ServiceOptions) -> SchedulerOptions {
    let least = options.max_num_seqs + ir::op::PAGE_TOKENS as usize;
    SchedulerOptions {
        max_num_seqs: options.max_num_seqs,
        max_num_batched_tokens: options.max_num_batched_tokens.unwrap_or(least).max(least),
        slow_reader: options.slow_reader,
    }
}

impl Shared {
    /// Takes a request back that was counted and not sent.
    fn forget_one(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    fn retry_after(&self) -> Duration {
        match self.start_interval_micros.load(Ordering::Relaxed) {
            0 => DEFAULT_RETRY,
            micros => Duration::from_micros(micros),
        }
    }
}

/// What the thread works with.
struct Worker {
    /// `None` after a failure until there is a new one.
    engine: Option<Engine>,
    factory: EngineFactory,
    scheduler: Scheduler<EventSender>,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    /// Requests that `Shared::waiting` counts and the scheduler has.
    unstarted: usize,
    /// Engines made since a step succeeded.
    restarts: u32,
    /// What is left to do for the prefix cache.
    tending: Tending,
}

/// New engines that may fail one after the other before the device counts as lost for good.
const MOST_RESTARTS: u32 = 2;

impl Worker {
    fn run_guarded(mut self) {
        let shared = self.shared.clone();
        if let Err(text) = guarded(|| self.run()) {
            *lock(&shared.lost) = Some(format!("the engine's thread panicked: {text}; this is a bug"));
        }
        // The senders of all requests go with the worker, so that no reader waits.
        drop(self);
        shared.open.store(0, Ordering::Relaxed);
        shared.waiting.store(0, Ordering::Relaxed);
    }

    /// Answers until told to end.
    fn run(&mut self) {
        while self.take_commands() {
            let Some(engine) = &mut self.engine else { return };
            match self.scheduler.step(engine, &*self.clock) {
                Progress::Stepped => self.restarts = 0,
                Progress::Submitted => {}
                Progress::Idle | Progress::Resting => self.tend(),
                Progress::Broken(message) => self.restart(&message),
                Progress::Lost(message) => self.lose(&message),
            }
            self.publish();
            if self.is_over() {
                break;
            }
        }
        self.end();
    }

    /// Takes the requests that have come; waits for one if there is nothing else to do. False when nobody is left to send any and
    /// all are answered.
    fn take_commands(&mut self) -> bool {
        if let Some(wait) = self.idle_time() {
            match self.commands.recv_timeout(wait) {
                Ok(command) => self.take_command(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if self.scheduler.is_idle() => return false,
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.take_command(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !self.scheduler.is_idle(),
            }
        }
    }

    /// How long nothing needs to be done; `None` if there are tokens to compute.
    fn idle_time(&self) -> Option<Duration> {
        match self.scheduler.is_idle() {
            true if self.shared.draining.load(Ordering::SeqCst) => None,
            true => Some(match self.tending {
                Tending::Now => Duration::ZERO,
                Tending::Later => TENDING_POLL,
                // Whatever ends it comes through the channel.
                Tending::Done => Duration::MAX,
            }),
            false => self.scheduler.rests().then_some(RESTING_POLL),
        }
    }

    /// Goes on with writing pages to disk and bringing those from there while there is nothing to compute.
    fn tend(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        self.tending = engine.tend_prefix_cache().unwrap_or_else(|error| {
            tracing::warn!(%error, "pages of the prefix cache cannot be moved");
            Tending::Done
        });
    }

    /// Waits until the prefix cache is on disk, as long as a shutdown allows.
    fn flush(&mut self) {
        let deadline = lock(&self.shared.deadline).map(|deadline| deadline.saturating_sub(self.clock.now()));
        let Some(engine) = &mut self.engine else { return };
        match engine.flush_prefix_cache(deadline.unwrap_or_default().max(LEAST_FLUSH)) {
            Ok(true) => {}
            Ok(false) => tracing::warn!("the shutdown came before all pages of the prefix cache were on disk"),
            Err(error) => tracing::warn!(%error, "pages cannot be written to the prefix cache"),
        }
    }

    /// Makes counts and metrics known to the handles.
    fn publish(&mut self) {
        let unstarted = self.scheduler.unstarted();
        self.shared.waiting.fetch_sub(self.unstarted - unstarted, Ordering::Relaxed);
        self.unstarted = unstarted;
        let ended = self.scheduler.take_ended();
        self.shared.open.fetch_sub(ended, Ordering::Relaxed);
        let micros = self.scheduler.start_interval().map_or(0, |interval| interval.as_micros().max(1) as u64);
        self.shared.start_interval_micros.store(micros, Ordering::Relaxed);
        lock(&self.shared.metrics).clone_from(self.scheduler.metrics());
    }

    /// Whether a shutdown has nothing left to wait for.
    fn is_over(&self) -> bool {
        if !self.shared.draining.load(Ordering::SeqCst) {
            return false;
        }
        let past = lock(&self.shared.deadline).is_some_and(|deadline| self.clock.now() >= deadline);
        past || self.scheduler.is_idle()
    }

    /// Fails what is left.
    fn end(&mut self) {
        let error = match &*lock(&self.shared.lost) {
            Some(message) => RequestError::DeviceLost(message.clone()),
            None => RequestError::ShuttingDown,
        };
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.take_command(command);
            }
            self.scheduler.fail_all(self.engine.as_mut(), &error, self.clock.now());
            self.publish();
            // A handle may have counted a request that it has not sent yet.
            if self.shared.open.load(Ordering::SeqCst) == 0 {
                break;
            }
            std::thread::sleep(RESTING_POLL);
        }
        self.flush();
    }

    fn take_command(&mut self, command: Command) {
        if let Command::Submit { request, sender, taken } = command {
            self.unstarted += 1;
            self.scheduler.add(*request, sender, taken);
        }
    }

    /// Replaces an engine that panicked; requests go on with it.
    fn restart(&mut self, message: &str) {
        tracing::error!(message, "the engine panicked; it is made anew");
        self.restarts += 1;
        self.discard_engine();
        if self.restarts > MOST_RESTARTS {
            return self.lose(message);
        }
        match guarded(|| (self.factory)()) {
            Ok(Ok(engine)) => (self.engine, self.tending) = (Some(engine), Tending::Now),
            Ok(Err(error)) => self.lose(&error.to_string()),
            Err(_) => self.lose(message),
        }
    }

    /// The device is lost: all requests fail, and no more are taken.
    fn lose(&mut self, message: &str) {
        tracing::error!(message, "the device is lost");
        *lock(&self.shared.lost) = Some(message.to_string());
        self.discard_engine();
        self.shared.draining.store(true, Ordering::SeqCst);
        let error = RequestError::DeviceLost(message.to_string());
        self.scheduler.fail_all(None, &error, self.clock.now());
    }

    /// Drops an engine in an unknown state, before another takes its memory.
    fn discard_engine(&mut self) {
        let engine = self.engine.take();
        // What a broken engine does on its end must not end the thread.
        let _ = guarded(|| drop(engine));
    }
}

/// Locks; a panic elsewhere does not spoil values that are replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
