//! From a path to a model that runs, in two steps: what it needs is known before any of it is reserved.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{SystemTime, UNIX_EPOCH};

use ir::op::PAGE_TOKENS;
use tokio::sync::Notify;

use super::{LoadedModel, ModelOptions};
use crate::artifact::{Artifact, GenerationDefaults, Manifest};
use crate::device::{self, DeviceChoice};
use crate::engine::{DEFAULT_MODEL_LEN, EngineOptions};
use crate::memory;
use crate::server::api::Answering;
use crate::serving::{Service, ServiceOptions};
use crate::text::{ChatTemplate, Tokenizer};

/// An artifact that was opened and checked, and the texts that belong to it.
pub(super) struct Opened {
    artifact: Arc<Artifact>,
    tokenizer: Arc<Tokenizer>,
    template: Option<Arc<ChatTemplate>>,
    defaults: GenerationDefaults,
    engine: EngineOptions,
    /// Bytes that running it will reserve, as far as can be said beforehand.
    pub bytes: u64,
}

/// Opens what is at `path`. Reads and hashes files: not for an asynchronous thread.
///
/// # Errors
/// What is wrong, in a sentence.
pub(super) fn open(path: &Path, options: &ModelOptions) -> Result<Opened, String> {
    let path = match &options.resolver {
        Some(resolve) => resolve(path)?,
        None => path.to_path_buf(),
    };
    let artifact = Artifact::open(&path, &options.open).map_err(|e| e.to_string())?;
    let defaults = artifact.generation_defaults().map_err(|e| e.to_string())?;
    let tokenizer = read_tokenizer(&artifact)?;
    let template = read_template(&artifact, &defaults, options.chat_template.as_deref())?;
    let engine = sized(artifact.manifest(), options);
    let bytes = footprint(artifact.manifest(), &engine);
    Ok(Opened {
        engine,
        artifact: Arc::new(artifact),
        tokenizer: Arc::new(tokenizer),
        template: template.map(Arc::new),
        defaults,
        bytes,
    })
}

fn read_tokenizer(artifact: &Artifact) -> Result<Tokenizer, String> {
    let name = "tokenizer.json";
    let bytes = artifact.read_file(name).map_err(|e| e.to_string())?;
    let bytes = bytes.ok_or("the artifact has no tokenizer; compile it from a checkpoint that has one")?;
    Tokenizer::from_bytes(&bytes, &artifact.path().join(name).to_string_lossy()).map_err(|e| e.to_string())
}

fn read_template(
    artifact: &Artifact,
    defaults: &GenerationDefaults,
    file: Option<&Path>,
) -> Result<Option<ChatTemplate>, String> {
    let source = match file {
        Some(file) => {
            Some(std::fs::read(file).map_err(|e| format!("{}: cannot read the template: {e}", file.display()))?)
        }
        None => artifact.read_file("chat_template.jinja").map_err(|e| e.to_string())?,
    };
    let Some(source) = source else { return Ok(None) };
    let source = String::from_utf8(source).map_err(|_| "the chat template is no UTF-8")?;
    let special = [("bos_token", &defaults.bos_token), ("eos_token", &defaults.eos_token)];
    let special = special.iter().filter_map(|(name, text)| Some((*name, text.as_deref()?)));
    ChatTemplate::new(&source, special).map(Some).map_err(|e| e.to_string())
}

/// Sequences of the longest length that the KV cache holds where nobody said how large it shall be.
const DEFAULT_SEQUENCES: u64 = 16;

/// Engine options with a size of the KV cache: the one asked for, or that of the artifact, or enough for some sequences, but no
/// more than a quarter of the memory that is free or what a budget leaves. A GPU's cache takes what its memory has.
fn sized(manifest: &Manifest, options: &ModelOptions) -> EngineOptions {
    let engine = options.service.engine;
    if engine.kv_tokens.is_some() || engine.memory.is_some() || manifest.kv.pages.is_some() {
        return engine;
    }
    if device::resolve(engine.device, manifest, &engine.gpu).is_ok_and(|(device, _)| device == DeviceChoice::Cuda) {
        return engine;
    }
    let longest = longest(manifest, &engine);
    let sequences = DEFAULT_SEQUENCES.min(options.service.max_num_seqs as u64).max(1);
    let free = memory::available_bytes().map_or(u64::MAX, |bytes| bytes / 4);
    let fixed = manifest.weight_bytes().saturating_add(manifest.arena_bytes());
    let left = options.memory_budget.map_or(u64::MAX, |budget| budget.saturating_sub(fixed));
    let fitting = free.min(left) / manifest.page_bytes().max(1) * PAGE_TOKENS;
    EngineOptions { kv_tokens: Some(longest.saturating_mul(sequences).min(fitting).max(longest)), ..engine }
}

/// Longest sequence in tokens.
fn longest(manifest: &Manifest, engine: &EngineOptions) -> u64 {
    engine.max_model_len.unwrap_or(DEFAULT_MODEL_LEN).min(manifest.model.max_context)
}

/// Bytes that an engine with these options reserves, apart from what is small.
fn footprint(manifest: &Manifest, options: &EngineOptions) -> u64 {
    if let Some(memory) = options.memory {
        return memory;
    }
    let longest = longest(manifest, options);
    let pages = match options.kv_tokens {
        Some(tokens) => tokens.div_ceil(PAGE_TOKENS),
        None => manifest.kv.pages.unwrap_or_else(|| longest.div_ceil(PAGE_TOKENS)),
    };
    let kv = pages.saturating_mul(manifest.page_bytes());
    manifest.weight_bytes().saturating_add(manifest.arena_bytes()).saturating_add(kv)
}

/// Starts a model's engine. Reserves memory and starts threads: not for an asynchronous thread.
///
/// # Errors
/// Why it cannot run, in a sentence.
pub(super) fn start(
    name: &str,
    opened: Opened,
    options: &ModelOptions,
    released: Arc<Notify>,
) -> Result<LoadedModel, String> {
    let Opened { artifact, tokenizer, template, defaults, engine, bytes: _ } = opened;
    let of_service = ServiceOptions { engine, ..options.service.clone() };
    let service = Service::start(artifact.clone(), of_service).map_err(|e| e.to_string())?;
    let (vocabulary, at_once) = (service.vocabulary(), options.service.max_num_seqs);
    let answering = Answering::new(&artifact, &tokenizer, template.as_deref(), vocabulary, at_once);
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(LoadedModel {
        name: name.into(),
        artifact,
        tokenizer,
        template,
        defaults,
        max_model_len: service.max_model_len(),
        created: since_1970.as_secs(),
        bytes: service.memory().total(),
        service,
        answering,
        users: AtomicUsize::new(0),
        released,
    })
}
