//! The server: models over HTTP, in the interfaces of OpenAI and Anthropic.
//!
//! A request passes, from the outside in: the connection's time-outs ([`listen`]), the check of where it comes from
//! (`origin`), that of its key ([`auth`]), the limits of its body (`request`), the rules that may send it to another server
//! ([`upstream`]), and a handler, which takes a model from the registry ([`models`]) and hands tokens to its service. Everything
//! is refused by default that would let strangers in: other addresses than this machine's without a key, other names, other
//! pages.

mod admin;
mod api;
pub mod auth;
mod error;
mod info;
pub mod listen;
mod metrics;
pub mod models;
mod origin;
mod page;
pub mod request;
mod tokens;
pub mod upstream;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;

use auth::Keys;
use error::ApiError;
use listen::{ConnectionLimits, Ending};
use metrics::HttpMetrics;
use models::{ModelOptions, Registry};
use origin::OriginPolicy;
use request::BodyLimits;
use upstream::{Upstream, UpstreamOptions};

/// How a server is made.
#[derive(Clone)]
pub struct ServerOptions {
    /// Its models.
    pub models: ModelOptions,
    /// Keys of callers and of the administrator.
    pub keys: Keys,
    /// Whether anybody who reaches a public address may use it without a key.
    pub allow_unauthenticated: bool,
    /// Names it may be called by, besides those of its address.
    pub allowed_hosts: Vec<String>,
    /// Origins of pages that may call it; `*` for all.
    pub cors_origins: Vec<String>,
    /// Bounds of bodies.
    pub body: BodyLimits,
    /// Bounds of connections.
    pub connections: ConnectionLimits,
    /// Another server for what this one cannot do.
    pub upstream: UpstreamOptions,
    /// How long requests may go on once the server is told to stop.
    pub shutdown_timeout: Duration,
}

impl ServerOptions {
    /// A server of these models with the defaults of everything else.
    pub fn new(models: ModelOptions) -> ServerOptions {
        ServerOptions {
            models,
            keys: Keys::default(),
            allow_unauthenticated: false,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            body: BodyLimits::default(),
            connections: ConnectionLimits::default(),
            upstream: UpstreamOptions::default(),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Anybody could use it.
    #[error(
        "{0} can be reached from other machines: set --api-key, or say --allow-unauthenticated to let everybody in"
    )]
    Unauthenticated(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The upstream cannot be prepared for.
    #[error("--upstream: cannot read this machine's certificates: {0}; install ca-certificates or set SSL_CERT_FILE")]
    Certificates(io::Error),
    /// The first model cannot be loaded.
    #[error("{0}")]
    Model(String),
}

/// What handlers share.
pub(crate) struct App {
    /// The models.
    pub registry: Arc<Registry>,
    /// Answers, counted.
    pub http_metrics: HttpMetrics,
    /// Another server for what this one cannot do.
    pub upstream: Upstream,
    keys: Keys,
    origins: OriginPolicy,
    body_limits: BodyLimits,
}

/// What handlers share; clones are cheap.
#[derive(Clone)]
pub(crate) struct AppState(Arc<App>);

impl Deref for AppState {
    type Target = App;

    fn deref(&self) -> &App {
        &self.0
    }
}

/// The routes of this module for `/openapi.json`.
#[derive(OpenApi)]
#[openapi(paths(
    info::health,
    info::ready,
    info::version,
    info::models,
    info::model,
    metrics::metrics,
    tokens::tokenize,
    tokens::detokenize,
    admin::reload
))]
pub(crate) struct ServerDoc;

/// A server that listens, but does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: AppState,
    connections: ConnectionLimits,
    shutdown_timeout: Duration,
}

