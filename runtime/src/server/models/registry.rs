//! Which models are loaded.
//!
//! One lock guards the table of models and is never held over a wait; one asynchronous lock lets models be loaded, unloaded and
//! replaced one at a time, so that each sees the memory the others have left. Callers who want a model that is being loaded wait for
//! that load, which goes on even if all of them leave.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use super::load::{self, Opened};
use super::{LoadedModel, ModelHandle, ModelOptions};
use crate::byte_size::ByteSize;
use crate::server::error::ApiError;
use crate::serving::Health;

/// The outcome of a load, once there is one.
type Outcome = Option<Result<(), ApiError>>;

/// A model's place in the table.
enum Slot {
    /// Not loaded.
    Empty,
    /// Being loaded; anew, where its device was lost.
    Loading { outcome: watch::Receiver<Outcome>, lost: bool },
    /// Loaded.
    Ready(Arc<LoadedModel>),
    /// It could not be loaded, or its device was lost.
    Failed { error: ApiError, since: Instant, lost: bool },
}

struct Entry {
    names: Vec<String>,
    path: PathBuf,
    slot: Slot,
    /// Larger the later it was last asked for.
    last_used: u64,
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    clock: u64,
}

/// What can be said about a server's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// All that should run does.
    Ready,
    /// The first model is not loaded yet.
    Loading,
    /// The server is shutting down.
    Draining,
    /// A device is lost, and why.
    Lost(String),
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reloaded {
    /// The model's name.
    pub model: String,
    /// Where it was loaded from.
    pub path: PathBuf,
    /// Whether requests had to wait while it was replaced, for memory did not hold both.
    pub waited: bool,
}

/// The models of a server.
pub(crate) struct Registry {
    table: Mutex<Table>,
    /// Held while a model is loaded, unloaded or replaced.
    changes: tokio::sync::Mutex<()>,
    options: ModelOptions,
    default_name: String,
    released: Arc<Notify>,
    /// Loads, and models on their way out.
    tasks: TaskTracker,
    started: std::sync::atomic::AtomicBool,
    draining: std::sync::atomic::AtomicBool,
}

impl Registry {
    /// A table of models, none of which is loaded.
    pub fn new(options: ModelOptions) -> Arc<Registry> {
        let entry = |spec: &super::ModelSpec| Entry {
            names: spec.names.clone(),
            path: spec.path.clone(),
            slot: Slot::Empty,
            last_used: 0,
        };
        let entries: Vec<Entry> = options.models.iter().map(entry).collect();
        let default_name = entries.first().and_then(|entry| entry.names.first()).cloned().unwrap_or_default();
        Arc::new(Registry {
            table: Mutex::new(Table { entries, clock: 0 }),
            changes: tokio::sync::Mutex::default(),
            options,
            default_name,
            released: Arc::default(),
            tasks: TaskTracker::new(),
            started: false.into(),
            draining: false.into(),
        })
    }

    /// The model of requests that name none.
    pub fn default_name(&self) -> &str {
        &self.default_name
    }

    /// Whether a model has this name.
    pub fn knows(&self, name: &str) -> bool {
        self.table().position(name).is_some()
    }

    /// Every model: its names, and itself if it is loaded.
    pub fn list(&self) -> Vec<(Vec<String>, Option<ModelHandle>)> {
        let table = self.table();
        table.entries.iter().map(|entry| (entry.names.clone(), entry.slot.model().map(ModelHandle::new))).collect()
    }

    /// A model, loaded if it was not.
    ///
    /// # Errors
    /// 404 for an unknown name, 503 where it cannot be loaded.
    pub async fn get(self: &Arc<Self>, name: &str) -> Result<ModelHandle, ApiError> {
        loop {
            let mut load = match self.look_up(name)? {
                Found::Ready(handle) => return Ok(handle),
                Found::Loading(load) => load,
            };
            let outcome = load.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
            match outcome {
                Ok(Some(Ok(()))) => {}
                Ok(Some(Err(error))) => return Err(error),
                Ok(None) | Err(_) => return Err(unavailable("loading the model was given up")),
            }
        }
    }

