//! Bodies of requests: read whole before a handler runs, within a size and a time, then parsed with the path of what is wrong.
//!
//! Every request of the interface is one JSON document that must be complete before anything can be done, so reading it
//! up front costs nothing and gives one place for limits.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::AppState;
use super::error::ApiError;
use super::upstream::Forwarding;

/// Bounds of what a request may send.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Most bytes.
    pub bytes: usize,
    /// Most time from the end of the headers to that of the body.
    pub time: Duration,
}

impl Default for BodyLimits {
    fn default() -> BodyLimits {
        BodyLimits { bytes: 16 << 20, time: Duration::from_secs(60) }
    }
}

/// Middleware: reads the body.
pub(crate) async fn read_body(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match collect(body, app.body_limits).await {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(error) => error.into_response(),
    }
}

async fn collect(body: Body, limits: BodyLimits) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(limits.time, Limited::new(body, limits.bytes).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body is longer than the {} bytes that --max-body-size allows", limits.bytes);
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).with_code("body_too_large"))
        }
        Ok(Err(_)) => Err(ApiError::bad_request("the body ended before it was complete")),
        Err(_) => {
            let message = format!("the body took longer than {:?} to arrive", limits.time);
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message).with_code("body_timeout"))
        }
    }
}

/// Parses a document.
///
/// # Errors
/// 400, with the path of the field that is wrong.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| ApiError::bad_request(format!("the body is no UTF-8 from byte {} on", e.valid_up_to())))?;
    if text.trim().is_empty() {
        return Err(ApiError::bad_request("the body is empty; expected a JSON object").with_code("invalid_json"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| describe(&e))?;
    deserializer
        .end()
        .map_err(|e| ApiError::bad_request(format!("the body is no JSON: {e}")).with_code("invalid_json"))?;
    Ok(parsed)
}

fn describe(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let message = error.inner().to_string();
    if !error.inner().is_data() {
        return ApiError::bad_request(format!("the body is no JSON: {message}")).with_code("invalid_json");
    }
    // Place in the text, which says less than the path.
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(text, _)| text);
    let path = error.path().to_string();
    let parent = if path == "." { String::new() } else { path };
    let named = |prefix: &str| Some(message.strip_prefix(prefix)?.split_once('`')?.0.to_string());
    let (field, code) = match (named("missing field `"), named("unknown field `")) {
        (Some(field), _) => (Some(field), "missing_required_parameter"),
        (_, Some(field)) => (Some(field), "unknown_parameter"),
        _ => (None, "invalid_type"),
    };
    let param = match field {
        Some(field) if parent.is_empty() => field,
        Some(field) if parent != field && !parent.ends_with(&format!(".{field}")) => format!("{parent}.{field}"),
        _ => parent,
    };
    let error = ApiError::bad_request(message).with_code(code);
    if param.is_empty() { error } else { error.with_param(param) }
}

/// Extractor: a JSON document.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> Result<JsonBody<T>, ApiError> {
        JsonRequest::from_request(request, app).await.map(|request| JsonBody(request.body))
    }
}

/// Extractor: a JSON document, and how its request can be sent on to another server.
#[derive(Debug)]
pub(crate) struct JsonRequest<T> {
    /// The document.
    pub body: T,
    /// Where the request may go instead.
    pub forwarding: Forwarding,
}

impl<T: DeserializeOwned> FromRequest<AppState> for JsonRequest<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> Result<JsonRequest<T>, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = collect(body, app.body_limits).await?;
        let body = parse(&bytes)?;
        let headers: HeaderMap = parts.headers;
        Ok(JsonRequest { body, forwarding: app.upstream.forwarding(&parts.uri, &headers, bytes) })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Document {
        model: String,
        #[serde(default)]
        messages: Vec<Message>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Message {
        role: String,
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let param = |text: &str| {
            let error = parse::<Document>(text.as_bytes()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
            (error.param.unwrap_or_default(), error.code.unwrap_or_default())
        };
        assert_eq!(param(r#"{"model": 3}"#), ("model".into(), "invalid_type"));
        assert_eq!(param(r#"{}"#), ("model".into(), "missing_required_parameter"));
        assert_eq!(param(r#"{"model": "a", "x": 1}"#), ("x".into(), "unknown_parameter"));
        let nested = |message: &str| format!(r#"{{"model": "a", "messages": [{{"role": "user"}}, {message}]}}"#);
        assert_eq!(param(&nested(r#"{}"#)), ("messages[1].role".into(), "missing_required_parameter"));
        assert_eq!(param(&nested(r#"{"role": null}"#)), ("messages[1].role".into(), "invalid_type"));
        assert_eq!(param(&nested(r#"{"role": "a", "y": 1}"#)), ("messages[1].y".into(), "unknown_parameter"));
        for text in ["", " ", "{", r#"{"model": "a"} {}"#, "[1", "nul", "\u{0}", &"[".repeat(100_000)] {
            let (param, code) = param(text);
            assert!(param.is_empty() && code == "invalid_json" || code == "invalid_type", "{text:.20}: {code}");
        }
        assert!(parse::<Document>(b"{\"model\": \"\xff\"}").unwrap_err().message.contains("UTF-8 from byte 11"));
    }
}
