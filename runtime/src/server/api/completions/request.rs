//! The body of a completion request: every field that is honoured. A field that is not here is refused by name.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::server::api::chat::StreamOptions;
use crate::server::api::format::{ResponseFormat, StructuredOutputs};
use crate::server::api::values::{Prompts, Strings};

/// A completion request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompletionRequest {
    /// What is continued: text or tokens, one prompt or up to 128.
    pub prompt: Prompts,
    /// The model's name; the server's default model where it is absent.
    #[serde(default)]
    pub model: Option<String>,
    /// Most tokens of an answer; 16 where it is absent.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
    /// Answers to each prompt.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 128)]
    pub n: Option<u32>,
    /// Only what `n` is: every answer is given.
    #[serde(default)]
    pub best_of: Option<u32>,
    /// Only null: text is generated behind a prompt.
    #[serde(default)]
    pub suffix: Option<String>,
    /// Whether the prompt is repeated in front of the answer.
    #[serde(default)]
    pub echo: Option<bool>,
    /// Gives log-probabilities of the tokens, and of so many of the likeliest; with `echo`, of the prompt's tokens too.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<u32>,
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
    /// Whose request it is; changes nothing.
    #[serde(default)]
    pub user: Option<String>,
    /// Separates cached prefixes: they are found only by requests with the same salt.
    #[serde(default)]
    pub cache_salt: Option<String>,
    /// Requests of a smaller number go first.
    #[serde(default)]
    pub priority: Option<i32>,
    /// Tokens that end an answer, besides the model's own.
    #[serde(default)]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Whether the model's own end of text is passed over. Not with a format or required tools.
    #[serde(default)]
    pub ignore_eos: Option<bool>,
    /// Whether the stop string stays in the answer.
    #[serde(default)]
    pub include_stop_str_in_output: Option<bool>,
    /// Whether special tokens are left out of the answer's text; true where it is absent.
    #[serde(default)]
    pub skip_special_tokens: Option<bool>,
    /// Whether the tokens that begin a text are put in front of a prompt given as text; true where it is absent.
    #[serde(default)]
    pub add_special_tokens: Option<bool>,
}
