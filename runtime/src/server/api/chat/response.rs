//! The bodies of answers to chat requests, whole and streamed.

use serde::Serialize;
use utoipa::ToSchema;

use super::request::ToolCallKind;
use crate::server::api::generation::{Collected, EndReason, WholeAnswer};
use crate::server::api::token_text::TokenLogprob;
use crate::server::api::usage::{Timings, Usage};
use crate::text::tools::ToolCall;

/// An answer to a chat request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    /// Its name.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// When it was asked for, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The artifact that answered: the same fingerprint, seed and request give the same answer.
    pub system_fingerprint: String,
    /// The tier asked for, where one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<&'static str>,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// What they took.
    pub usage: Usage,
    /// How long it took.
    pub timings: Timings,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    /// Its place.
    pub index: u32,
    /// What the model said.
    pub message: AnswerMessage,
    /// Log-probabilities, where they were asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended: `stop`, `length` or `tool_calls`.
    pub finish_reason: &'static str,
    /// The stop string that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
}

/// What the model said.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnswerMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text; null where there are tool calls only.
    pub content: Option<String>,
    /// Always null: the model's refusals are content.
    pub refusal: Option<String>,
    /// What the model thought before, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Functions the model calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<AnswerToolCall>>,
}

/// A call of a function.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnswerToolCall {
    /// Names the call in this conversation.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: ToolCallKind,
    /// What is called.
    pub function: AnswerFunction,
}

/// A function and what it is called with.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnswerFunction {
    /// Its name.
    pub name: String,
    /// JSON.
    pub arguments: String,
}

/// Log-probabilities of an answer's tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    /// One a token of the answer.
    pub content: Vec<TokenLogprob>,
    /// Always null.
    pub refusal: Option<Vec<TokenLogprob>>,
}

impl ChatLogprobs {
    /// Those of some tokens.
    pub fn new(content: Vec<TokenLogprob>) -> ChatLogprobs {
        ChatLogprobs { content, refusal: None }
    }
}

/// What is the same in every part of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub id: String,
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
    pub service_tier: Option<&'static str>,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
}

impl ChatCompletion {
    /// From complete answers.
    pub fn new(head: Head, collected: Collected) -> ChatCompletion {
        let choices = collected.answers.into_iter().zip(0..).map(|(answer, index)| choice(&head, index, answer));
        let choices = choices.collect();
        let Head { id, created, model, system_fingerprint, service_tier, .. } = head;
        let (usage, timings) = (collected.usage, collected.timings);
        let object = "chat.completion";
        ChatCompletion { id, object, created, model, system_fingerprint, service_tier, choices, usage, timings }
    }
}

fn choice(head: &Head, index: u32, answer: WholeAnswer) -> ChatChoice {
    let WholeAnswer { parsed, logprobs, reason } = answer;
    let reason = reason.unwrap_or(EndReason::Stop);
    let finish_reason = finish_reason(&reason, parsed.calls.len());
    let tool_calls: Vec<AnswerToolCall> = parsed.calls.into_iter().map(AnswerToolCall::from).collect();
    let has_calls = !tool_calls.is_empty();
    let message = AnswerMessage {
        role: "assistant",
        content: (!has_calls || !parsed.content.is_empty()).then_some(parsed.content),
        refusal: None,
        reasoning_content: (!parsed.reasoning.is_empty()).then_some(parsed.reasoning),
        tool_calls: has_calls.then_some(tool_calls),
    };
    let logprobs = head.logprobs.then(|| ChatLogprobs::new(logprobs));
    ChatChoice { index, message, logprobs, finish_reason, stop_reason: stop_string(reason) }
}

impl From<ToolCall> for AnswerToolCall {
    fn from(call: ToolCall) -> Self {
        let function = AnswerFunction { name: call.name, arguments: call.arguments };
        AnswerToolCall { id: call.id, kind: ToolCallKind::Function, function }
    }
}

/// OpenAI's word for the end of an answer. A call that was cut off is not one to be made.
pub(crate) fn finish_reason(reason: &EndReason, calls: usize) -> &'static str {
    match reason {
        EndReason::Length => "length",
        EndReason::Stop | EndReason::StopString(_) if calls > 0 => "tool_calls",
        EndReason::Stop | EndReason::StopString(_) => "stop",
    }
}

/// The stop string that ended an answer.
pub(crate) fn stop_string(reason: EndReason) -> Option<String> {
    match reason {
        EndReason::StopString(string) => Some(string),
        EndReason::Stop | EndReason::Length => None,
    }
}

/// A piece of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletionChunk {
    /// The answer's name, the same in every chunk.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// When it was asked for, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The artifact that answers.
    pub system_fingerprint: String,
    /// The tier asked for, where one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<&'static str>,
    /// One answer's piece; none in the chunk with the usage.
    pub choices: Vec<ChunkChoice>,
    /// What it took (so far), where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// How long it took, in the last chunk of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// A piece of one answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChunkChoice {
    /// The answer's place.
    pub index: u32,
    /// What there is more of.
    pub delta: ChatDelta,
    /// Log-probabilities of its tokens, where they were asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why the answer ended, in its last chunk.
    pub finish_reason: Option<&'static str>,
    /// The stop string that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
}

/// What there is more of.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChatDelta {
    /// `assistant`, in the first chunk of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls that began, or more of their arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
}

/// More of a call.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ToolCallDelta {
    /// The call's place.
    pub index: usize,
    /// Its name in this conversation, where it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, where it begins.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ToolCallKind>,
    /// What is called.
    pub function: FunctionDelta,
}

/// More of a function's call.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct FunctionDelta {
    /// Its name, where the call begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments.
    pub arguments: String,
}

impl ChatCompletionChunk {
    /// A chunk with one choice, or without.
    pub fn new(head: &Head, choice: Option<ChunkChoice>) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: head.id.clone(),
            object: "chat.completion.chunk",
            created: head.created,
            model: head.model.clone(),
            system_fingerprint: head.system_fingerprint.clone(),
            service_tier: head.service_tier,
            choices: choice.into_iter().collect(),
            usage: None,
            timings: None,
        }
    }
}

impl ChunkChoice {
    /// A piece of an answer that goes on.
    pub fn new(index: u32, delta: ChatDelta) -> ChunkChoice {
        ChunkChoice { index, delta, logprobs: None, finish_reason: None, stop_reason: None }
    }
}
