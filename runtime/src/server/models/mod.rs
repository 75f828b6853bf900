//! The models of a server: by name, loaded when first asked for, unloaded when memory is needed, replaced while they run.
//!
//! A [`ModelHandle`] keeps its model loaded; requests hold one from their prompt to their last event. So a model that is
//! unloaded or replaced has no request left, and nothing needs to be dropped.

mod load;
mod registry;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::api::Answering;
use super::error::ApiError;
use crate::artifact::{Artifact, GenerationDefaults};
use crate::serving::{Event, EventStream, Request, Service};
use crate::text::{ChatTemplate, Tokenizer};
pub(crate) use registry::{Readiness, Registry};

/// A model that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// Names that requests may use; the first is the one answers bear.
    pub names: Vec<String>,
    /// Its artifact, or what the server's resolver makes one of.
    pub path: PathBuf,
}

/// Turns what a user named into the folder of an artifact: compiles a checkpoint where there is a compiler.
pub type Resolver = Arc<dyn Fn(&std::path::Path) -> Result<PathBuf, String> + Send + Sync>;

/// A loaded model.
pub(crate) struct LoadedModel {
    /// Its name in answers.
    pub name: String,
    /// Its artifact.
    pub artifact: Arc<Artifact>,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, where it has one.
    pub template: Option<Arc<ChatTemplate>>,
    /// Its own settings for generating.
    pub defaults: GenerationDefaults,
    /// Longest sequence in tokens, prompt and answer together.
    pub max_model_len: u64,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// What runs it. Requests go through [`ModelHandle::submit`].
    pub service: Service,
    /// What the endpoints need to answer with it.
    pub(super) answering: Answering,
    /// Bytes it has reserved.
    bytes: u64,
    /// Handles that there are.
    users: AtomicUsize,
    /// Told when a model's last handle is gone.
    released: Arc<Notify>,
}

impl LoadedModel {
    /// Whether no request holds it.
    fn is_unused(&self) -> bool {
        self.users.load(Ordering::Acquire) == 0
    }
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel").field("name", &self.name).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A loaded model in use.
#[derive(Debug)]
pub(crate) struct ModelHandle(Arc<LoadedModel>);

impl ModelHandle {
    fn new(model: &Arc<LoadedModel>) -> ModelHandle {
        model.users.fetch_add(1, Ordering::AcqRel);
        ModelHandle(model.clone())
    }

    /// Submits a request.
    ///
    /// # Errors
    /// The request cannot be taken.
    pub fn submit(&self, request: Request) -> Result<AnswerStream, ApiError> {
        let events = self.service.submit(request)?;
        Ok(AnswerStream { events, _model: self.clone() })
    }
}

impl Clone for ModelHandle {
    fn clone(&self) -> ModelHandle {
        ModelHandle::new(&self.0)
    }
}

impl Drop for ModelHandle {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.released.notify_waiters();
        }
    }
}

impl Deref for ModelHandle {
    type Target = LoadedModel;

    fn deref(&self) -> &LoadedModel {
        &self.0
    }
}

/// The events of a request; keeps its model loaded. Dropping it cancels the request.
#[derive(Debug)]
pub(crate) struct AnswerStream {
    events: EventStream,
    _model: ModelHandle,
}

impl AnswerStream {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.next().await
    }

    /// Ends one answer, because its text met a stop string.
    pub fn end_answer(&self, answer: u32) {
        self.events.end_answer(answer);
    }
}

/// How models are loaded and how long they stay.
#[derive(Clone)]
pub struct ModelOptions {
    /// Models, at least one; the first is loaded at the start and answers requests that name none.
    pub models: Vec<ModelSpec>,
    /// Bytes that all loaded models together may reserve; `None` leaves it to the user to offer no more than fit.
    pub memory_budget: Option<u64>,
    /// How each model's service is made.
    pub service: crate::serving::ServiceOptions,
    /// How artifacts are opened.
    pub open: crate::artifact::OpenOptions,
    /// A chat template in place of the models' own.
    pub chat_template: Option<PathBuf>,
    /// Makes artifacts of other things.
    pub resolver: Option<Resolver>,
    /// How long a failed load, or a lost device, is reported before the next request tries again.
    pub retry_failed: Duration,
    /// How long a load waits for requests of other models to end where their memory is needed.
    pub wait_for_room: Duration,
    /// How long requests of a model that is being replaced may go on.
    pub drain: Duration,
}

impl ModelOptions {
    /// The defaults, for these models.
    pub fn new(models: Vec<ModelSpec>) -> ModelOptions {
        ModelOptions {
            models,
            memory_budget: None,
            service: crate::serving::ServiceOptions::default(),
            open: crate::artifact::OpenOptions::default(),
            chat_template: None,
            resolver: None,
            retry_failed: Duration::from_secs(5),
            wait_for_room: Duration::from_secs(30),
            drain: Duration::from_secs(600),
        }
    }
}