    fn look_up(self: &Arc<Self>, name: &str) -> Result<Found, ApiError> {
        if self.is_draining() {
            return Err(unavailable("the server is shutting down"));
        }
        let mut table = self.table();
        let index = table.position(name).ok_or_else(|| unknown(name))?;
        table.clock += 1;
        let now = table.clock;
        let entry = &mut table.entries[index];
        entry.last_used = now;
        self.notice_loss(entry);
        match &entry.slot {
            Slot::Ready(model) => Ok(Found::Ready(ModelHandle::new(model))),
            Slot::Loading { outcome, .. } => Ok(Found::Loading(outcome.clone())),
            Slot::Failed { error, since, .. } if since.elapsed() < self.options.retry_failed => Err(error.clone()),
            Slot::Failed { .. } | Slot::Empty => Ok(Found::Loading(self.begin_load(index, entry))),
        }
    }

    /// Takes a model whose device is lost out of service; a request after some time loads it anew.
    fn notice_loss(self: &Arc<Self>, entry: &mut Entry) {
        let Slot::Ready(model) = &entry.slot else { return };
        let Health::Lost(reason) = model.service.health() else { return };
        tracing::error!(model = model.name, reason, "device lost");
        let error = unavailable(format!("the device is lost: {reason}")).with_code("device_lost");
        let lost = Slot::Failed { error, since: Instant::now(), lost: true };
        if let Slot::Ready(model) = std::mem::replace(&mut entry.slot, lost) {
            self.retire_later(model);
        }
    }

    /// Loads the first model.
    ///
    /// # Errors
    /// As [`Registry::get`].
    pub async fn start(self: &Arc<Self>) -> Result<ModelHandle, ApiError> {
        let first = self.get(&self.default_name).await?;
        self.started.store(true, std::sync::atomic::Ordering::Release);
        Ok(first)
    }

    /// How the server is. A lost device is tried again, some time after it was lost.
    pub fn readiness(self: &Arc<Self>) -> Readiness {
        if self.is_draining() {
            return Readiness::Draining;
        }
        let mut table = self.table();
        let mut readiness = match self.started.load(std::sync::atomic::Ordering::Acquire) {
            true => Readiness::Ready,
            false => Readiness::Loading,
        };
        for (index, entry) in table.entries.iter_mut().enumerate() {
            self.notice_loss(entry);
            match &entry.slot {
                Slot::Failed { error, since, lost: true } => {
                    readiness = Readiness::Lost(error.message.clone());
                    if since.elapsed() >= self.options.retry_failed {
                        self.begin_load(index, entry);
                    }
                }
                Slot::Loading { lost: true, .. } => readiness = Readiness::Lost("the model is loaded anew".into()),
                _ => {}
            }
        }
        readiness
    }

    fn begin_load(self: &Arc<Self>, index: usize, entry: &mut Entry) -> watch::Receiver<Outcome> {
        let (done, outcome) = watch::channel(None);
        let lost = matches!(entry.slot, Slot::Failed { lost: true, .. });
        entry.slot = Slot::Loading { outcome: outcome.clone(), lost };
        let registry = self.clone();
        self.tasks.spawn(async move {
            let result = registry.load(index).await;
            if let Err(error) = &result {
                tracing::error!(error = error.message, "model not loaded");
            }
            done.send_replace(Some(result));
        });
        outcome
    }

    async fn load(self: &Arc<Self>, index: usize) -> Result<(), ApiError> {
        let _changes = self.changes.lock().await;
        let path = {
            let table = self.table();
            if matches!(table.entries[index].slot, Slot::Ready(_)) {
                return Ok(());
            }
            table.entries[index].path.clone()
        };
        let result = async {
            let opened = self.open(path).await?;
            self.make_room(opened.bytes, index, 0).await?;
            self.start_model(index, opened).await
        };
        let result = result.await;
        let mut table = self.table();
        let slot = &mut table.entries[index].slot;
        match result {
            Ok(model) => {
                *slot = Slot::Ready(model);
                Ok(())
            }
            Err(error) => {
                let lost = matches!(slot, Slot::Loading { lost: true, .. });
                *slot = Slot::Failed { error: error.clone(), since: Instant::now(), lost };
                Err(error)
            }
        }
    }

    /// Replaces a model by what is at `path`, or by what its own path holds now. Requests that run go on with the old one.
    ///
    /// # Errors
    /// The new one cannot be loaded; the old one stays, unless memory did not hold both.
    pub async fn reload(self: &Arc<Self>, name: &str, path: Option<PathBuf>) -> Result<Reloaded, ApiError> {
        let index = self.table().position(name).ok_or_else(|| unknown(name))?;
        let registry = self.clone();
        // A task of its own: a caller who leaves must not leave a model half replaced.
        let task = self.tasks.spawn(async move { registry.replace(index, path).await });
        task.await.unwrap_or_else(|e| Err(ApiError::internal(format!("the reload ended early: {e}"))))
    }

