//! What a loaded model needs to be answered with, besides its tokenizer: its answer format, its grammars, its fingerprint.

use std::sync::OnceLock;

use crate::artifact::Artifact;
use crate::constrain::{GrammarError, GrammarFactory};
use crate::server::error::ApiError;
use crate::server::models::LoadedModel;
use crate::text::tools::AnswerFormat;
use crate::text::{ChatTemplate, Tokenizer};

/// The part of a loaded model that the endpoints use. Grammars are prepared at the first request that needs one: walking
/// a large vocabulary takes a while, and most servers never see such a request.
pub(crate) struct Answering {
    fingerprint: String,
    format: Option<AnswerFormat>,
    grammars: OnceLock<Result<GrammarFactory, GrammarError>>,
    vocabulary: usize,
    max_num_seqs: usize,
}

impl Answering {
    /// For an artifact whose engine has so many logits in a row and runs so many sequences at once.
    pub fn new(
        artifact: &Artifact,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        vocabulary: usize,
        max_num_seqs: usize,
    ) -> Answering {
        // The manifest holds the hash of every file.
        let manifest = serde_json::to_vec(artifact.manifest()).unwrap_or_default();
        let hash = blake3::hash(&manifest).to_hex();
        Answering {
            fingerprint: format!("moesaic-{}", &hash[..12]),
            format: template.map(|template| AnswerFormat::detect(template, tokenizer)),
            grammars: OnceLock::new(),
            vocabulary,
            max_num_seqs,
        }
    }
}

impl LoadedModel {
    /// Names the artifact: the same fingerprint, seed and request give the same answer.
    pub fn fingerprint(&self) -> &str {
        &self.answering.fingerprint
    }

    /// Most answers that can be generated at once.
    pub fn max_answers(&self) -> u64 {
        self.answering.max_num_seqs as u64
    }

    /// Token ids are below this.
    pub fn vocabulary(&self) -> u64 {
        self.answering.vocabulary as u64
    }

    /// How the model's chat answers are written.
    pub fn format(&self) -> Result<&AnswerFormat, ApiError> {
        self.answering.format.as_ref().ok_or_else(|| {
            let message =
                format!("{} has no chat template; use completions, or serve it with --chat-template", self.name);
            ApiError::unsupported("messages", message)
        })
    }

    /// What makes grammars into constraints. The first call takes a while: not for an asynchronous thread.
    pub fn grammars(&self) -> Result<&GrammarFactory, ApiError> {
        let Answering { grammars, vocabulary, .. } = &self.answering;
        let made = grammars.get_or_init(|| GrammarFactory::new(&self.tokenizer, *vocabulary, &self.defaults.eos_ids));
        made.as_ref().map_err(|error| {
            ApiError::internal(format!("answers of {} cannot be held to a format: {error}", self.name))
        })
    }
}
