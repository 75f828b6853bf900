//! What a server says about itself: health, readiness, version, models.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::error::{ApiError, ErrorBody};
use super::models::{ModelHandle, Readiness};

/// A state in a word.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    /// `ok`, `loading`, `draining` or `lost`.
    pub status: &'static str,
    /// Why, where it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The program's version.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    /// As `--version` prints it.
    pub version: &'static str,
}

/// Models by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models; the first answers requests that name none.
    pub data: Vec<ModelCard>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelCard {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When it was loaded, in seconds since 1970; 0 if it is not loaded.
    pub created: u64,
    /// `moesaic`, or `upstream` for a model that another server answers for.
    pub owned_by: &'static str,
    /// The name of the same model in answers.
    pub root: String,
    /// Whether it is loaded now; others are when they are asked for.
    pub loaded: bool,
    /// Longest sequence in tokens; `null` if it is not loaded.
    pub max_model_len: Option<u64>,
}

/// Whether the server's devices work. Needs no key.
#[utoipa::path(get, path = "/health", tag = "server", responses(
    (status = 200, description = "The devices work", body = Status),
    (status = 503, description = "A device is lost", body = Status)))]
pub(crate) async fn health(State(app): State<AppState>) -> Response {
    match app.registry.readiness() {
        Readiness::Lost(_) => (StatusCode::SERVICE_UNAVAILABLE, Json(Status { status: "lost", reason: None })),
        _ => (StatusCode::OK, Json(Status { status: "ok", reason: None })),
    }
    .into_response()
}

/// Whether requests are answered now.
#[utoipa::path(get, path = "/ready", tag = "server", responses(
    (status = 200, description = "Requests are answered", body = Status),
    (status = 503, description = "The server is loading, shutting down or has lost a device", body = Status)))]
pub(crate) async fn ready(State(app): State<AppState>) -> Response {
    let (status, reason) = match app.registry.readiness() {
        Readiness::Ready => return Json(Status { status: "ok", reason: None }).into_response(),
        Readiness::Loading => ("loading", None),
        Readiness::Draining => ("draining", None),
        Readiness::Lost(reason) => ("lost", Some(reason)),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(Status { status, reason })).into_response()
}

/// The program's version.
#[utoipa::path(get, path = "/version", tag = "server", responses(
    (status = 200, description = "The version", body = Version)))]
pub(crate) async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// Every model that requests can name.
#[utoipa::path(get, path = "/v1/models", tag = "models", responses(
    (status = 200, description = "The models", body = ModelList)))]
pub(crate) async fn models(State(app): State<AppState>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: cards(&app) })
}

/// A model by its name.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "models", params(("model" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The model", body = ModelCard),
        (status = 404, description = "There is none of that name", body = ErrorBody)))]
pub(crate) async fn model(
    State(app): State<AppState>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelCard>, ApiError> {
    let Path(name) = name.map_err(|e| ApiError::invalid("model", e.body_text()))?;
    let card = cards(&app).into_iter().find(|card| card.id == name);
    card.map(Json).ok_or_else(|| {
        let message = format!("the model {name:?} does not exist");
        ApiError::not_found(message).with_param("model").with_code("model_not_found")
    })
}

fn cards(app: &AppState) -> Vec<ModelCard> {
    let own = app.registry.list().into_iter().flat_map(|(names, model)| own_cards(names, model.as_ref()));
    let mut cards: Vec<_> = own.collect();
    for name in app.upstream.models() {
        if !cards.iter().any(|card| card.id == *name) {
            cards.push(ModelCard {
                id: name.clone(),
                object: "model",
                created: 0,
                owned_by: "upstream",
                root: name.clone(),
                loaded: true,
                max_model_len: None,
            });
        }
    }
    cards
}

fn own_cards(names: Vec<String>, model: Option<&ModelHandle>) -> Vec<ModelCard> {
    let root = names.first().cloned().unwrap_or_default();
    let card = |id: String| ModelCard {
        id,
        object: "model",
        created: model.map_or(0, |model| model.created),
        owned_by: "moesaic",
        root: root.clone(),
        loaded: model.is_some(),
        max_model_len: model.map(|model| model.max_model_len),
    };
    names.into_iter().map(card).collect()
}
