//! Errors as clients of OpenAI's and Anthropic's interfaces expect them.
//!
//! A handler returns an [`ApiError`] and knows nothing of the interface it serves: the answer is OpenAI-shaped, and
//! [`anthropic_shape`] rewrites it for routes of the other interface. Messages are for the caller; nothing of the
//! machine but what the caller asked about stands in them.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::serving::{RequestError, SubmitError};
use crate::text::{ChatError, TextError};

/// An error of the interface.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    /// The status of the answer.
    pub status: StatusCode,
    /// `type` of the body.
    pub kind: &'static str,
    /// The field that is wrong.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// A sentence for people.
    pub message: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// What is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// A sentence for people.
    pub message: String,
    /// The class of the error, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// A word for programs, such as `model_not_found`.
    pub code: Option<String>,
}

impl ApiError {
    /// An error of this status, with the type that belongs to it.
    pub fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, kind: kind_of(status), param: None, code: None, message: message.into(), retry_after: None }
    }

    /// 400: a request that is no request.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400: a field has a wrong type or value.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::bad_request(message).with_param(param).with_code("invalid_value")
    }

    /// 400: a field, or its value, is none that this server honours.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::bad_request(message).with_param(param).with_code("unsupported_value")
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, message)
    }

    /// 503, to be tried again.
    pub fn unavailable(message: impl Into<String>, retry_after: Option<Duration>) -> ApiError {
        ApiError { retry_after, ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// With the field that is wrong.
    pub fn with_param(self, param: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..self }
    }

    /// With a word for programs.
    pub fn with_code(self, code: &'static str) -> ApiError {
        ApiError { code: Some(code), ..self }
    }

    /// The body in OpenAI's shape.
    pub fn body(&self) -> Value {
        let Self { message, kind, param, code, .. } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
    }

    /// The body in Anthropic's shape.
    pub fn anthropic_body(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "api_error",
        };
        let message = match &self.param {
            Some(param) if !self.message.contains(param.as_str()) => format!("{param}: {}", self.message),
            _ => self.message.clone(),
        };
        json!({"type": "error", "error": {"type": kind, "message": message}})
    }
}

/// OpenAI's class of a status.
fn kind_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.body());
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1000).max(1) as u64));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"moesaic\""));
        }
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // What is left of the body must not be taken for a request.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Middleware: errors of routes under `/v1/messages` in Anthropic's shape.
pub(crate) async fn anthropic_shape(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let anthropic = path == "/v1/messages" || path.starts_with("/v1/messages/");
    let mut response = next.run(request).await;
    if anthropic && let Some(error) = response.extensions().get::<ApiError>() {
        let body = error.anthropic_body().to_string();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    response
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> ApiError {
        let message = error.to_string();
        match error {
            SubmitError::QueueFull { retry_after, .. } => ApiError {
                retry_after: Some(retry_after),
                code: Some("queue_full"),
                ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
            },
            SubmitError::TooLong { .. } => ApiError::bad_request(message).with_code("context_length_exceeded"),
            SubmitError::Invalid { field, message } => ApiError::invalid(field, message),
            SubmitError::ShuttingDown => ApiError::unavailable(message, Some(Duration::from_secs(1))),
            SubmitError::DeviceLost(_) => ApiError::unavailable(message, None).with_code("device_lost"),
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> ApiError {
        let message = error.to_string();
        match error {
            RequestError::DeviceLost(_) => ApiError::unavailable(message, None).with_code("device_lost"),
            RequestError::ShuttingDown => ApiError::unavailable(message, Some(Duration::from_secs(1))),
            RequestError::Constraint(_) => ApiError::bad_request(message).with_code("constraint_failed"),
            RequestError::SlowReader(_) => ApiError::new(StatusCode::REQUEST_TIMEOUT, message),
            RequestError::Step(_) | RequestError::Sample(_) => ApiError::internal(message),
        }
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> ApiError {
        let message = error.to_string();
        match error {
            ChatError::Message { index, .. } => ApiError::invalid(format!("messages.{index}"), message),
            ChatError::TooDeep { field } => ApiError::invalid(field, message),
            ChatError::Syntax { .. } => ApiError::internal(message),
            ChatError::Raised { .. } | ChatError::Render { .. } | ChatError::LimitExceeded { .. } => {
                ApiError::invalid("messages", message)
            }
        }
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> ApiError {
        let message = error.to_string();
        match error {
            TextError::UnknownToken { .. } | TextError::Encode { .. } => {
                ApiError::bad_request(message).with_code("invalid_value")
            }
            TextError::Read { .. } | TextError::Invalid { .. } | TextError::Decode { .. } => {
                ApiError::internal(message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_shape_of_either_interface() {
        let error = ApiError::invalid("max_tokens", "expected at least 1");
        let body = json!({"error": {"message": "expected at least 1", "type": "invalid_request_error",
            "param": "max_tokens", "code": "invalid_value"}});
        assert_eq!(error.body(), body);
        let body = json!({"type": "error", "error": {"type": "invalid_request_error",
            "message": "max_tokens: expected at least 1"}});
        assert_eq!(error.anthropic_body(), body);
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let full = SubmitError::QueueFull { waiting: 3, retry_after: Duration::from_millis(1500) };
        let response = ApiError::from(full).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
