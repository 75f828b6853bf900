//! `/tokenize` and `/detokenize`, in vLLM's shapes.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::AppState;
use super::error::{ApiError, ErrorBody};
use super::models::ModelHandle;
use super::request::JsonBody;
use crate::text::ChatRequest;
use crate::text::tools::{ToolError, ToolSet};

/// A text, or messages, to make tokens of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    /// The model; the server's first where none is named.
    pub model: Option<String>,
    /// A text. Either this or `messages`.
    pub prompt: Option<String>,
    /// Messages, to which the chat template is applied.
    #[schema(value_type = Option<Vec<Object>>)]
    pub messages: Option<Vec<Value>>,
    /// Whether to add the tokens that the model wants around every text: by default to a prompt, but not to messages,
    /// where the template writes them.
    pub add_special_tokens: Option<bool>,
    /// Whether messages end where an answer begins; they do by default.
    pub add_generation_prompt: Option<bool>,
    /// Whether to give the spelling of each token too.
    pub return_token_strs: Option<bool>,
    /// Tools that the chat template is to show.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// Further variables of the chat template.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// The tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizeResponse {
    /// How many.
    pub count: u64,
    /// Longest sequence of the model.
    pub max_model_len: u64,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their spellings in the vocabulary, where asked for.
    pub token_strs: Option<Vec<String>>,
}

/// Tokens to make a text of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// The model; the server's first where none is named.
    pub model: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
}

/// The text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DetokenizeResponse {
    /// The text.
    pub prompt: String,
}

/// The tokens of a text or of messages.
#[utoipa::path(post, path = "/tokenize", tag = "tokens", request_body = TokenizeRequest, responses(
    (status = 200, description = "The tokens", body = TokenizeResponse),
    (status = 400, description = "A field is wrong", body = ErrorBody),
    (status = 404, description = "The model does not exist", body = ErrorBody),
    (status = 503, description = "The model cannot be loaded", body = ErrorBody)))]
pub(crate) async fn tokenize(
    State(app): State<AppState>,
    JsonBody(request): JsonBody<TokenizeRequest>,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let model = named(&app, request.model.as_deref()).await?;
    on_worker(move || tokens_of(&model, &request)).await.map(Json)
}

fn tokens_of(model: &ModelHandle, request: &TokenizeRequest) -> Result<TokenizeResponse, ApiError> {
    let tokens = match (&request.prompt, &request.messages) {
        (Some(prompt), None) => {
            refuse_without_messages(request)?;
            model.tokenizer.encode(prompt, request.add_special_tokens.unwrap_or(true))?
        }
        (None, Some(messages)) => {
            let text = rendered(model, messages, request)?;
            model.tokenizer.encode(&text, request.add_special_tokens.unwrap_or(false))?
        }
        _ => return Err(ApiError::invalid("prompt", "expected either prompt or messages")),
    };
    let spelling = |id: &u32| model.tokenizer.id_to_token(*id).unwrap_or_default();
    let token_strs = request.return_token_strs.unwrap_or(false).then(|| tokens.iter().map(spelling).collect());
    Ok(TokenizeResponse { count: tokens.len() as u64, max_model_len: model.max_model_len, tokens, token_strs })
}

fn refuse_without_messages(request: &TokenizeRequest) -> Result<(), ApiError> {
    let given = [
        ("add_generation_prompt", request.add_generation_prompt.is_some()),
        ("tools", request.tools.is_some()),
        ("chat_template_kwargs", request.chat_template_kwargs.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(ApiError::invalid(*field, "expected messages with it")),
        None => Ok(()),
    }
}

fn rendered(model: &ModelHandle, messages: &[Value], request: &TokenizeRequest) -> Result<String, ApiError> {
    let format = model.format()?;
    let Some(template) = &model.template else {
        return Err(ApiError::unsupported("messages", "the model has no chat template"));
    };
    let tools = ToolSet::new(request.tools.as_deref().unwrap_or_default(), None, true)
        .map_err(|ToolError { field, message }| ApiError::invalid(field, message))?;
    let chat = ChatRequest {
        tools: tools.as_ref().map(ToolSet::definitions),
        add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
        variables: request.chat_template_kwargs.as_ref(),
        ..ChatRequest::new(messages)
    };
    Ok(format.render(template, &chat)?)
}

/// The text of tokens, special ones included.
#[utoipa::path(post, path = "/detokenize", tag = "tokens", request_body = DetokenizeRequest, responses(
    (status = 200, description = "The text", body = DetokenizeResponse),
    (status = 400, description = "A field is wrong", body = ErrorBody),
    (status = 404, description = "The model does not exist", body = ErrorBody),
    (status = 503, description = "The model cannot be loaded", body = ErrorBody)))]
pub(crate) async fn detokenize(
    State(app): State<AppState>,
    JsonBody(request): JsonBody<DetokenizeRequest>,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let model = named(&app, request.model.as_deref()).await?;
    let decode = move || {
        let text =
            model.tokenizer.decode(&request.tokens, false).map_err(|e| ApiError::from(e).with_param("tokens"))?;
        Ok(DetokenizeResponse { prompt: text })
    };
    on_worker(decode).await.map(Json)
}

async fn named(app: &AppState, model: Option<&str>) -> Result<ModelHandle, ApiError> {
    app.registry.get(model.unwrap_or(app.registry.default_name())).await
}

/// Runs what may take long on a thread that may.
async fn on_worker<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(ApiError::internal("the server failed at this request")))
}
