//! `POST /v1/completions`: texts or tokens continued as they are.
//!
//! Several prompts are several requests to the engine; their answers are put together in the order of the prompts.

mod request;
mod response;
mod stream;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::future::try_join_all;

pub(crate) use request::CompletionRequest;
pub(crate) use response::Completion;
use response::{Echo, Head};

use super::conversation::{blocking, compile};
use super::errors;
use super::format::{ResponseFormat, StructuredOutputs, Wanted, only_one, schema_grammar};
use super::generation::{Generation, Plan, Reading};
use super::identity;
use super::limits::AnswerLength;
use super::sampling::{self, MAX_ANSWERS, MAX_TOP_LOGPROBS, answers, sampling_fields, stop_conditions, stop_ids};
use super::values::{Prompts, Strings};
use crate::constrain::Grammar;
use crate::kv::salt::CacheSalt;
use crate::sample::SamplingParams;
use crate::server::AppState;
use crate::server::auth::Caller;
use crate::server::error::ApiError;
use crate::server::models::{LoadedModel, ModelHandle};
use crate::server::request::JsonRequest;
use crate::serving::TokenConstraint;
use crate::text::StopConditions;

/// Tokens of an answer where the request does not say it, as in OpenAI's interface.
const DEFAULT_MAX_TOKENS: u64 = 16;

/// Continues prompts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "generate",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answers; with `stream`, pieces of them as server-sent events that end with `[DONE]`",
            content((Completion = "application/json"), (Completion = "text/event-stream"))),
        errors::Refusals,
    ),
)]
pub(crate) async fn completions(
    State(app): State<AppState>,
    caller: Caller,
    JsonRequest { body, forwarding }: JsonRequest<CompletionRequest>,
) -> Result<Response, ApiError> {
    let mut request: CompletionRequest = body;
    let model = app.registry.get(request.model.as_deref().unwrap_or_else(|| app.registry.default_name())).await?;
    check_fixed_values(&request)?;
    let usage = super::stream_usage(request.stream, request.stream_options)?;
    let options = Options::new(&mut request, &model, &caller)?;
    let prepared = {
        let (model, prompts) = (model.clone(), request.prompt);
        let (special, wanted) = (request.add_special_tokens.unwrap_or(true), options.wanted.clone());
        blocking(move || Prepared::new(&model, prompts, special, wanted.as_ref())).await?
    };
    let longest = options.length(&model, prepared.longest());
    if let Some(response) = forwarding.by_prompt(longest.prompt as u64, longest.total(), longest.max_model_len).await {
        return Ok(response);
    }
    let head = options.head(&model);
    let echoes = match options.echo {
        true => prepared.echoes(&model)?,
        false => vec![Echo::default(); prepared.encoded.prompts.len()],
    };
    let generations = options.start(&model, prepared)?;
    match usage {
        Some(usage) => Ok(stream::respond(head, echoes, usage, generations)),
        None => {
            let collected = try_join_all(generations.into_iter().map(Generation::collect)).await?;
            Ok(Json(Completion::new(&head, echoes, collected)).into_response())
        }
    }
}

/// Refuses values other than the one this server can honour.
fn check_fixed_values(request: &CompletionRequest) -> Result<(), ApiError> {
    if request.suffix.is_some() {
        return Err(ApiError::unsupported("suffix", "text is generated behind a prompt only; leave suffix out"));
    }
    if request.best_of.is_some_and(|best_of| best_of != request.n.unwrap_or(1)) {
        return Err(ApiError::unsupported("best_of", "every answer is given; leave best_of out or set it to n"));
    }
    tracing::debug!(user = ?request.user, "completions");
    Ok(())
}

/// What a request asks for, apart from its prompts.
struct Options {
    sampling: SamplingParams,
    stop: StopConditions,
    stop_ids: Vec<u32>,
    max_tokens: Option<u64>,
    answers: u32,
    logprobs: Option<usize>,
    echo: bool,
    skip_special: bool,
    wanted: Option<Wanted>,
    priority: i32,
    salt: CacheSalt,
}

