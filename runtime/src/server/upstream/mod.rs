//! Another server behind this one, for what this one cannot do.
//!
//! A request goes upstream if it names an upstream's model, or a [`RouteRule`] holds. What the model's name and the tools
//! decide is decided before the request is looked at any further, so that fields this server does not know pass through;
//! what the size of the prompt decides, once it is tokenised ([`Forwarding::by_prompt`]). Nothing of the caller's
//! credentials is passed on.

mod proxy;
mod rules;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::Url;

use super::AppState;
use super::error::ApiError;
use proxy::Proxy;
use rules::{Outline, PromptSize};
pub use rules::{RouteRule, RuleError};

/// A server to send requests to.
#[derive(Clone)]
pub struct UpstreamTarget {
    /// Where its interface is: `https://host/v1`, or without the `/v1`.
    pub url: Url,
    /// Its model; `None` passes the name in the request on.
    pub model: Option<String>,
    /// Its key.
    pub key: Option<String>,
}

impl std::fmt::Debug for UpstreamTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamTarget")
            .field("url", &self.url.as_str())
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// Where requests may go instead, and which do.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// Servers, the preferred one first. Empty: none.
    pub targets: Vec<UpstreamTarget>,
    /// Which requests go there besides those that name a target's model.
    pub rules: Vec<RouteRule>,
    /// Further attempts at a server that cannot be reached or is too busy, before the next one is tried.
    pub retries: u32,
    /// Pause before the first further attempt; each one after doubles it.
    pub backoff: Duration,
    /// Most time until an answer begins.
    pub timeout: Duration,
}

impl Default for UpstreamOptions {
    fn default() -> UpstreamOptions {
        UpstreamOptions {
            targets: Vec::new(),
            rules: Vec::new(),
            retries: 2,
            backoff: Duration::from_millis(250),
            timeout: Duration::from_secs(600),
        }
    }
}

/// The upstream of a server, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upstream(Option<Arc<Configured>>);

#[derive(Debug)]
struct Configured {
    rules: Vec<RouteRule>,
    models: Vec<String>,
    proxy: Proxy,
}

impl Upstream {
    /// Prepares for the servers named.
    ///
    /// # Errors
    /// The certificates of this machine cannot be read.
    pub fn new(options: UpstreamOptions) -> std::io::Result<Upstream> {
        if options.targets.is_empty() {
            return Ok(Upstream(None));
        }
        let models = options.targets.iter().filter_map(|target| target.model.clone()).collect();
        let rules = options.rules.clone();
        Ok(Upstream(Some(Arc::new(Configured { rules, models, proxy: Proxy::new(options)? }))))
    }

    /// Names of models that are served by others.
    pub fn models(&self) -> &[String] {
        self.0.as_ref().map_or(&[], |configured| &configured.models)
    }

    /// What a handler needs to send its request on.
    pub fn forwarding(&self, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Forwarding {
        let Some(upstream) = self.0.clone().filter(|_| !has_been_forwarded(headers)) else { return Forwarding(None) };
        Forwarding(Some(Box::new(Held { upstream, path: path_of(uri), headers: headers.clone(), body })))
    }
}

fn path_of(uri: &Uri) -> String {
    uri.path_and_query().map_or_else(|| uri.path().to_string(), |path| path.as_str().to_string())
}

/// Whether a request has come through a server like this one already: two that name each other as upstream must not send
/// it to and fro.
fn has_been_forwarded(headers: &HeaderMap) -> bool {
    headers.get_all(header::VIA).iter().any(|via| via.to_str().is_ok_and(|via| via.contains(proxy::VIA)))
}

/// A request that may yet go to another server.
#[derive(Debug)]
pub(crate) struct Forwarding(Option<Box<Held>>);

#[derive(Debug)]
struct Held {
    upstream: Arc<Configured>,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Forwarding {
    /// Sends the request on if a rule says so, now that its size is known: tokens of the prompt, of prompt and answer, and of the
    /// longest sequence here. The answer is to be passed on unchanged. `None`: answer it here.
    pub async fn by_prompt(&self, prompt_tokens: u64, total_tokens: u64, max_model_len: u64) -> Option<Response> {
        let held = self.0.as_deref()?;
        let size = PromptSize { prompt_tokens, total_tokens, max_model_len };
        // The rules that need no size did not hold, or the request would not have come here.
        let outline = Outline { model_known: true, ..peek(&held.body)? };
        let goes = held.upstream.rules.iter().any(|rule| rule.holds(&outline, Some(size)) == Some(true));
        if !goes {
            return None;
        }
        Some(held.upstream.proxy.forward(&held.path, &held.headers, &held.body).await)
    }
}

/// Middleware: requests that name an upstream's model, or for which a rule holds whatever their size.
pub(crate) async fn divert(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let Some(upstream) = app.upstream.0.clone() else { return next.run(request).await };
    if request.method() != Method::POST || has_been_forwarded(request.headers()) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, app.body_limits.bytes).await else {
        return ApiError::bad_request("the body ended before it was complete").into_response();
    };
    let goes = peek(&body).is_some_and(|mut outline| {
        outline.model_known = outline.model.is_empty() || app.registry.knows(&outline.model);
        let named = !app.registry.knows(&outline.model) && upstream.models.contains(&outline.model);
        named || upstream.rules.iter().any(|rule| rule.holds(&outline, None) == Some(true))
    });
    if goes {
        return upstream.proxy.forward(&path_of(&parts.uri), &parts.headers, &body).await;
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

/// The fields that rules look at; `None` where the body is no such document, which a handler will say better.
fn peek(body: &[u8]) -> Option<Outline> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(default)]
        model: Option<String>,
        #[serde(default)]
        tools: Option<Vec<IgnoredAny>>,
    }
    let fields: Fields = serde_json::from_slice(body).ok()?;
    let tools = fields.tools.is_some_and(|tools| !tools.is_empty());
    Some(Outline { model: fields.model.unwrap_or_default(), model_known: false, tools })
}
