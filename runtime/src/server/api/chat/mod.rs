//! `POST /v1/chat/completions`.

mod messages;
mod request;
mod response;
mod stream;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

pub(crate) use messages::template_messages;
pub(crate) use request::*;
pub(crate) use response::*;

use super::conversation::{Conversation, PromptEnd, prepare, tool_set};
use super::format::{ResponseFormat, StructuredOutputs, Wanted, only_one, schema_grammar};
use super::generation::{Generation, Plan, Reading};
use super::limits::AnswerLength;
use super::sampling::{self, MAX_TOP_LOGPROBS, answers, sampling_fields, stop_conditions, stop_ids};
use super::values::Strings;
use super::{errors, identity};
use crate::constrain::Grammar;
use crate::server::AppState;
use crate::server::auth::Caller;
use crate::server::error::ApiError;
use crate::server::models::{LoadedModel, ModelHandle};
use crate::server::request::JsonRequest;
use stream::Extras;

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "generate",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The answers; with `stream`, chunks of them as server-sent events that end with `[DONE]`",
            content((ChatCompletion = "application/json"), (ChatCompletionChunk = "text/event-stream"))),
        errors::Refusals,
    ),
)]
pub(crate) async fn chat_completions(
    State(app): State<AppState>,
    caller: Caller,
    JsonRequest { body, forwarding }: JsonRequest<ChatCompletionRequest>,
) -> Result<Response, ApiError> {
    let mut request: ChatCompletionRequest = body;
    let model = app.registry.get(request.model.as_deref().unwrap_or_else(|| app.registry.default_name())).await?;
    check_fixed_values(&request)?;
    let extras = stream_extras(&request)?;
    let wanted_tokens = max_tokens(&request)?;
    let mut plan = plan(&mut request, &model, &caller)?;
    let head = head(&request, &model);
    let conversation = conversation(&mut request)?;
    if conversation.is_constrained() && request.ignore_eos == Some(true) {
        return Err(ApiError::unsupported(
            "ignore_eos",
            "an answer that is held to a format ends where the format does",
        ));
    }
    let prepared = prepare(&model, conversation).await?;
    let length = AnswerLength {
        max_model_len: model.max_model_len,
        prompt: prepared.tokens.len(),
        prompt_param: "messages",
        wanted: wanted_tokens,
        param: if request.max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" },
    };
    if let Some(response) = forwarding.by_prompt(length.prompt as u64, length.total(), length.max_model_len).await {
        return Ok(response);
    }
    plan.max_tokens = length.exact()?;
    (plan.prompt, plan.constraint) = (prepared.tokens, prepared.constraint);
    plan.reading = Reading::Chat(Box::new(prepared.parser));
    let (answers, generation) = (plan.answers, Generation::start(&model, plan)?);
    match extras {
        Some(extras) => Ok(stream::respond(head, answers, extras, generation)),
        None => Ok(Json(ChatCompletion::new(head, generation.collect().await?)).into_response()),
    }
}

/// Everything of the plan but what depends on the prompt.
fn plan(request: &mut ChatCompletionRequest, model: &LoadedModel, caller: &Caller) -> Result<Plan, ApiError> {
    let vocabulary = model.vocabulary();
    let stop = request.stop.take().map(Strings::into_vec).unwrap_or_default();
    let ignore_eos = request.ignore_eos == Some(true);
    Ok(Plan {
        prompt: Vec::new(),
        sampling: sampling_fields!(request).params(&model.defaults, vocabulary)?,
        stop: stop_conditions("stop", stop, request.include_stop_str_in_output == Some(true))?,
        stop_ids: stop_ids(&model.defaults.eos_ids, request.stop_token_ids.take(), ignore_eos, vocabulary)?,
        max_tokens: 1,
        answers: answers(request.n, model.max_answers())?,
        logprobs: logprobs(request)?,
        prompt_logprobs: false,
        constraint: None,
        priority: request.priority.unwrap_or(0),
        salt: sampling::salt(caller, request.cache_salt.as_deref())?,
        reading: Reading::Plain { skip_special: true },
    })
}

fn head(request: &ChatCompletionRequest, model: &ModelHandle) -> Head {
    Head {
        id: identity::fresh("chatcmpl-"),
        created: identity::now(),
        model: model.name.clone(),
        system_fingerprint: model.fingerprint().to_owned(),
        service_tier: request.service_tier.as_ref().map(|_| "default"),
        logprobs: request.logprobs == Some(true),
    }
}

