//! Sends a request to the first of several servers that answers.
//!
//! An attempt that cannot connect, or is answered 429, 502, 503 or 504, is repeated after a pause, then the next server is
//! tried; so is one whose answer breaks off before its first byte. From the first byte on the caller sees what the server sends, byte
//! for byte: a half-sent answer cannot be taken back.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use http_body_util::{BodyExt, BodyStream, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use url::Url;

use super::{UpstreamOptions, UpstreamTarget};
use crate::server::error::ApiError;

/// What this server calls itself to the next.
pub(super) const VIA: &str = "moesaic";

/// Longest pause between attempts, whatever a server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Headers of a request that are passed on; credentials are not among them.
const PASSED: [HeaderName; 2] = [header::CONTENT_TYPE, header::ACCEPT];
const PASSED_BY_NAME: [&str; 4] = ["anthropic-version", "anthropic-beta", "openai-beta", "x-request-id"];

/// Headers of an answer that concern one connection, or this server's relation to browsers.
const KEPT_BACK: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "set-cookie",
    "www-authenticate",
    "alt-svc",
];

type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The servers and a pool of connections to them.
#[derive(Debug)]
pub(super) struct Proxy {
    client: HttpsClient,
    options: UpstreamOptions,
}

/// Why an attempt gave no answer to pass on.
enum Failed {
    /// No connection, or none that held.
    Unreachable(String),
    /// An answer that asks for another attempt.
    Busy(Box<Response>, Option<Duration>),
}

impl Proxy {
    pub fn new(options: UpstreamOptions) -> std::io::Result<Proxy> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(options.timeout.min(Duration::from_secs(10))));
        let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_all_versions();
        let client = Client::builder(TokioExecutor::new()).build(connector.wrap_connector(http));
        Ok(Proxy { client, options })
    }

    /// The answer of the first server that gives one; else the last refusal, or 502.
    pub async fn forward(&self, path: &str, headers: &HeaderMap, body: &Bytes) -> Response {
        let mut last = None;
        for target in &self.options.targets {
            for attempt in 0..=self.options.retries {
                let failed = match self.attempt(target, path, headers, body).await {
                    Ok(response) => return response,
                    Err(failed) => failed,
                };
                let asked = match &failed {
                    Failed::Busy(_, asked) => *asked,
                    Failed::Unreachable(_) => None,
                };
                tracing::warn!(host = target.url.host_str(), attempt, "upstream: {}", failed.reason());
                last = Some(failed);
                if attempt < self.options.retries {
                    tokio::time::sleep(self.pause(attempt, asked)).await;
                }
            }
        }
        match last {
            Some(Failed::Busy(response, _)) => *response,
            Some(Failed::Unreachable(reason)) => bad_gateway(&reason),
            None => bad_gateway("there is none"),
        }
    }

    /// The pause after an attempt: twice as long after each, and at least what the server asked for, within reason.
    fn pause(&self, attempt: u32, asked: Option<Duration>) -> Duration {
        let doubled = self.options.backoff.saturating_mul(2u32.saturating_pow(attempt));
        doubled.max(asked.unwrap_or_default()).min(LONGEST_PAUSE)
    }

    async fn attempt(
        &self,
        target: &UpstreamTarget,
        path: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Failed> {
        let request = request_to(target, path, headers, body)?;
        let unreachable = |reason: String| Failed::Unreachable(reason);
        let answered = tokio::time::timeout(self.options.timeout, async {
            let response = self.client.request(request).await.map_err(|e| unreachable(e.to_string()))?;
            let (parts, body) = response.into_parts();
            Ok((parts.status, parts.headers, first_byte(body).await?))
        });
        let (status, headers, body) =
            answered.await.map_err(|_| unreachable(format!("no answer within {:?}", self.options.timeout)))??;
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = passed_back(&headers);
        let busy = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        if busy.contains(&status) {
            let asked = headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
            return Err(Failed::Busy(Box::new(response), asked.map(Duration::from_secs)));
        }
        Ok(response)
    }
}

impl Failed {
    fn reason(&self) -> String {
        match self {
            Failed::Unreachable(reason) => reason.clone(),
            Failed::Busy(response, _) => format!("answered {}", response.status()),
        }
    }
}