    async fn replace(self: &Arc<Self>, index: usize, path: Option<PathBuf>) -> Result<Reloaded, ApiError> {
        let _changes = self.changes.lock().await;
        let path = path.unwrap_or_else(|| self.table().entries[index].path.clone());
        let opened = self.open(path.clone()).await?;
        self.check_budget(opened.bytes)?;
        let old_bytes = self.table().entries[index].slot.model().map_or(0, |model| model.bytes);
        let waited = match self.make_room(opened.bytes, index, old_bytes).await {
            Ok(()) => None,
            Err(_) => Some(self.empty(index).await?),
        };
        let started = match &waited {
            None => self.start_model(index, opened).await,
            Some(_) => match self.make_room(opened.bytes, index, 0).await {
                Ok(()) => self.start_model(index, opened).await,
                Err(error) => Err(error),
            },
        };
        let mut table = self.table();
        let entry = &mut table.entries[index];
        let model = match started {
            Ok(model) => model,
            Err(error) => {
                if let Some(done) = waited {
                    // The next request loads what was there before.
                    entry.slot = Slot::Empty;
                    done.send_replace(Some(Ok(())));
                }
                return Err(error);
            }
        };
        entry.path = path.clone();
        let name = model.name.clone();
        if let Slot::Ready(old) = std::mem::replace(&mut entry.slot, Slot::Ready(model)) {
            self.retire_later(old);
        }
        drop(table);
        if let Some(done) = &waited {
            done.send_replace(Some(Ok(())));
        }
        tracing::info!(model = name, path = %path.display(), "reloaded");
        Ok(Reloaded { model: name, path, waited: waited.is_some() })
    }

    /// Unloads a model when its requests have ended; those that come meanwhile wait for the outcome to be sent.
    async fn empty(self: &Arc<Self>, index: usize) -> Result<watch::Sender<Outcome>, ApiError> {
        let (done, outcome) = watch::channel(None);
        let old = {
            let mut table = self.table();
            std::mem::replace(&mut table.entries[index].slot, Slot::Loading { outcome, lost: false })
        };
        let Slot::Ready(old) = old else { return Ok(done) };
        if tokio::time::timeout(self.options.drain, self.until_unused(&old)).await.is_err() {
            self.table().entries[index].slot = Slot::Ready(old);
            done.send_replace(Some(Ok(())));
            let message = "memory does not hold both models, and requests of the old one are still running";
            return Err(unavailable(message).with_code("model_busy"));
        }
        shut_down(old, Duration::ZERO).await;
        Ok(done)
    }

    async fn open(&self, path: PathBuf) -> Result<Opened, ApiError> {
        let options = self.options.clone();
        let opened = tokio::task::spawn_blocking(move || load::open(&path, &options)).await;
        opened.unwrap_or_else(|e| Err(format!("the load ended early: {e}"))).map_err(|message| cannot_load(&message))
    }

    async fn start_model(&self, index: usize, opened: Opened) -> Result<Arc<LoadedModel>, ApiError> {
        let name = self.table().entries[index].names.first().cloned().unwrap_or_default();
        let (options, released) = (self.options.clone(), self.released.clone());
        let started = tokio::task::spawn_blocking(move || load::start(&name, opened, &options, released)).await;
        let started = started.unwrap_or_else(|e| Err(format!("the load ended early: {e}")));
        let model = Arc::new(started.map_err(|message| cannot_load(&message))?);
        tracing::info!(model = model.name, bytes = model.bytes, device = model.service.device_name(), "loaded");
        Ok(model)
    }

    /// Whether so many bytes could fit at all.
    fn check_budget(&self, bytes: u64) -> Result<(), ApiError> {
        match self.options.memory_budget {
            Some(budget) if bytes > budget => {
                let message = format!("it needs {}, the memory budget is {}", ByteSize(bytes), ByteSize(budget));
                Err(cannot_load(&message))
            }
            _ => Ok(()),
        }
    }