impl Options {
    fn new(request: &mut CompletionRequest, model: &LoadedModel, caller: &Caller) -> Result<Options, ApiError> {
        let vocabulary = model.vocabulary();
        let stop = request.stop.take().map(Strings::into_vec).unwrap_or_default();
        let ignore_eos = request.ignore_eos == Some(true);
        let wanted = wanted(request)?;
        if ignore_eos && wanted.is_some() {
            let message = "an answer that is held to a format ends where the format does";
            return Err(ApiError::unsupported("ignore_eos", message));
        }
        if request.logprobs.is_some_and(|top| top > MAX_TOP_LOGPROBS) {
            return Err(ApiError::invalid(
                "logprobs",
                format!("at most {MAX_TOP_LOGPROBS} log-probabilities are given"),
            ));
        }
        Ok(Options {
            sampling: sampling_fields!(request).params(&model.defaults, vocabulary)?,
            stop: stop_conditions("stop", stop, request.include_stop_str_in_output == Some(true))?,
            stop_ids: stop_ids(&model.defaults.eos_ids, request.stop_token_ids.take(), ignore_eos, vocabulary)?,
            max_tokens: request.max_tokens,
            answers: answers(request.n, model.max_answers())?,
            logprobs: request.logprobs.map(|top| top as usize),
            echo: request.echo == Some(true),
            skip_special: request.skip_special_tokens.unwrap_or(true),
            wanted,
            priority: request.priority.unwrap_or(0),
            salt: sampling::salt(caller, request.cache_salt.as_deref())?,
        })
    }

    fn length(&self, model: &LoadedModel, prompt: usize) -> AnswerLength {
        AnswerLength {
            max_model_len: model.max_model_len,
            prompt,
            prompt_param: "prompt",
            wanted: Some(self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)),
            param: "max_tokens",
        }
    }

    fn head(&self, model: &LoadedModel) -> Head {
        Head {
            id: identity::fresh("cmpl-"),
            created: identity::now(),
            model: model.name.clone(),
            system_fingerprint: model.fingerprint().to_owned(),
            answers: self.answers,
            logprobs: self.logprobs.is_some(),
        }
    }

    /// Hands every prompt to the engine. If one is refused, those before it are cancelled.
    fn start(&self, model: &ModelHandle, prepared: Prepared) -> Result<Vec<Generation>, ApiError> {
        let Prepared { encoded: Encoded { prompts, .. }, constraint } = prepared;
        let lengths = prompts.iter().map(|prompt| {
            let length = self.length(model, prompt.len());
            if self.max_tokens.is_none() { length.clamped() } else { length.exact() }
        });
        let lengths = lengths.collect::<Result<Vec<u64>, ApiError>>()?;
        let plans = prompts.into_iter().zip(lengths).map(|(prompt, max_tokens)| Plan {
            prompt,
            sampling: self.sampling.clone(),
            stop: self.stop.clone(),
            stop_ids: self.stop_ids.clone(),
            max_tokens,
            answers: self.answers,
            logprobs: self.logprobs,
            prompt_logprobs: self.echo && self.logprobs.is_some(),
            constraint: constraint.as_ref().map(|constraint| constraint.fork()),
            priority: self.priority,
            salt: self.salt,
            reading: Reading::Plain { skip_special: self.skip_special },
        });
        plans.map(|plan| Generation::start(model, plan)).collect()
    }
}

