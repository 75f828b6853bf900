//! The body of a request in Anthropic's interface: every field that is honoured. A field that is not here is refused by name.
//!
//! `cache_control` is taken wherever that interface has it and changes nothing: prompts are cached without being told.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::server::api::values::TextOr;

/// A request for a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessagesRequest {
    /// The model's name.
    pub model: String,
    /// The conversation. An assistant's message at its end is continued.
    #[schema(min_items = 1)]
    pub messages: Vec<InputMessage>,
    /// Most tokens of the answer; it ends where the context does, if that is earlier.
    #[schema(minimum = 1)]
    pub max_tokens: u64,
    /// Instructions in front of the conversation.
    #[serde(default)]
    pub system: Option<TextOr<SystemBlock>>,
    /// Strings that end the answer and are not part of it; at most 16.
    #[serde(default)]
    pub stop_sequences: Option<Vec<String>>,
    /// Whether the answer comes as server-sent events, piece by piece.
    #[serde(default)]
    pub stream: Option<bool>,
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
    /// Tools the model may use.
    #[serde(default)]
    pub tools: Option<Vec<Tool>>,
    /// Which of them.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// Whether the model thinks before it answers, where its chat template reads `enable_thinking`.
    #[serde(default)]
    pub thinking: Option<Thinking>,
    /// The format the answer is held to.
    #[serde(default)]
    pub output_config: Option<OutputConfig>,
    /// Whose request it is; changes nothing.
    #[serde(default)]
    pub metadata: Option<Metadata>,
    /// Only `auto` or `standard_only`.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// Names the random sequence: the same request with the same seed has the same answer.
    #[serde(default)]
    pub seed: Option<i64>,
    /// Separates cached prefixes: they are found only by requests with the same salt.
    #[serde(default)]
    pub cache_salt: Option<String>,
    /// Requests of a smaller number go first.
    #[serde(default)]
    pub priority: Option<i32>,
    /// Further variables of the chat template.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// A request for the number of a prompt's tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CountTokensRequest {
    /// The model's name.
    pub model: String,
    /// The conversation.
    #[schema(min_items = 1)]
    pub messages: Vec<InputMessage>,
    /// Instructions in front of it.
    #[serde(default)]
    pub system: Option<TextOr<SystemBlock>>,
    /// Tools the model may use.
    #[serde(default)]
    pub tools: Option<Vec<Tool>>,
    /// Which of them.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// Whether the model thinks before it answers.
    #[serde(default)]
    pub thinking: Option<Thinking>,
    /// Further variables of the chat template.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// A message of the conversation.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputMessage {
    /// Who says it.
    pub role: Speaker,
    /// What is said.
    pub content: TextOr<InputBlock>,
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Speaker {
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// A block of a message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputBlock {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: BlockKind,
    /// The text of `text`.
    #[serde(default)]
    pub text: Option<String>,
    /// The text of `thinking`.
    #[serde(default)]
    pub thinking: Option<String>,
    /// As an earlier answer gave it with `thinking`; changes nothing.
    #[serde(default)]
    pub signature: Option<String>,
    /// The name of a `tool_use`.
    #[serde(default)]
    pub id: Option<String>,
    /// The tool of a `tool_use`.
    #[serde(default)]
    pub name: Option<String>,
    /// What a `tool_use` gives the tool.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Map<String, Value>>,
    /// The `tool_use` that a `tool_result` belongs to.
    #[serde(default)]
    pub tool_use_id: Option<String>,
    /// What a `tool_result` says.
    #[serde(default)]
    pub content: Option<TextOr<SystemBlock>>,
    /// Whether a `tool_result` is a failure; said to the model in front of the content.
    #[serde(default)]
    pub is_error: Option<bool>,
    /// Only null: as this server's answers have it.
    #[serde(default)]
    pub citations: Option<Value>,
    /// Changes nothing: prompts are cached without being told.
    #[serde(default)]
    #[expect(dead_code, reason = "its type alone is checked")]
    pub cache_control: Option<CacheControl>,
    /// Only null: as clients send it back.
    #[serde(default)]
    pub caller: Option<Value>,
}

/// What a block is. Images and documents are refused: the models served read text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BlockKind {
    /// Text.
    Text,
    /// What the model thought.
    Thinking,
    /// A tool that the model uses.
    ToolUse,
    /// What it gave.
    ToolResult,
}

/// A block of text.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SystemBlock {
    /// `text`.
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "its type alone is checked")]
    pub kind: TextKind,
    /// The text.
    pub text: String,
    /// Only null.
    #[serde(default)]
    pub citations: Option<Value>,
    /// Changes nothing: prompts are cached without being told.
    #[serde(default)]
    #[expect(dead_code, reason = "its type alone is checked")]
    pub cache_control: Option<CacheControl>,
}

/// The kind of a block of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TextKind {
    /// Text.
    Text,
}

/// Where a prompt is to be cached.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CacheControl {
    /// `ephemeral`.
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "its type alone is checked")]
    pub kind: CacheKind,
    /// For how long; the cache keeps what was last used, however long ago.
    #[serde(default)]
    #[expect(dead_code, reason = "its type alone is checked")]
    pub ttl: Option<String>,
}

/// The kind of caching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CacheKind {
    /// For a while.
    Ephemeral,
}

/// A tool the model may use.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    /// Only `custom`.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
    /// The JSON schema of what it takes.
    #[schema(value_type = Object)]
    pub input_schema: Map<String, Value>,
    /// Whether what the model gives it follows the schema, even where the model chooses freely.
    #[serde(default)]
    pub strict: Option<bool>,
    /// Changes nothing: prompts are cached without being told.
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "its type alone is checked")]
    pub cache_control: Option<CacheControl>,
}

/// Which tools the model uses.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolChoice {
    /// `auto`, `any`, `tool` or `none`.
    #[serde(rename = "type")]
    pub kind: ChoiceKind,
    /// The tool, with `tool`.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether it may use one only.
    #[serde(default)]
    pub disable_parallel_tool_use: Option<bool>,
}

/// How tools are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChoiceKind {
    /// By the model.
    Auto,
    /// At least one.
    Any,
    /// That one.
    Tool,
    /// None.
    None,
}

/// Whether the model thinks.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Thinking {
    /// `adaptive`, `enabled` or `disabled`.
    #[serde(rename = "type")]
    pub kind: ThinkingKind,
    /// Only absent: thinking counts towards `max_tokens` and is not bounded apart from it.
    #[serde(default)]
    pub budget_tokens: Option<u64>,
}

/// Whether the model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ThinkingKind {
    /// As much as it wants.
    Adaptive,
    /// The same.
    Enabled,
    /// Not at all.
    Disabled,
}

/// How the answer is written.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputConfig {
    /// The format it is held to.
    #[serde(default)]
    pub format: Option<OutputFormat>,
}

/// The format of an answer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputFormat {
    /// `json_schema`.
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "its type alone is checked")]
    pub kind: OutputFormatKind,
    /// The schema.
    #[schema(value_type = Object)]
    pub schema: Map<String, Value>,
}

/// The kind of format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutputFormatKind {
    /// A value of a JSON schema.
    JsonSchema,
}

/// Whose request it is.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    /// Changes nothing.
    #[serde(default)]
    pub user_id: Option<String>,
}
