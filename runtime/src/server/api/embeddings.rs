//! `POST /v1/embeddings`: texts as vectors, the model's last hidden states pooled.
//!
//! Models that were trained to embed pool the last token or the mean, so the caller says which; the default is the last token,
//! the one that has seen the whole text.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::completions::encode_prompts;
use super::errors;
use super::limits::AnswerLength;
use super::sampling;
use super::values::Prompts;
use crate::kv::salt::CacheSalt;
use crate::sample::SamplingParams;
use crate::server::AppState;
use crate::server::auth::Caller;
use crate::server::error::ApiError;
use crate::server::models::ModelHandle;
use crate::server::request::JsonRequest;
use crate::serving::{Event, Output, Request};

/// A request for embeddings.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingRequest {
    /// What is embedded: text or tokens, one input or up to 128.
    pub input: Prompts,
    /// The model's name; the server's default model where it is absent.
    #[serde(default)]
    pub model: Option<String>,
    /// `float` (where it is absent) or `base64`: little-endian 32-bit numbers.
    #[serde(default)]
    pub encoding_format: Option<EncodingFormat>,
    /// Only the model's own: vectors are not shortened.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub dimensions: Option<u64>,
    /// Which hidden states make the vector: `last` (where it is absent), `mean` or `cls`.
    #[serde(default)]
    pub pooling: Option<Pooling>,
    /// Whether vectors have length 1; true where it is absent.
    #[serde(default)]
    pub normalize: Option<bool>,
    /// Whether the tokens that begin a text are put in front of an input given as text; true where it is absent.
    #[serde(default)]
    pub add_special_tokens: Option<bool>,
    /// Whose request it is; changes nothing.
    #[serde(default)]
    pub user: Option<String>,
    /// Separates cached prefixes: they are found only by requests with the same salt.
    #[serde(default)]
    pub cache_salt: Option<String>,
    /// Requests of a smaller number go first.
    #[serde(default)]
    pub priority: Option<i32>,
}

/// How a vector is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncodingFormat {
    /// As a list of numbers.
    #[default]
    Float,
    /// As the bytes of little-endian 32-bit numbers, in base64.
    Base64,
}

/// Which hidden states make a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pooling {
    /// The last token's.
    #[default]
    Last,
    /// The mean of all tokens'.
    Mean,
    /// The first token's.
    Cls,
}

/// Embeddings.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingList {
    /// `list`.
    pub object: &'static str,
    /// One an input, in their order.
    pub data: Vec<Embedding>,
    /// The model's name.
    pub model: String,
    /// What they took.
    pub usage: EmbeddingUsage,
}

/// An embedding.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Embedding {
    /// `embedding`.
    pub object: &'static str,
    /// The input's place.
    pub index: u32,
    /// The vector.
    pub embedding: Vector,
}

/// A vector.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Vector {
    /// As a list of numbers.
    Float(Vec<f32>),
    /// As bytes in base64.
    Base64(String),
}

/// Tokens of inputs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingUsage {
    /// Tokens of all inputs.
    pub prompt_tokens: u64,
    /// The same.
    pub total_tokens: u64,
}

/// Embeds texts.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "generate",
    request_body = EmbeddingRequest,
    responses((status = 200, description = "The embeddings", body = EmbeddingList), errors::Refusals),
)]
pub(crate) async fn embeddings(
    State(app): State<AppState>,
    caller: Caller,
    JsonRequest { body, forwarding }: JsonRequest<EmbeddingRequest>,
) -> Result<Response, ApiError> {
    let request: EmbeddingRequest = body;
    let model = app.registry.get(request.model.as_deref().unwrap_or_else(|| app.registry.default_name())).await?;
    let width = check(&request, &model)?;
    let salt = sampling::salt(&caller, request.cache_salt.as_deref())?;
    tracing::debug!(user = ?request.user, "embeddings");
    let special = request.add_special_tokens.unwrap_or(true);
    let prompts = encode_prompts(&model, "input", request.input, special).await?;
    let longest = AnswerLength {
        max_model_len: model.max_model_len,
        prompt: prompts.iter().map(Vec::len).max().unwrap_or(0),
        prompt_param: "input",
        wanted: None,
        param: "input",
    };
    if let Some(response) = forwarding.by_prompt(longest.prompt as u64, longest.total(), longest.max_model_len).await {
        return Ok(response);
    }
    longest.exact()?;
    let tokens = prompts.iter().map(|prompt| prompt.len() as u64).sum();
    let (pooling, priority) = (request.pooling.unwrap_or_default(), request.priority.unwrap_or(0));
    let pooled = prompts.into_iter().map(|prompt| pooled(&model, prompt, width, pooling, priority, salt));
    let format = request.encoding_format.unwrap_or_default();
    let normalise = request.normalize.unwrap_or(true);
    let vectors = try_join_all(pooled).await?.into_iter().zip(0..);
    let data = vectors.map(|(vector, index)| embedding(index, vector, normalise, format)).collect();
    let usage = EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens };
    Ok(Json(EmbeddingList { object: "list", data, model: model.name.clone(), usage }).into_response())
}

