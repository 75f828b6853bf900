//! `POST /v1/responses`: OpenAI's newer interface. Nothing is stored, so whatever refers to earlier responses is refused.

mod input;
mod output;
mod request;
mod response;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde_json::{Map, Value, json};

use output::{Output, StreamEvent};
pub(crate) use request::ResponsesRequest;
use request::{ItemStatus, Reasoning, TextFormat};
use response::{IncompleteDetails, RequestEcho, ResponseError, TextEcho};
pub(crate) use response::{ResponseObject, ResponseStreamEvent};

use super::chat::check_service_tier;
use super::conversation::{Conversation, PromptEnd, prepare, tool_set};
use super::format::{FormatKind, Wanted, check_name, schema_grammar};
use super::generation::{EndReason, Generation, Plan, Reading, Update};
use super::limits::AnswerLength;
use super::sampling::{self, MAX_TOP_LOGPROBS, sampling_fields};
use super::{errors, identity, sse};
use crate::constrain::Grammar;
use crate::server::AppState;
use crate::server::auth::Caller;
use crate::server::error::ApiError;
use crate::server::models::LoadedModel;
use crate::server::request::JsonRequest;
use crate::text::StopConditions;

/// What `include` may name.
const INCLUDE_LOGPROBS: &str = "message.output_text.logprobs";

/// Answers a text or a conversation.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "generate",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response; with `stream`, the events of its making",
            content((ResponseObject = "application/json"), (ResponseStreamEvent = "text/event-stream"))),
        errors::Refusals,
    ),
)]
pub(crate) async fn responses(
    State(app): State<AppState>,
    caller: Caller,
    JsonRequest { body, forwarding }: JsonRequest<ResponsesRequest>,
) -> Result<Response, ApiError> {
    let mut request: ResponsesRequest = body;
    let model = app.registry.get(request.model.as_deref().unwrap_or_else(|| app.registry.default_name())).await?;
    check_fixed_values(&request)?;
    let mut plan = plan(&mut request, &model, &caller)?;
    let echo = echo(&request, &model, &plan);
    let streams = request.stream == Some(true);
    let wanted = request.max_output_tokens;
    let prepared = prepare(&model, conversation(request)?).await?;
    let length = AnswerLength {
        max_model_len: model.max_model_len,
        prompt: prepared.tokens.len(),
        prompt_param: "input",
        wanted,
        param: "max_output_tokens",
    };
    if let Some(response) = forwarding.by_prompt(length.prompt as u64, length.total(), length.max_model_len).await {
        return Ok(response);
    }
    plan.max_tokens = length.exact()?;
    (plan.prompt, plan.constraint) = (prepared.tokens, prepared.constraint);
    plan.reading = Reading::Chat(Box::new(prepared.parser));
    let writing = Writing::new(begin(echo, &model), Generation::start(&model, plan)?);
    match streams {
        true => Ok(sse::response(writing.stream())),
        false => Ok(Json(writing.whole().await?).into_response()),
    }
}

/// Refuses values other than the one this server can honour.
fn check_fixed_values(request: &ResponsesRequest) -> Result<(), ApiError> {
    let include = request.include.as_deref().unwrap_or_default();
    let usage = request.stream_options.is_some_and(|o| o.include_usage.is_some() || o.continuous_usage_stats.is_some());
    let obfuscated = request.stream_options.is_some_and(|o| o.include_obfuscation == Some(true));
    let refused = [
        ("store", request.store == Some(true), "nothing is stored; leave store out or set it to false"),
        (
            "previous_response_id",
            request.previous_response_id.is_some(),
            "nothing is stored; give the conversation as input",
        ),
        (
            "conversation",
            request.conversation.as_ref().is_some_and(|c| !c.is_null()),
            "nothing is stored; give the conversation as input",
        ),
        ("background", request.background == Some(true), "responses are answered at once; leave background out"),
        (
            "truncation",
            !matches!(request.truncation.as_deref(), None | Some("disabled")),
            "input that is too long is refused; truncation may only be disabled",
        ),
        (
            "include",
            include.iter().any(|i| i != INCLUDE_LOGPROBS),
            "include may only name message.output_text.logprobs",
        ),
        (
            "reasoning.summary",
            request.reasoning.as_ref().is_some_and(|r| r.summary.is_some()),
            "reasoning is given as it is; leave summary out",
        ),
        (
            "stream_options",
            request.stream_options.is_some() && request.stream != Some(true),
            "stream_options needs stream: true",
        ),
        ("stream_options", usage, "usage is always part of the last event; leave include_usage out"),
        ("stream_options.include_obfuscation", obfuscated, "events are not padded; set it to false"),
    ];
    if let Some((field, _, why)) = refused.into_iter().find(|(_, is_refused, _)| *is_refused) {
        return Err(ApiError::unsupported(field, why));
    }
    check_service_tier(request.service_tier.as_deref())
}