fn bad_gateway(reason: &str) -> Response {
    let message = format!("the upstream server cannot be reached: {reason}");
    ApiError::new(StatusCode::BAD_GATEWAY, message).with_code("upstream_unreachable").into_response()
}

/// A body whose first bytes have arrived.
async fn first_byte(mut body: Incoming) -> Result<Body, Failed> {
    let first = loop {
        match body.frame().await {
            None => return Ok(Body::empty()),
            Some(Err(error)) => return Err(Failed::Unreachable(error.to_string())),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    break data;
                }
            }
        }
    };
    let rest =
        BodyStream::new(body).filter_map(|frame| async { frame.map(|frame| frame.into_data().ok()).transpose() });
    Ok(Body::from_stream(stream::once(async { Ok(first) }).chain(rest)))
}

fn request_to(
    target: &UpstreamTarget,
    path: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Request<Full<Bytes>>, Failed> {
    let body = with_model(body, target.model.as_deref());
    let mut request = Request::builder().method(Method::POST).uri(join(&target.url, path));
    for (name, value) in headers {
        if PASSED.contains(name) || PASSED_BY_NAME.contains(&name.as_str()) {
            request = request.header(name, value);
        }
    }
    request = request.header(header::VIA, HeaderValue::from_static("1.1 moesaic"));
    if let Some(key) = &target.key {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| Failed::Unreachable("its key has characters that no header may have".into()))?;
        bearer.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, bearer.clone());
        if path.starts_with("/v1/messages") {
            let mut plain = HeaderValue::from_str(key).unwrap_or(bearer);
            plain.set_sensitive(true);
            request = request.header("x-api-key", plain);
        }
    }
    request.body(Full::new(body)).map_err(|e| Failed::Unreachable(e.to_string()))
}

/// The address of `path` at a server whose address may end in `/v1`, as those of OpenAI's clients do.
fn join(base: &Url, path: &str) -> String {
    let base = base.as_str().trim_end_matches('/');
    format!("{}{path}", base.strip_suffix("/v1").unwrap_or(base))
}

/// The body for another model; unchanged where it names that already, or is no object.
fn with_model(body: &Bytes, model: Option<&str>) -> Bytes {
    let Some(model) = model else { return body.clone() };
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_slice(body) else { return body.clone() };
    if fields.get("model").and_then(|name| name.as_str()) == Some(model) {
        return body.clone();
    }
    fields.insert("model".into(), model.into());
    Bytes::from(serde_json::Value::Object(fields).to_string())
}

fn passed_back(headers: &HeaderMap) -> HeaderMap {
    let kept_back = |name: &str| KEPT_BACK.contains(&name) || name.starts_with("access-control-");
    headers.iter().filter(|(name, _)| !kept_back(name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_end_in_v1() {
        for base in ["http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/"] {
            assert_eq!(join(&base.parse().unwrap(), "/v1/completions"), "http://host:1/v1/completions", "{base}");
        }
        let nested = "https://host/openai/v1".parse().unwrap();
        assert_eq!(join(&nested, "/v1/responses"), "https://host/openai/v1/responses");
    }

    #[test]
    fn only_the_name_of_the_model_is_replaced() {
        let body = Bytes::from_static(br#"{"b":1.5,"model":"here","a":[ ]}"#);
        assert_eq!(with_model(&body, Some("there")), r#"{"b":1.5,"model":"there","a":[]}"#);
        assert_eq!(with_model(&body, Some("here")), body);
        assert_eq!(with_model(&body, None), body);
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let options = UpstreamOptions { backoff: Duration::from_secs(3), ..UpstreamOptions::default() };
        let Ok(proxy) = Proxy::new(options) else { return };
        let pauses = [0, 1, 2, 9].map(|attempt| proxy.pause(attempt, None).as_secs());
        assert_eq!(pauses, [3, 6, 12, 20]);
        assert_eq!(proxy.pause(0, Some(Duration::from_secs(5))).as_secs(), 5);
        assert_eq!(proxy.pause(0, Some(Duration::from_secs(500))).as_secs(), 20);
    }
}
