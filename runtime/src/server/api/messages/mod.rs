//! `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's interface.

mod input;
mod output;
mod request;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

pub(crate) use output::MessageObject;
use output::{Blocks, MessageUsage, StreamEvent, stop};
use request::{ChoiceKind, Thinking, ThinkingKind, Tool, ToolChoice};
pub(crate) use request::{CountTokensRequest, MessagesRequest};

use super::conversation::{Conversation, PromptEnd, prepare, tool_set};
use super::errors::MessagesRefusals;
use super::format::schema_grammar;
use super::generation::{Generation, Plan, Reading, Update};
use super::limits::AnswerLength;
use super::sampling::{self, SamplingFields, stop_conditions};
use super::{identity, sse};
use crate::server::AppState;
use crate::server::auth::Caller;
use crate::server::error::ApiError;
use crate::server::models::{LoadedModel, ModelHandle};
use crate::server::request::JsonRequest;
use crate::text::tools::ToolSet;

/// An event of a streamed message. Its further fields depend on `type`, as in Anthropic's interface.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageStreamEvent {
    /// Its name, which is that of the server-sent event too.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it tells.
    #[serde(flatten)]
    pub fields: Value,
}

/// The number of a prompt's tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenCount {
    /// Tokens of system prompt, tools and conversation.
    pub input_tokens: u64,
}

/// Answers a conversation, in Anthropic's interface.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "generate",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The message; with `stream`, the events of its making",
            content((MessageObject = "application/json"), (MessageStreamEvent = "text/event-stream"))),
        MessagesRefusals,
    ),
)]
pub(crate) async fn messages(
    State(app): State<AppState>,
    caller: Caller,
    JsonRequest { body, forwarding }: JsonRequest<MessagesRequest>,
) -> Result<Response, ApiError> {
    let mut request: MessagesRequest = body;
    let model = app.registry.get(&request.model).await?;
    if !matches!(request.service_tier.as_deref(), None | Some("auto" | "standard_only")) {
        return Err(ApiError::unsupported("service_tier", "service_tier may only be auto or standard_only"));
    }
    tracing::debug!(user_id = ?request.metadata.as_ref().and_then(|m| m.user_id.as_deref()), "messages");
    let mut plan = plan(&mut request, &model, &caller)?;
    let (streams, wanted) = (request.stream == Some(true), request.max_tokens);
    let prepared = prepare(&model, conversation(request)?).await?;
    let length = AnswerLength {
        max_model_len: model.max_model_len,
        prompt: prepared.tokens.len(),
        prompt_param: "messages",
        wanted: Some(wanted),
        param: "max_tokens",
    };
    if let Some(response) = forwarding.by_prompt(length.prompt as u64, length.total(), length.max_model_len).await {
        return Ok(response);
    }
    plan.max_tokens = length.clamped()?;
    (plan.prompt, plan.constraint) = (prepared.tokens, prepared.constraint);
    plan.reading = Reading::Chat(Box::new(prepared.parser));
    let writing = Writing::new(&model, Generation::start(&model, plan)?);
    match streams {
        true => Ok(sse::response(writing.stream())),
        false => Ok(Json(writing.whole().await?).into_response()),
    }
}

/// Counts the tokens that a conversation's prompt has.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "generate",
    request_body = CountTokensRequest,
    responses((status = 200, description = "The number of tokens", body = TokenCount), MessagesRefusals),
)]
pub(crate) async fn count_tokens(
    State(app): State<AppState>,
    JsonRequest { body, .. }: JsonRequest<CountTokensRequest>,
) -> Result<Json<TokenCount>, ApiError> {
    let request: CountTokensRequest = body;
    let model = app.registry.get(&request.model).await?;
    let (messages, end) = messages_of(request.system, request.messages)?;
    let conversation = Conversation {
        messages,
        tools: tools(request.tools, request.tool_choice.as_ref())?,
        wanted: None,
        variables: variables(request.chat_template_kwargs, request.thinking.as_ref())?,
        end,
    };
    let prepared = prepare(&model, conversation).await?;
    Ok(Json(TokenCount { input_tokens: prepared.tokens.len() as u64 }))
}