/// The format the answers are held to, whichever field names it.
fn wanted(request: &mut CompletionRequest) -> Result<Option<Wanted>, ApiError> {
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

/// Prompts as tokens.
struct Encoded {
    prompts: Vec<Vec<u32>>,
    /// The prompts as they were written, where they were text.
    texts: Vec<Option<String>>,
}

/// Prompts as the engine takes them.
struct Prepared {
    encoded: Encoded,
    constraint: Option<Box<dyn TokenConstraint>>,
}

impl Prepared {
    /// Encodes the prompts and compiles the grammar. Blocking.
    fn new(
        model: &LoadedModel,
        prompts: Prompts,
        special: bool,
        wanted: Option<&Wanted>,
    ) -> Result<Prepared, ApiError> {
        let encoded = encode(model, "prompt", prompts, special)?;
        let constraint = wanted.map(|wanted| compile(model, wanted)).transpose()?;
        Ok(Prepared { encoded, constraint })
    }

    fn longest(&self) -> usize {
        self.encoded.prompts.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The prompts' texts and tokens, to be repeated in front of the answers.
    fn echoes(&self, model: &LoadedModel) -> Result<Vec<Echo>, ApiError> {
        let echo = |(tokens, text): (&Vec<u32>, &Option<String>)| match text {
            Some(text) => Ok(Echo::new(text.clone(), tokens, &model.tokenizer)),
            None => Ok(Echo::new(model.tokenizer.decode(tokens, false)?, tokens, &model.tokenizer)),
        };
        self.encoded.prompts.iter().zip(&self.encoded.texts).map(echo).collect()
    }
}

/// The tokens of prompts, on a thread that may block; `param` is the field with them.
pub(crate) async fn encode_prompts(
    model: &ModelHandle,
    param: &'static str,
    prompts: Prompts,
    special: bool,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let model = model.clone();
    blocking(move || encode(&model, param, prompts, special).map(|encoded| encoded.prompts)).await
}

/// The tokens of prompts, and their texts where they are text. Blocking.
fn encode(model: &LoadedModel, param: &'static str, prompts: Prompts, special: bool) -> Result<Encoded, ApiError> {
    let tokens_of =
        |text: &String| model.tokenizer.encode(text, special).map_err(|e| ApiError::from(e).with_param(param));
    let (tokens, texts): (Vec<Vec<u32>>, Vec<Option<String>>) = match prompts {
        Prompts::Text(text) => (vec![tokens_of(&text)?], vec![Some(text)]),
        Prompts::Texts(texts) => {
            check_count(param, texts.len())?;
            let tokens = texts.iter().map(tokens_of).collect::<Result<_, ApiError>>()?;
            (tokens, texts.into_iter().map(Some).collect())
        }
        Prompts::Tokens(tokens) => (vec![tokens], vec![None]),
        Prompts::TokenLists(lists) => {
            let none = vec![None; lists.len()];
            (lists, none)
        }
    };
    check_count(param, tokens.len())?;
    for (index, prompt) in tokens.iter().enumerate() {
        check_prompt(param, index, prompt, model.vocabulary())?;
    }
    Ok(Encoded { prompts: tokens, texts })
}

fn check_count(param: &str, prompts: usize) -> Result<(), ApiError> {
    match prompts {
        0 => Err(ApiError::invalid(param, format!("{param} is empty; give text or tokens"))),
        n if n > MAX_ANSWERS as usize => {
            Err(ApiError::invalid(param, format!("{param} has {n} entries; at most {MAX_ANSWERS} are taken at once")))
        }
        _ => Ok(()),
    }
}

fn check_prompt(param: &str, index: usize, prompt: &[u32], vocabulary: u64) -> Result<(), ApiError> {
    if prompt.is_empty() {
        return Err(ApiError::invalid(param, format!("entry {index} of {param} has no tokens; give at least one")));
    }
    match prompt.iter().find(|token| u64::from(**token) >= vocabulary) {
        Some(token) => {
            let message = format!("entry {index} of {param} has the token {token}; ids are below {vocabulary}");
            Err(ApiError::invalid(param, message))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_counted_and_their_tokens_checked() {
        assert!(check_count("prompt", 1).is_ok() && check_count("prompt", 128).is_ok());
        assert!(check_count("prompt", 0).is_err() && check_count("prompt", 129).is_err());
        assert!(check_prompt("input", 0, &[9], 10).is_ok());
        for wrong in [&[][..], &[10], &[u32::MAX]] {
            assert_eq!(check_prompt("input", 3, wrong, 10).expect_err("refused").param.as_deref(), Some("input"));
        }
    }
}