/// Refuses values other than the one this server can honour.
fn check_fixed_values(request: &ChatCompletionRequest) -> Result<(), ApiError> {
    if request.store == Some(true) {
        return Err(ApiError::unsupported("store", "nothing is stored; leave store out or set it to false"));
    }
    check_service_tier(request.service_tier.as_deref())?;
    if request.modalities.as_ref().is_some_and(|m| m.iter().any(|m| m != "text") || m.is_empty()) {
        return Err(ApiError::unsupported("modalities", "answers are text; modalities may only be [\"text\"]"));
    }
    let ChatCompletionRequest { user, safety_identifier, prompt_cache_key, metadata, .. } = request;
    tracing::debug!(?user, ?safety_identifier, ?prompt_cache_key, ?metadata, "chat");
    Ok(())
}

/// Refuses tiers: all requests are served alike.
pub(crate) fn check_service_tier(tier: Option<&str>) -> Result<(), ApiError> {
    match tier {
        None | Some("auto" | "default") => Ok(()),
        Some(_) => Err(ApiError::unsupported("service_tier", "service_tier may only be auto or default")),
    }
}

/// What a stream contains; `None` where no stream is wanted.
fn stream_extras(request: &ChatCompletionRequest) -> Result<Option<Extras>, ApiError> {
    let usage = super::stream_usage(request.stream, request.stream_options)?;
    Ok(usage.map(|(usage_at_end, usage_in_all)| Extras { usage_at_end, usage_in_all }))
}

fn max_tokens(request: &ChatCompletionRequest) -> Result<Option<u64>, ApiError> {
    match (request.max_tokens, request.max_completion_tokens) {
        (Some(old), Some(new)) if old != new => Err(ApiError::invalid(
            "max_tokens",
            format!("max_tokens is {old} and max_completion_tokens {new}; give one of them"),
        )),
        (old, new) => Ok(new.or(old)),
    }
}

fn logprobs(request: &ChatCompletionRequest) -> Result<Option<usize>, ApiError> {
    match (request.logprobs.unwrap_or(false), request.top_logprobs) {
        (_, Some(top)) if top > MAX_TOP_LOGPROBS => Err(ApiError::invalid(
            "top_logprobs",
            format!("top_logprobs is {top}, but at most {MAX_TOP_LOGPROBS} are given"),
        )),
        (false, Some(top)) if top > 0 => Err(ApiError::invalid("top_logprobs", "top_logprobs needs logprobs: true")),
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
    }
}

fn conversation(request: &mut ChatCompletionRequest) -> Result<Conversation, ApiError> {
    let messages = template_messages(std::mem::take(&mut request.messages))?;
    let tools = tool_set(request.tools.as_deref(), request.tool_choice.as_ref(), request.parallel_tool_calls)?;
    let wanted = wanted(request)?;
    let conversation = Conversation { messages, tools, wanted, variables: variables(request)?, end: end(request)? };
    conversation.check()?;
    Ok(conversation)
}

/// The format the answer is held to, whichever field names it.
fn wanted(request: &mut ChatCompletionRequest) -> Result<Option<Wanted>, ApiError> {
    let json = request.guided_json.take();
    only_one([
        request.response_format.take().map(ResponseFormat::grammar).transpose()?.flatten(),
        request.structured_outputs.take().map(StructuredOutputs::grammar).transpose()?.flatten(),
        json.map(|schema| schema_grammar("guided_json", Some(schema))).transpose()?,
        request.guided_regex.take().map(|regex| Wanted::new("guided_regex", Grammar::Regex(regex))),
        request.guided_choice.take().map(|choice| Wanted::new("guided_choice", Grammar::Choice(choice))),
        request.guided_grammar.take().map(|lark| Wanted::new("guided_grammar", Grammar::Lark(lark))),
    ])
}

fn variables(request: &mut ChatCompletionRequest) -> Result<Map<String, Value>, ApiError> {
    let mut variables = request.chat_template_kwargs.take().unwrap_or_default();
    if let Some(effort) = request.reasoning_effort.take() {
        if variables.contains_key("reasoning_effort") {
            let message = "reasoning_effort is given twice, once in chat_template_kwargs";
            return Err(ApiError::invalid("reasoning_effort", message));
        }
        variables.insert("reasoning_effort".into(), Value::from(effort));
    }
    Ok(variables)
}

fn end(request: &ChatCompletionRequest) -> Result<PromptEnd, ApiError> {
    let continues = request.continue_final_message.unwrap_or(false);
    match (continues, request.add_generation_prompt) {
        (true, Some(true)) => Err(ApiError::invalid(
            "continue_final_message",
            "continue_final_message and add_generation_prompt exclude each other",
        )),
        (true, _) => Ok(PromptEnd::LastMessage),
        (false, Some(false)) => Ok(PromptEnd::Messages),
        (false, _) => Ok(PromptEnd::Answer),
    }
}

#[cfg(test)]
mod tests;
