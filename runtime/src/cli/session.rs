//! A loaded artifact with everything a verb may need: engine, tokenizer, chat template, generation defaults.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernels::cpu::isa::Isa;

use super::CliError;
use super::args::{DeviceArgs, SamplingArgs};
use crate::artifact::{Artifact, GenerationDefaults, OpenOptions};
use crate::engine::generate::GenerationRequest;
use crate::engine::{Engine, EngineOptions};
use crate::text::{ChatTemplate, Tokenizer};

/// What a verb works with.
pub struct Session {
    /// The artifact's folder.
    pub path: PathBuf,
    /// The artifact.
    pub artifact: Arc<Artifact>,
    /// The engine on its device.
    pub engine: Engine,
    /// The model's own generation settings.
    pub defaults: GenerationDefaults,
}

impl Session {
    /// Opens an artifact and loads it on the device asked for; the KV cache holds `kv_tokens`, by default one sequence of
    /// the longest length.
    pub fn open(path: &Path, args: &DeviceArgs, kv_tokens: Option<u64>) -> Result<Session, Box<dyn Error>> {
        let device = args.device.parse()?;
        let isa = args.isa.as_deref().map(parse_isa).transpose()?;
        if args.threads == Some(0) {
            return Err(CliError::Option { option: "--threads", message: "expected at least 1".into() }.into());
        }
        let options = OpenOptions { mmap: !args.no_mmap, ..OpenOptions::default() };
        let artifact = Arc::new(Artifact::open(path, &options)?);
        let defaults = artifact.generation_defaults()?;
        let (threads, max_model_len, memory) = (args.threads, args.max_model_len, args.vram.map(|size| size.0));
        let gpu = args.gpu_options();
        let options = EngineOptions { device, threads, isa, max_model_len, kv_tokens, memory, gpu };
        let engine = Engine::new(artifact.clone(), &options)?;
        Ok(Session { path: path.to_path_buf(), artifact, engine, defaults })
    }

    /// The artifact's tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, Box<dyn Error>> {
        let bytes = self.artifact.read_file("tokenizer.json")?.ok_or_else(|| self.missing("tokenizer"))?;
        Ok(Tokenizer::from_bytes(&bytes, &self.path.join("tokenizer.json").to_string_lossy())?)
    }

    /// The artifact's chat template.
    pub fn chat_template(&self) -> Result<ChatTemplate, Box<dyn Error>> {
        let bytes = self.artifact.read_file("chat_template.jinja")?.ok_or_else(|| self.missing("chat template"))?;
        let source = String::from_utf8(bytes)?;
        let token = |text: &Option<String>| text.clone().unwrap_or_default();
        let special = [("bos_token", token(&self.defaults.bos_token)), ("eos_token", token(&self.defaults.eos_token))];
        Ok(ChatTemplate::new(&source, special.iter().map(|(name, text)| (*name, text.as_str())))?)
    }

    /// A request for a continuation of `prompt` as the command line says.
    pub fn request(&self, prompt: Vec<u32>, args: &SamplingArgs) -> Result<GenerationRequest, Box<dyn Error>> {
        let sampling = args.params(&self.defaults);
        sampling.validate()?;
        if prompt.is_empty() {
            return Err(CliError::Option { option: "--prompt", message: "expected at least one token".into() }.into());
        }
        Ok(GenerationRequest {
            prompt,
            sampling,
            stop_ids: self.defaults.eos_ids.clone(),
            max_tokens: args.max_tokens,
            needs_logits: false,
        })
    }

    fn missing(&self, what: &'static str) -> CliError {
        CliError::Missing { artifact: self.path.clone(), what }
    }
}

/// An instruction set of this machine by its name.
pub(super) fn parse_isa(name: &str) -> Result<Isa, CliError> {
    let known = || Isa::available().iter().map(|i| i.name()).collect::<Vec<_>>().join(", ");
    Isa::from_name(name).filter(|i| i.is_available()).ok_or_else(|| CliError::Option {
        option: "--isa",
        message: format!("expected one this machine has: {}; found {name:?}", known()),
    })
}

/// Reads a text file.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|source| CliError::File {
        path: path.to_path_buf(),
        action: "read the text",
        source,
    })
}