/// Everything of the plan but what depends on the prompt.
fn plan(request: &mut MessagesRequest, model: &LoadedModel, caller: &Caller) -> Result<Plan, ApiError> {
    let (temperature, top_p, top_k, seed) = (request.temperature, request.top_p, request.top_k, request.seed);
    let fields = SamplingFields { temperature, top_p, top_k, seed, ..SamplingFields::default() };
    Ok(Plan {
        prompt: Vec::new(),
        sampling: fields.params(&model.defaults, model.vocabulary())?,
        stop: stop_conditions("stop_sequences", request.stop_sequences.take().unwrap_or_default(), false)?,
        stop_ids: model.defaults.eos_ids.clone(),
        max_tokens: 1,
        answers: 1,
        logprobs: None,
        prompt_logprobs: false,
        constraint: None,
        priority: request.priority.unwrap_or(0),
        salt: sampling::salt(caller, request.cache_salt.as_deref())?,
        reading: Reading::Plain { skip_special: true },
    })
}

fn conversation(request: MessagesRequest) -> Result<Conversation, ApiError> {
    let format = request.output_config.and_then(|config| config.format);
    let schema = format.map(|format| schema_grammar("output_config.format.schema", Some(format.schema.into())));
    let (messages, end) = messages_of(request.system, request.messages)?;
    let conversation = Conversation {
        messages,
        tools: tools(request.tools, request.tool_choice.as_ref())?,
        wanted: schema.transpose()?,
        variables: variables(request.chat_template_kwargs, request.thinking.as_ref())?,
        end,
    };
    conversation.check()?;
    Ok(conversation)
}

/// The messages, and where the prompt ends: an assistant's text at the end is continued.
fn messages_of(
    system: Option<super::values::TextOr<request::SystemBlock>>,
    messages: Vec<request::InputMessage>,
) -> Result<(Vec<Value>, PromptEnd), ApiError> {
    let messages = input::template_messages(system, messages)?;
    let continues = messages.last().is_some_and(|last| last["role"] == "assistant" && last["tool_calls"].is_null());
    Ok((messages, if continues { PromptEnd::LastMessage } else { PromptEnd::Answer }))
}

/// The tools, as OpenAI's interface has them.
fn tools(tools: Option<Vec<Tool>>, choice: Option<&ToolChoice>) -> Result<Option<ToolSet>, ApiError> {
    let mut definitions = Vec::new();
    for (index, tool) in tools.unwrap_or_default().into_iter().enumerate() {
        if !matches!(tool.kind.as_deref(), None | Some("custom")) {
            let message = "tools that the server runs are not supported; type may only be custom";
            return Err(ApiError::unsupported(format!("tools[{index}].type"), message));
        }
        let mut function = json!({"name": tool.name, "parameters": tool.input_schema});
        if let Some(description) = tool.description {
            function["description"] = json!(description);
        }
        if let Some(strict) = tool.strict {
            function["strict"] = json!(strict);
        }
        definitions.push(json!({"type": "function", "function": function}));
    }
    let parallel = choice.and_then(|choice| choice.disable_parallel_tool_use).map(|disabled| !disabled);
    let choice = choice.map(choice_value).transpose()?;
    tool_set(Some(&definitions), choice.as_ref(), parallel).map_err(in_anthropics_words)
}

fn choice_value(choice: &ToolChoice) -> Result<Value, ApiError> {
    match (choice.kind, &choice.name) {
        (ChoiceKind::Auto, None) => Ok(json!("auto")),
        (ChoiceKind::Any, None) => Ok(json!("required")),
        (ChoiceKind::None, None) => Ok(json!("none")),
        (ChoiceKind::Tool, Some(name)) => Ok(json!({"type": "function", "function": {"name": name}})),
        (ChoiceKind::Tool, None) => Err(ApiError::invalid("tool_choice.name", "tool_choice.name is required")),
        (_, Some(_)) => Err(ApiError::invalid("tool_choice.name", "only a tool_choice of type tool has a name")),
    }
}