impl Server {
    /// Listens on an address.
    ///
    /// # Errors
    /// A public address without a key, or one that cannot be had.
    pub async fn bind(address: SocketAddr, options: ServerOptions) -> Result<Server, ServerError> {
        if !address.ip().is_loopback() && !options.keys.required() && !options.allow_unauthenticated {
            return Err(ServerError::Unauthenticated(address));
        }
        let unavailable = |source| ServerError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(unavailable)?;
        let address = listener.local_addr().map_err(unavailable)?;
        let (hosts, origins) = (&options.allowed_hosts, &options.cors_origins);
        let app = App {
            registry: Registry::new(options.models),
            http_metrics: HttpMetrics::default(),
            upstream: Upstream::new(options.upstream).map_err(ServerError::Certificates)?,
            origins: OriginPolicy::new(address, options.keys.required(), hosts, origins),
            keys: options.keys,
            body_limits: options.body,
        };
        let (connections, shutdown_timeout) = (options.connections, options.shutdown_timeout);
        Ok(Server { listener, address, app: AppState(Arc::new(app)), connections, shutdown_timeout })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `stop` is cancelled; then ends as requests end, or when their time is up. `loaded` is told once the
    /// first model is.
    ///
    /// # Errors
    /// The first model cannot be loaded.
    pub async fn run(self, stop: CancellationToken, loaded: impl FnOnce(&str)) -> Result<(), ServerError> {
        let ending = Ending { stop, ..Ending::default() };
        let router = router(self.app.clone());
        let accepting = tokio::spawn(listen::accept(self.listener, router, self.connections, ending.clone()));
        let started = tokio::select! {
            started = self.app.registry.start() => Some(started),
            () = ending.stop.cancelled() => None,
        };
        let outcome = match started {
            Some(Ok(model)) => {
                loaded(&model.name);
                drop(model);
                ending.stop.cancelled().await;
                Ok(())
            }
            Some(Err(error)) => Err(ServerError::Model(error.message)),
            None => Ok(()),
        };
        ending.stop.cancel();
        // The listener goes with its task: from here on connections are refused.
        let _ = accepting.await;
        self.app.registry.shutdown(self.shutdown_timeout).await;
        ending.connections.close();
        // All requests have ended; what is left is their last bytes.
        let _ = tokio::time::timeout(Duration::from_secs(1), ending.connections.wait()).await;
        ending.abort.cancel();
        ending.connections.wait().await;
        outcome
    }
}

/// All routes behind all checks.
fn router(app: AppState) -> Router {
    let answering = api::routes().layer(from_fn_with_state(app.clone(), upstream::divert));
    let routes = own_routes()
        .merge(answering)
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), request::read_body))
        .layer(from_fn_with_state(app.clone(), auth::authenticate));
    let routes = match app.origins.cors() {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes
        .layer(from_fn_with_state(app.clone(), origin::check_origin))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(error::anthropic_shape))
        .layer(from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

fn own_routes() -> Router<AppState> {
    Router::new()
        .route("/health", get(info::health))
        .route("/ready", get(info::ready))
        .route("/version", get(info::version))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/models", get(info::models))
        .route("/v1/models/{*model}", get(info::model))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/admin/reload", post(admin::reload))
        .merge(page::routes())
}

async fn unknown_route(method: Method, uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is no {method} {}", uri.path())).with_code("unknown_url")
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).with_code("method_not_allowed")
}

fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    // What it was stands on standard error; it may hold parts of a prompt, which do not belong into logs of requests.
    ApiError::internal("the server failed at this request").into_response()
}

/// Middleware: an id, a line in the log and a count for each answer. Neither address nor body of a request is logged.
async fn observe(State(app): State<AppState>, request: Request, next: Next) -> Response {
    const ID: HeaderName = HeaderName::from_static("x-request-id");
    let (method, began) = (request.method().clone(), Instant::now());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    let given = request.headers().get(&ID).filter(|id| id.len() <= 64 && id.to_str().is_ok()).cloned();
    let id = given.or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().simple().to_string()).ok());
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    if let Some(id) = id {
        let (name, time) = (id.to_str().unwrap_or_default(), began.elapsed());
        match route {
            // Asked for every few seconds by machines.
            "/health" | "/ready" | "/metrics" => tracing::debug!(%method, route, status, id = name, ?time, "answered"),
            _ => tracing::info!(%method, route, status, id = name, ?time, "answered"),
        }
        response.headers_mut().entry(ID).or_insert(id);
    }
    app.http_metrics.count(route, status);
    response
}