/// Everything of the plan but what depends on the prompt.
fn plan(request: &mut ResponsesRequest, model: &LoadedModel, caller: &Caller) -> Result<Plan, ApiError> {
    let includes = request.include.as_ref().is_some_and(|include| !include.is_empty());
    let top = request.top_logprobs;
    if top.is_some_and(|top| top > MAX_TOP_LOGPROBS) {
        return Err(ApiError::invalid(
            "top_logprobs",
            format!("at most {MAX_TOP_LOGPROBS} log-probabilities are given"),
        ));
    }
    Ok(Plan {
        prompt: Vec::new(),
        sampling: sampling_fields!(request).params(&model.defaults, model.vocabulary())?,
        stop: StopConditions::default(),
        stop_ids: model.defaults.eos_ids.clone(),
        max_tokens: 1,
        answers: 1,
        logprobs: (includes || top.is_some_and(|top| top > 0)).then_some(top.unwrap_or(0) as usize),
        prompt_logprobs: false,
        constraint: None,
        priority: request.priority.unwrap_or(0),
        salt: sampling::salt(caller, request.cache_salt.as_deref())?,
        reading: Reading::Plain { skip_special: true },
    })
}

fn echo(request: &ResponsesRequest, model: &LoadedModel, plan: &Plan) -> RequestEcho {
    let plain = || TextFormat { kind: FormatKind::Text, name: None, description: None, schema: None, strict: None };
    RequestEcho {
        model: model.name.clone(),
        instructions: request.instructions.clone(),
        max_output_tokens: request.max_output_tokens,
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        previous_response_id: None,
        reasoning: request.reasoning.clone().unwrap_or(Reasoning { effort: None, summary: None }),
        store: false,
        temperature: plan.sampling.temperature,
        top_p: plan.sampling.top_p,
        top_logprobs: request.top_logprobs.unwrap_or(0),
        text: TextEcho { format: request.text.as_ref().and_then(|t| t.format.clone()).unwrap_or_else(plain) },
        tool_choice: request.tool_choice.clone().unwrap_or_else(|| json!("auto")),
        tools: request.tools.clone().unwrap_or_default(),
        truncation: "disabled",
        service_tier: "default",
        metadata: request.metadata.clone().unwrap_or_default(),
        user: request.user.clone(),
        safety_identifier: request.safety_identifier.clone(),
        prompt_cache_key: request.prompt_cache_key.clone(),
    }
}

/// A response before its first word.
fn begin(request: RequestEcho, model: &LoadedModel) -> ResponseObject {
    ResponseObject {
        id: identity::fresh("resp_"),
        object: "response",
        created_at: identity::now(),
        status: "in_progress",
        background: false,
        error: None,
        incomplete_details: None,
        output: Vec::new(),
        usage: None,
        timings: None,
        system_fingerprint: model.fingerprint().to_owned(),
        request,
    }
}

