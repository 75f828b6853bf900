//! The endpoints that generate: OpenAI's chat/completions, completions, responses and embeddings, Anthropic's messages.
//!
//! Each endpoint reads its body strictly, translates it into a [`generation::Plan`], and writes the updates of the
//! [`generation::Generation`] in its own shape. A field is honoured or refused by name; what cannot be honoured is found
//! before anything is scheduled.

mod answer_text;
mod answering;
mod chat;
mod completions;
mod conversation;
mod embeddings;
mod errors;
mod examples;
mod format;
mod generation;
mod identity;
mod limits;
mod messages;
mod openapi;
mod responses;
mod sampling;
mod sse;
mod token_text;
mod usage;
mod values;

pub(crate) use answering::Answering;
use axum::Router;
use axum::routing::{get, post};

use self::chat::StreamOptions;
use super::AppState;
use super::error::ApiError;

/// The routes.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/messages", post(messages::messages))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/openapi.json", get(openapi::document))
}

/// Whether a stream is wanted, and with it whether usage is sent at its end and in every chunk.
fn stream_usage(stream: Option<bool>, options: Option<StreamOptions>) -> Result<Option<(bool, bool)>, ApiError> {
    let refuse = |field: &str, why: &str| Err(ApiError::unsupported(field, why));
    match (stream.unwrap_or(false), options) {
        (false, Some(_)) => refuse("stream_options", "stream_options needs stream: true"),
        (_, Some(options)) if options.include_obfuscation == Some(true) => {
            refuse("stream_options.include_obfuscation", "chunks are not padded; leave it out or set it to false")
        }
        (false, None) => Ok(None),
        (true, options) => {
            let options = options.unwrap_or_default();
            let in_all = options.continuous_usage_stats.unwrap_or(false);
            Ok(Some((options.include_usage.unwrap_or(false), in_all)))
        }
    }
}