/// Refuses what this model cannot give; returns the length of its vectors.
fn check(request: &EmbeddingRequest, model: &ModelHandle) -> Result<usize, ApiError> {
    if !model.service.gives_hidden_states() {
        let message = format!("{} gives no hidden states; compile it with --embeddings", model.name);
        return Err(ApiError::unsupported("model", message));
    }
    let width = model.artifact.manifest().model.hidden_size;
    match request.dimensions {
        Some(dimensions) if dimensions != width => Err(ApiError::unsupported(
            "dimensions",
            format!("vectors of {} have {width} dimensions and are not shortened", model.name),
        )),
        _ => usize::try_from(width).map_err(|_| ApiError::internal("the hidden size is out of range")),
    }
}

/// The pooled hidden states of a prompt.
async fn pooled(
    model: &ModelHandle,
    prompt: Vec<u32>,
    width: usize,
    pooling: Pooling,
    priority: i32,
    salt: CacheSalt,
) -> Result<Vec<f32>, ApiError> {
    let tokens = prompt.len();
    let request =
        Request { output: Output::HiddenStates, priority, salt, ..Request::new(prompt, SamplingParams::greedy(), 1) };
    let mut events = model.submit(request)?;
    let mut pool = Pool { pooling, width, sum: Vec::new(), tokens: 0 };
    while let Some(event) = events.next().await {
        match event {
            Event::Hidden(states) => states.chunks_exact(width).for_each(|state| pool.add(state)),
            Event::Failed(error) => return Err(error.into()),
            Event::Finished { .. } if pool.tokens == tokens => return Ok(pool.vector()),
            Event::Finished { .. } => break,
            Event::Started { .. } | Event::Prompt(_) | Event::Token { .. } => {}
        }
    }
    let got = pool.tokens;
    Err(ApiError::internal(format!("the engine gave the hidden states of {got} of {tokens} tokens")))
}

/// Hidden states becoming one vector, in f64 so that the order of a long text's tokens does not show.
struct Pool {
    pooling: Pooling,
    width: usize,
    sum: Vec<f64>,
    tokens: usize,
}

impl Pool {
    fn add(&mut self, state: &[f32]) {
        let wide = || state.iter().map(|x| f64::from(*x));
        match self.pooling {
            _ if self.tokens == 0 => self.sum = wide().collect(),
            Pooling::Last => self.sum = wide().collect(),
            Pooling::Mean => self.sum.iter_mut().zip(wide()).for_each(|(sum, x)| *sum += x),
            Pooling::Cls => {}
        }
        self.tokens += 1;
    }

    fn vector(self) -> Vec<f32> {
        debug_assert_eq!(self.sum.len(), self.width);
        let count = if self.pooling == Pooling::Mean { self.tokens.max(1) as f64 } else { 1.0 };
        self.sum.into_iter().map(|x| (x / count) as f32).collect()
    }
}

fn embedding(index: u32, mut vector: Vec<f32>, normalise: bool, format: EncodingFormat) -> Embedding {
    if normalise {
        let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    }
    let embedding = match format {
        EncodingFormat::Float => Vector::Float(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    };
    Embedding { object: "embedding", index, embedding }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(pooling: Pooling) -> Vec<f32> {
        let mut pool = Pool { pooling, width: 2, sum: Vec::new(), tokens: 0 };
        for state in [[1.0, 2.0], [3.0, 4.0], [8.0, 0.0]] {
            pool.add(&state);
        }
        pool.vector()
    }

    #[test]
    fn states_are_pooled() {
        assert_eq!(pool(Pooling::Last), [8.0, 0.0]);
        assert_eq!(pool(Pooling::Mean), [4.0, 2.0]);
        assert_eq!(pool(Pooling::Cls), [1.0, 2.0]);
    }

    #[test]
    fn both_formats_hold_the_same_numbers() {
        let float = embedding(0, vec![3.0, -4.0], true, EncodingFormat::Float).embedding;
        assert_eq!(float, Vector::Float(vec![0.6, -0.8]));
        let Vector::Base64(text) = embedding(0, vec![3.0, -4.0], true, EncodingFormat::Base64).embedding else {
            panic!()
        };
        let bytes = STANDARD.decode(text).expect("base64");
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
        assert_eq!(Vector::Float(numbers), float);
        let plain = embedding(0, vec![0.0, 0.0], true, EncodingFormat::Float).embedding;
        assert_eq!(plain, Vector::Float(vec![0.0, 0.0]));
    }
}