    /// Unloads models that nobody uses, the one unused longest first, until `bytes` fit beside the others and the `kept`
    /// bytes of the model at `index`.
    async fn make_room(&self, bytes: u64, index: usize, kept: u64) -> Result<(), ApiError> {
        let Some(budget) = self.options.memory_budget else { return Ok(()) };
        let needed = bytes.saturating_add(kept);
        self.check_budget(needed)?;
        let wait = tokio::time::sleep(self.options.wait_for_room);
        tokio::pin!(wait);
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // Listening begins before looking, so that no release is missed between the two.
            released.as_mut().enable();
            match self.take_unused(needed, budget, index) {
                Room::Enough => return Ok(()),
                Room::Unloaded(model) => {
                    tracing::info!(model = model.name, "unloaded to make room");
                    shut_down(model, Duration::ZERO).await;
                }
                Room::AllInUse => tokio::select! {
                    () = &mut released => {}
                    () = &mut wait => {
                        let message = "other models hold the memory and are in use";
                        return Err(unavailable(message).with_code("no_memory"));
                    }
                },
            }
        }
    }

    fn take_unused(&self, needed: u64, budget: u64, index: usize) -> Room {
        let mut table = self.table();
        let others = |(at, entry): (usize, &Entry)| (at != index).then(|| entry.slot.model().cloned()).flatten();
        let held = table.entries.iter().enumerate().filter_map(others).fold(0u64, |sum, m| sum.saturating_add(m.bytes));
        if held.saturating_add(needed) <= budget {
            return Room::Enough;
        }
        let unused = table
            .entries
            .iter_mut()
            .enumerate()
            .filter(|(at, entry)| *at != index && entry.slot.model().is_some_and(|model| model.is_unused()));
        let Some((_, oldest)) = unused.min_by_key(|(_, entry)| entry.last_used) else { return Room::AllInUse };
        match std::mem::replace(&mut oldest.slot, Slot::Empty) {
            Slot::Ready(model) => Room::Unloaded(model),
            other => {
                oldest.slot = other;
                Room::AllInUse
            }
        }
    }

    /// Ends a model that no new request will get, once those that have it are done.
    fn retire_later(self: &Arc<Self>, model: Arc<LoadedModel>) {
        let registry = self.clone();
        self.tasks.spawn(async move {
            let drained = tokio::time::timeout(registry.options.drain, registry.until_unused(&model)).await;
            if drained.is_err() {
                tracing::warn!(model = model.name, "requests of the replaced model are cancelled");
            }
            shut_down(model, Duration::ZERO).await;
        });
    }

    async fn until_unused(&self, model: &LoadedModel) {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if model.is_unused() {
                return;
            }
            released.await;
        }
    }

    /// Takes no more requests, lets those that run go on until `deadline`, cancels the rest, and unloads everything.
    pub async fn shutdown(&self, deadline: Duration) {
        self.draining.store(true, std::sync::atomic::Ordering::Release);
        self.tasks.close();
        let models: Vec<_> = self.table().entries.iter().filter_map(|entry| entry.slot.model().cloned()).collect();
        let ended = futures_util::future::join_all(models.into_iter().map(|model| shut_down(model, deadline)));
        // Models that were replaced end by themselves. A load that is under way ends in a model nobody uses; what it
        // holds goes with the process.
        let _ = tokio::join!(ended, tokio::time::timeout(deadline, self.tasks.wait()));
    }

    fn is_draining(&self) -> bool {
        self.draining.load(std::sync::atomic::Ordering::Acquire)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code that could panic runs under the lock.
        self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

enum Found {
    Ready(ModelHandle),
    Loading(watch::Receiver<Outcome>),
}

enum Room {
    Enough,
    Unloaded(Arc<LoadedModel>),
    AllInUse,
}

impl Slot {
    fn model(&self) -> Option<&Arc<LoadedModel>> {
        match self {
            Slot::Ready(model) => Some(model),
            Slot::Empty | Slot::Loading { .. } | Slot::Failed { .. } => None,
        }
    }
}

impl Table {
    fn position(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.names.iter().any(|known| known == name))
    }
}

/// Ends a service on a thread that may wait.
async fn shut_down(model: Arc<LoadedModel>, deadline: Duration) {
    let ended = tokio::task::spawn_blocking(move || {
        model.service.shutdown(deadline);
        drop(model);
    });
    if let Err(error) = ended.await {
        tracing::error!(%error, "a model did not end properly");
    }
}

fn unknown(name: &str) -> ApiError {
    ApiError::not_found(format!("the model {name:?} does not exist")).with_param("model").with_code("model_not_found")
}

fn unavailable(message: impl Into<String>) -> ApiError {
    ApiError::unavailable(message, Some(Duration::from_secs(1)))
}

fn cannot_load(message: &str) -> ApiError {
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("the model cannot be loaded: {message}"));
    error.with_code("model_load_failed")
}