fn conversation(request: ResponsesRequest) -> Result<Conversation, ApiError> {
    let tools = tool_set(request.tools.as_deref(), request.tool_choice.as_ref(), request.parallel_tool_calls)?;
    let wanted = request.text.and_then(|text| text.format).map(wanted).transpose()?.flatten();
    let mut variables: Map<String, Value> = request.chat_template_kwargs.unwrap_or_default();
    if let Some(effort) = request.reasoning.and_then(|reasoning| reasoning.effort)
        && variables.insert("reasoning_effort".into(), Value::from(effort)).is_some()
    {
        let message = "reasoning.effort is given twice, once in chat_template_kwargs";
        return Err(ApiError::invalid("reasoning.effort", message));
    }
    let messages = input::template_messages(request.instructions, request.input)?;
    let conversation = Conversation { messages, tools, wanted, variables, end: PromptEnd::Answer };
    conversation.check()?;
    Ok(conversation)
}

/// The grammar of a format.
fn wanted(format: TextFormat) -> Result<Option<Wanted>, ApiError> {
    let has_schema = format.schema.is_some();
    match format.kind {
        FormatKind::JsonSchema => {
            check_name("text.format.name", format.name.as_deref().unwrap_or_default())?;
            match has_schema {
                true => schema_grammar("text.format.schema", format.schema).map(Some),
                false => Err(ApiError::invalid("text.format.schema", "text.format.schema is required")),
            }
        }
        _ if has_schema || format.name.is_some() || format.strict.is_some() || format.description.is_some() => {
            Err(ApiError::invalid("text.format", "a schema is of use only where type is json_schema"))
        }
        FormatKind::JsonObject => Ok(Some(Wanted::new("text.format", Grammar::JsonObject))),
        FormatKind::Text => Ok(None),
    }
}

/// A response being written.
struct Writing {
    response: ResponseObject,
    output: Output,
    generation: Generation,
    sequence: u64,
}

impl Writing {
    fn new(response: ResponseObject, generation: Generation) -> Writing {
        Writing { response, output: Output::default(), generation, sequence: 0 }
    }

    /// The whole response.
    async fn whole(mut self) -> Result<ResponseObject, ApiError> {
        while let Some(update) = self.generation.next().await? {
            self.take(update);
        }
        Ok(self.response)
    }

    /// The response as events.
    fn stream(mut self) -> impl Stream<Item = Event> + Send {
        async_stream::stream! {
            for name in ["response.created", "response.in_progress"] {
                yield self.event((name, self.response.event()));
            }
            loop {
                match self.generation.next().await {
                    Ok(Some(update)) => {
                        for event in self.take(update) {
                            yield self.event(event);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        for event in self.fail(&error) {
                            yield self.event(event);
                        }
                        return;
                    }
                }
            }
        }
    }

    fn take(&mut self, update: Update) -> Vec<StreamEvent> {
        match update {
            // Not asked for.
            Update::Prompt(_) => Vec::new(),
            Update::Piece { piece, .. } => self.output.push(piece),
            Update::End { reason, .. } => self.end(&reason),
        }
    }

    fn end(&mut self, reason: &EndReason) -> Vec<StreamEvent> {
        let is_cut = *reason == EndReason::Length;
        let mut events = self.output.close(if is_cut { ItemStatus::Incomplete } else { ItemStatus::Completed });
        self.response.output = self.output.items().to_vec();
        self.response.status = if is_cut { "incomplete" } else { "completed" };
        self.response.incomplete_details = is_cut.then_some(IncompleteDetails { reason: "max_output_tokens" });
        self.response.usage = Some(self.generation.usage().into());
        self.response.timings = Some(self.generation.timings());
        let name = if is_cut { "response.incomplete" } else { "response.completed" };
        events.push((name, self.response.event()));
        events
    }

    fn fail(&mut self, error: &ApiError) -> Vec<StreamEvent> {
        let (code, message) = (error.code.unwrap_or("server_error").to_owned(), error.message.clone());
        let told = json!({"code": code, "message": message, "param": error.param});
        self.response.output = self.output.items().to_vec();
        (self.response.status, self.response.error) = ("failed", Some(ResponseError { code, message }));
        vec![("error", told), ("response.failed", self.response.event())]
    }

    fn event(&mut self, (kind, fields): StreamEvent) -> Event {
        let event = ResponseStreamEvent { kind, sequence_number: self.sequence, fields };
        self.sequence += 1;
        sse::named(kind, &event)
    }
}

#[cfg(test)]
mod tests;
