//! The body of a response.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::output::OutputItem;
use super::request::{Reasoning, TextFormat};
use crate::server::api::token_text::shortest;
use crate::server::api::usage::{Timings, Usage};

/// A response.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ResponseObject {
    /// Its name. Nothing is stored under it.
    pub id: String,
    /// `response`.
    pub object: &'static str,
    /// When it was asked for, in seconds since 1970.
    pub created_at: u64,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub status: &'static str,
    /// Always false.
    pub background: bool,
    /// Why it failed.
    pub error: Option<ResponseError>,
    /// Why it is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
    /// What the model said and called.
    pub output: Vec<OutputItem>,
    /// What it took, once it has ended.
    pub usage: Option<ResponseUsage>,
    /// How long it took, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// The artifact that answered.
    pub system_fingerprint: String,
    /// What was asked for.
    #[serde(flatten)]
    pub request: RequestEcho,
}

/// What was asked for, as it was understood.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct RequestEcho {
    /// The model's name.
    pub model: String,
    /// The system message in front of the input.
    pub instructions: Option<String>,
    /// Most tokens of the answer.
    pub max_output_tokens: Option<u64>,
    /// Whether several functions may be called.
    pub parallel_tool_calls: bool,
    /// Always null.
    pub previous_response_id: Option<String>,
    /// How much the model was to reason.
    pub reasoning: Reasoning,
    /// Always false.
    pub store: bool,
    /// Divisor of the logits.
    #[serde(serialize_with = "shortest")]
    pub temperature: f32,
    /// Probability mass that was kept.
    #[serde(serialize_with = "shortest")]
    pub top_p: f32,
    /// Log-probabilities given besides the chosen tokens'.
    pub top_logprobs: u32,
    /// The format of the text.
    pub text: TextEcho,
    /// Which functions the model might call.
    pub tool_choice: Value,
    /// The functions.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// Always `disabled`.
    pub truncation: &'static str,
    /// Always `default`.
    pub service_tier: &'static str,
    /// As given.
    pub metadata: BTreeMap<String, String>,
    /// As given.
    pub user: Option<String>,
    /// As given.
    pub safety_identifier: Option<String>,
    /// As given.
    pub prompt_cache_key: Option<String>,
}

/// The format of the text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TextEcho {
    /// The format.
    pub format: TextFormat,
}

/// Why a response failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ResponseError {
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct IncompleteDetails {
    /// `max_output_tokens`.
    pub reason: &'static str,
}

/// Tokens of a response.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct ResponseUsage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// What is known of them.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// What is known of them.
    pub output_tokens_details: OutputTokensDetails,
    /// Their sum.
    pub total_tokens: u64,
}

/// What is known of a prompt's tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct InputTokensDetails {
    /// Tokens found in the prefix cache.
    pub cached_tokens: u64,
}

/// What is known of an answer's tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct OutputTokensDetails {
    /// Tokens of reasoning.
    pub reasoning_tokens: u64,
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> Self {
        ResponseUsage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails { cached_tokens: usage.cached() },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: usage.reasoning() },
            total_tokens: usage.total_tokens,
        }
    }
}

/// An event of a streamed response. Its further fields depend on `type`, as in OpenAI's interface.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseStreamEvent {
    /// Its name, which is that of the server-sent event too.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its place in the stream, from 0.
    pub sequence_number: u64,
    /// What it tells.
    #[serde(flatten)]
    pub fields: Value,
}

impl ResponseObject {
    /// The fields of an event that tells of the whole response.
    pub fn event(&self) -> Value {
        json!({"response": self})
    }
}
