//! The errors of the generating endpoints, for the OpenAPI document.

use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::server::error::ErrorBody;

/// The body of every error in Anthropic's shape.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnthropicErrorBody {
    /// `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is wrong.
    pub error: AnthropicErrorDetail,
}

/// What is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnthropicErrorDetail {
    /// The class of the error, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A sentence for people.
    pub message: String,
}

/// Errors in OpenAI's shape.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the responses that ApiError makes")]
pub(crate) enum Refusals {
    /// The body is no JSON, or a field is unknown, of a wrong type or out of range (`param` names it), or the prompt is longer
    /// than the context (`code` is `context_length_exceeded`)
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// The key is wrong or absent
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The request comes from a host or an origin that this server does not serve
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// The model is unknown
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body took too long to arrive
    #[response(status = 408)]
    Timeout(ErrorBody),
    /// The body is too large
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// Too many requests wait; try again after the time in `Retry-After`
    #[response(status = 429, headers(("Retry-After" = u64, description = "Seconds")))]
    TooMany(ErrorBody),
    /// The engine failed at this request
    #[response(status = 500)]
    Internal(ErrorBody),
    /// The upstream server failed
    #[response(status = 502)]
    Upstream(ErrorBody),
    /// The model cannot be loaded now, its device is lost, or the server shuts down
    #[response(status = 503, headers(("Retry-After" = u64, description = "Seconds, where it is known")))]
    Unavailable(ErrorBody),
}

/// The same errors in Anthropic's shape.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the responses that ApiError makes")]
pub(crate) enum MessagesRefusals {
    /// The body is no JSON, or a field is unknown, of a wrong type or out of range (the message names it), or the prompt is longer
    /// than the context
    #[response(status = 400)]
    BadRequest(AnthropicErrorBody),
    /// The key is wrong or absent
    #[response(status = 401)]
    Unauthorized(AnthropicErrorBody),
    /// The request comes from a host or an origin that this server does not serve
    #[response(status = 403)]
    Forbidden(AnthropicErrorBody),
    /// The model is unknown
    #[response(status = 404)]
    NotFound(AnthropicErrorBody),
    /// The body took too long to arrive
    #[response(status = 408)]
    Timeout(AnthropicErrorBody),
    /// The body is too large
    #[response(status = 413)]
    TooLarge(AnthropicErrorBody),
    /// Too many requests wait; try again after the time in `Retry-After`
    #[response(status = 429, headers(("Retry-After" = u64, description = "Seconds")))]
    TooMany(AnthropicErrorBody),
    /// The engine failed at this request
    #[response(status = 500)]
    Internal(AnthropicErrorBody),
    /// The upstream server failed
    #[response(status = 502)]
    Upstream(AnthropicErrorBody),
    /// The model cannot be loaded now, its device is lost, or the server shuts down
    #[response(status = 503, headers(("Retry-After" = u64, description = "Seconds, where it is known")))]
    Unavailable(AnthropicErrorBody),
}
