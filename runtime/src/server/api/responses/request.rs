//! The body of a request for a response: every field that is honoured. A field that is not here is refused by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::server::api::chat::{Role, StreamOptions};
use crate::server::api::values::TextOr;

/// A request for a response.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponsesRequest {
    /// A text, or messages, calls and their results.
    pub input: TextOr<InputItem>,
    /// The model's name; the server's default model where it is absent.
    #[serde(default)]
    pub model: Option<String>,
    /// A system message in front of the input.
    #[serde(default)]
    pub instructions: Option<String>,
    /// Most tokens of the answer, reasoning included; what the context has room for where it is absent.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<u64>,
    /// Whether the answer comes as server-sent events, piece by piece.
    #[serde(default)]
    pub stream: Option<bool>,
    /// Only `include_obfuscation: false`; usage is always part of a stream's last event.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// The format of the answer's text.
    #[serde(default)]
    pub text: Option<TextSettings>,
    /// Functions the model may call: `{"type": "function", "name", "description", "parameters", "strict"}`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or `{"type": "function", "name"}`.
    #[serde(default)]
    pub tool_choice: Option<Value>,
    /// Whether an answer may call several functions.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// How much the model reasons, where its chat template reads it.
    #[serde(default)]
    pub reasoning: Option<Reasoning>,
    /// Only `message.output_text.logprobs`, which gives log-probabilities of the answer's tokens.
    #[serde(default)]
    pub include: Option<Vec<String>>,
    /// Log-probabilities of so many of the likeliest tokens too.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<u32>,
    /// Only false: nothing is stored.
    #[serde(default)]
    pub store: Option<bool>,
    /// Only null: nothing is stored.
    #[serde(default)]
    pub previous_response_id: Option<String>,
    /// Only null: nothing is stored.
    #[serde(default)]
    pub conversation: Option<Value>,
    /// Only false.
    #[serde(default)]
    pub background: Option<bool>,
    /// Only `disabled`: input that is too long is refused.
    #[serde(default)]
    pub truncation: Option<String>,
    /// Only `auto` or `default`.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// What the caller wants to remember; given back, changes nothing.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Whose request it is; given back, changes nothing.
    #[serde(default)]
    pub user: Option<String>,
    /// Whose request it is; given back, changes nothing.
    #[serde(default)]
    pub safety_identifier: Option<String>,
    /// Which requests share a cache; given back, changes nothing: all of a key's requests share one.
    #[serde(default)]
    pub prompt_cache_key: Option<String>,
    /// Separates cached prefixes: they are found only by requests with the same salt.
    #[serde(default)]
    pub cache_salt: Option<String>,
    /// Requests of a smaller number go first.
    #[serde(default)]
    pub priority: Option<i32>,
    /// Further variables of the chat template, such as `enable_thinking`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Divides the logits; 0 chooses the likeliest token.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub temperature: Option<f32>,
    /// Keeps the likeliest tokens whose probabilities reach this sum.
    #[serde(default)]
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Keeps so many of the likeliest tokens; 0 or -1 keeps all.
    #[serde(default)]
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Keeps tokens at least this probable relative to the likeliest.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Divides the logits of tokens that appeared in prompt or answer.
    #[serde(default)]
    #[schema(exclusive_minimum = 0)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that appeared in the answer.
    #[serde(default)]
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// Subtracted from a token's logit each time it appeared in the answer.
    #[serde(default)]
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of single tokens: token id to a number from -100 to 100.
    #[serde(default)]
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Names the random sequence: the same request with the same seed has the same answer.
    #[serde(default)]
    pub seed: Option<i64>,
}

/// How the answer's text is written.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextSettings {
    /// The format it is held to.
    #[serde(default)]
    pub format: Option<TextFormat>,
}

/// The format an answer's text is held to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: crate::server::api::format::FormatKind,
    /// The schema's name, with `json_schema`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the schema is for; the schema alone restricts the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema, with `json_schema`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Answers follow the schema whether or not this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// How much the model reasons.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reasoning {
    /// Given to the chat template as `reasoning_effort`.
    #[serde(default)]
    pub effort: Option<String>,
    /// Only null: reasoning is given as it is.
    #[serde(default)]
    pub summary: Option<String>,
}

/// A message, a call, its result, or reasoning.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputItem {
    /// What it is; a message where it is absent.
    #[serde(rename = "type", default)]
    pub kind: ItemKind,
    /// Its name, as an earlier response gave it; changes nothing.
    #[serde(default)]
    #[expect(dead_code, reason = "its type alone is checked")]
    pub id: Option<String>,
    /// How far an earlier response got with it; changes nothing.
    #[serde(default)]
    #[expect(dead_code, reason = "its type alone is checked")]
    pub status: Option<ItemStatus>,
    /// Who says a message.
    #[serde(default)]
    pub role: Option<Role>,
    /// What a message says, or the text of reasoning.
    #[serde(default)]
    pub content: Option<TextOr<InputPart>>,
    /// Names a call and its result.
    #[serde(default)]
    pub call_id: Option<String>,
    /// The function that is called.
    #[serde(default)]
    pub name: Option<String>,
    /// What it is called with: JSON.
    #[serde(default)]
    pub arguments: Option<String>,
    /// What it gave.
    #[serde(default)]
    pub output: Option<TextOr<InputPart>>,
    /// The summary of reasoning.
    #[serde(default)]
    pub summary: Option<Vec<InputPart>>,
    /// Only null: reasoning is not encrypted.
    #[serde(default)]
    pub encrypted_content: Option<String>,
}

/// What an item is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ItemKind {
    /// A message.
    #[default]
    Message,
    /// A call of a function.
    FunctionCall,
    /// Its result.
    FunctionCallOutput,
    /// What the model thought.
    Reasoning,
}

/// How far an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ItemStatus {
    /// It is being written.
    InProgress,
    /// It is whole.
    Completed,
    /// It ends where the answer was cut off.
    Incomplete,
}

/// A text within an item.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputPart {
    /// Whose text it is.
    #[serde(rename = "type")]
    pub kind: InputPartKind,
    /// The text.
    pub text: String,
    /// Only empty: as this server's responses have it.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub annotations: Option<Vec<Value>>,
    /// As an earlier response gave them; change nothing.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub logprobs: Option<Vec<Value>>,
}

/// Whose text a part is. Images, sound and files are refused: the models served read text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum InputPartKind {
    /// The caller's.
    InputText,
    /// The model's.
    OutputText,
    /// The model's thoughts.
    ReasoningText,
    /// A summary of them.
    SummaryText,
    /// Anybody's.
    Text,
}