/// Names a tool's fields as the caller wrote them.
fn in_anthropics_words(error: ApiError) -> ApiError {
    let rename = |text: String| text.replace(".function.parameters", ".input_schema").replace(".function.", ".");
    ApiError { param: error.param.map(rename), message: rename(error.message), ..error }
}

fn variables(given: Option<Map<String, Value>>, thinking: Option<&Thinking>) -> Result<Map<String, Value>, ApiError> {
    let mut variables = given.unwrap_or_default();
    let Some(thinking) = thinking else { return Ok(variables) };
    if thinking.budget_tokens.is_some() {
        let message = "thinking counts towards max_tokens and cannot be bounded apart from it; \
            leave thinking.budget_tokens out, or set thinking.type to adaptive";
        return Err(ApiError::unsupported("thinking.budget_tokens", message));
    }
    let given = variables.insert("enable_thinking".into(), Value::from(thinking.kind != ThinkingKind::Disabled));
    if given.is_some() {
        return Err(ApiError::invalid("thinking", "thinking is given twice, once in chat_template_kwargs"));
    }
    Ok(variables)
}

/// A message being written.
struct Writing {
    message: MessageObject,
    blocks: Blocks,
    generation: Generation,
}

impl Writing {
    fn new(model: &ModelHandle, generation: Generation) -> Writing {
        let message = MessageObject {
            id: identity::fresh("msg_"),
            kind: "message",
            role: "assistant",
            model: model.name.clone(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: MessageUsage::default(),
            timings: None,
            system_fingerprint: model.fingerprint().to_owned(),
        };
        Writing { message, blocks: Blocks::default(), generation }
    }

    /// The whole message.
    async fn whole(mut self) -> Result<MessageObject, ApiError> {
        while let Some(update) = self.generation.next().await? {
            self.take(update);
        }
        Ok(self.message)
    }

    /// The message as events. The first one tells how much of the prompt was cached, so it waits for the first token.
    fn stream(mut self) -> impl Stream<Item = Event> + Send {
        async_stream::stream! {
            let mut has_begun = false;
            loop {
                let update = match self.generation.next().await {
                    Ok(Some(update)) => update,
                    Ok(None) => return,
                    Err(error) => {
                        yield sse::named("error", &error.anthropic_body());
                        return;
                    }
                };
                if !std::mem::replace(&mut has_begun, true) {
                    self.message.usage = self.generation.usage().into();
                    yield event(("message_start", json!({"message": self.message})));
                }
                for told in self.take(update) {
                    yield event(told);
                }
            }
        }
    }

    fn take(&mut self, update: Update) -> Vec<StreamEvent> {
        match update {
            // Not asked for.
            Update::Prompt(_) => Vec::new(),
            Update::Piece { piece, .. } => self.blocks.push(piece),
            Update::End { reason, calls, .. } => {
                let mut events = self.blocks.close();
                let (reason, sequence) = stop(reason, calls);
                self.message.content = self.blocks.list().to_vec();
                (self.message.stop_reason, self.message.stop_sequence) = (Some(reason), sequence);
                self.message.usage = self.generation.usage().into();
                self.message.timings = Some(self.generation.timings());
                let delta = json!({"stop_reason": reason, "stop_sequence": self.message.stop_sequence});
                let told = json!({"delta": delta, "usage": self.message.usage, "timings": self.message.timings});
                events.extend([("message_delta", told), ("message_stop", json!({}))]);
                events
            }
        }
    }
}

fn event((kind, fields): StreamEvent) -> Event {
    sse::named(kind, &MessageStreamEvent { kind, fields })
}

#[cfg(test)]
mod tests;
