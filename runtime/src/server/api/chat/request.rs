//! The body of a chat request: every field that is honoured. A field that is not here is refused by name.
//!
//! Fields that have one value this server can honour (`store: false`) are here to be checked. `metadata`, `user` and
//! `safety_identifier` describe the request; they are written to the access log's debug records and change nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::server::api::format::{ResponseFormat, StructuredOutputs};
use crate::server::api::values::{Strings, TextOr};

/// A chat request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatCompletionRequest {
    /// The conversation.
    #[schema(min_items = 1)]
    pub messages: Vec<ChatMessage>,
    /// The model's name; the server's default model where it is absent.
    #[serde(default)]
    pub model: Option<String>,
    /// Most tokens of an answer. The older name; if both are given they must agree.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
    /// Most tokens of an answer, reasoning included; what the context has room for where it is absent.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u64>,
    /// Answers.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 128)]
    pub n: Option<u32>,
    /// Strings that end an answer and are not part of it; at most 16.
    #[serde(default)]
    pub stop: Option<Strings>,
    /// Names the random sequence: the same request with the same seed has the same answer. Answer i of n draws from seed + i.
    #[serde(default)]
    pub seed: Option<i64>,
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
    /// Whether log-probabilities of the answer's tokens are given.
    #[serde(default)]
    pub logprobs: Option<bool>,
    /// With `logprobs`, those of so many of the likeliest tokens too.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<u32>,
    /// Whether the answer comes as server-sent events, piece by piece.
    #[serde(default)]
    pub stream: Option<bool>,
    /// With `stream`, what else is sent.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// What format the answer is held to.
    #[serde(default)]
    pub response_format: Option<ResponseFormat>,
    /// What format the answer is held to, as vLLM names it.
    #[serde(default)]
    pub structured_outputs: Option<StructuredOutputs>,
    /// A JSON schema that the answer follows, as vLLM named it before.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub guided_json: Option<Value>,
    /// A regular expression that the answer matches, as vLLM named it before.
    #[serde(default)]
    pub guided_regex: Option<String>,
    /// The answers that are possible, as vLLM named it before.
    #[serde(default)]
    pub guided_choice: Option<Vec<String>>,
    /// A grammar that the answer follows, as vLLM named it before.
    #[serde(default)]
    pub guided_grammar: Option<String>,
    /// Functions the model may call: `{"type": "function", "function": {"name", "description", "parameters", "strict"}}`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or `{"type": "function", "function": {"name"}}`.
    #[serde(default)]
    pub tool_choice: Option<Value>,
    /// Whether an answer may call several functions.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// Whose request it is; changes nothing.
    #[serde(default)]
    pub user: Option<String>,
    /// Whose request it is; changes nothing.
    #[serde(default)]
    pub safety_identifier: Option<String>,
    /// Which requests share a cache; changes nothing: all of a key's requests share one.
    #[serde(default)]
    pub prompt_cache_key: Option<String>,
    /// What the caller wants to remember about it; changes nothing.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Only false: nothing is stored.
    #[serde(default)]
    pub store: Option<bool>,
    /// Only `auto` or `default`.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// Only `["text"]`.
    #[serde(default)]
    pub modalities: Option<Vec<String>>,
    /// Separates cached prefixes: they are found only by requests with the same salt.
    #[serde(default)]
    pub cache_salt: Option<String>,
    /// Requests of a smaller number go first.
    #[serde(default)]
    pub priority: Option<i32>,
    /// Given to the chat template as `reasoning_effort`.
    #[serde(default)]
    pub reasoning_effort: Option<String>,
    /// Further variables of the chat template, such as `enable_thinking`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the prompt ends where an assistant's message begins; true unless `continue_final_message`.
    #[serde(default)]
    pub add_generation_prompt: Option<bool>,
    /// Whether the answer continues the last message.
    #[serde(default)]
    pub continue_final_message: Option<bool>,
    /// Tokens that end an answer, besides the model's own.
    #[serde(default)]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Whether the model's own end of text is passed over. Not with a format or required tools.
    #[serde(default)]
    pub ignore_eos: Option<bool>,
    /// Whether the stop string stays in the answer.
    #[serde(default)]
    pub include_stop_str_in_output: Option<bool>,
}

/// What a stream contains besides the answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk, without choices, has the usage.
    #[serde(default)]
    pub include_usage: Option<bool>,
    /// Whether every chunk has the usage so far.
    #[serde(default)]
    pub continuous_usage_stats: Option<bool>,
    /// Only false: chunks are not padded.
    #[serde(default)]
    pub include_obfuscation: Option<bool>,
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// The caller's instructions.
    System,
    /// The same, by its newer name.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A function's result.
    Tool,
}

/// A message of a conversation.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What is said. An assistant's message may call tools instead.
    #[serde(default)]
    pub content: Option<TextOr<ContentPart>>,
    /// Given to the chat template, which may write it.
    #[serde(default)]
    pub name: Option<String>,
    /// Calls that an assistant's message made.
    #[serde(default)]
    pub tool_calls: Option<Vec<MessageToolCall>>,
    /// The call that a tool's message answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// The reasoning of an assistant's message, given to the chat template.
    #[serde(default)]
    pub reasoning_content: Option<String>,
    /// Only null: as this server's own messages have it.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Only empty: as clients send it back.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub annotations: Option<Vec<Value>>,
    /// Only null.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub audio: Option<Value>,
    /// Only null: use `tool_calls`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub function_call: Option<Value>,
    /// Only nulls, or the reasoning again: as litellm sends an answer back.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub provider_specific_fields: Option<Map<String, Value>>,
}

/// A part of a message: text.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContentPart {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: PartKind,
    /// The text.
    pub text: String,
}

/// What a part is. Images, sound and files are refused: the models served read text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PartKind {
    /// Text.
    Text,
}

/// A call in an earlier message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageToolCall {
    /// Its name for this conversation.
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default)]
    pub kind: ToolCallKind,
    /// What is called.
    pub function: CalledFunction,
    /// Its place, as streamed calls have it; must be where it stands.
    #[serde(default, skip_serializing)]
    pub index: Option<usize>,
}

/// The kind of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ToolCallKind {
    /// Of a function.
    #[default]
    Function,
}

/// A function and what it is called with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CalledFunction {
    /// Its name.
    pub name: String,
    /// JSON.
    pub arguments: String,
}
