//! What an administrator can change while a server runs.

use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::error::{ApiError, ErrorBody};
use super::request::JsonBody;

/// A model to be replaced.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReloadRequest {
    /// Its name.
    pub model: String,
    /// The artifact, or model, to load; what is at the old path now where none is named.
    #[schema(value_type = Option<String>)]
    pub path: Option<PathBuf>,
}

/// What was replaced.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReloadResponse {
    /// The model.
    pub model: String,
    /// Where it was loaded from.
    pub path: String,
    /// Whether requests had to wait meanwhile, for memory did not hold the old and the new one.
    pub waited: bool,
}

/// Loads a model again, or another in its place. Requests that run end on the old one; none is dropped. Needs the admin key.
#[utoipa::path(post, path = "/admin/reload", tag = "server", request_body = ReloadRequest, responses(
    (status = 200, description = "The model was replaced", body = ReloadResponse),
    (status = 400, description = "A field is wrong", body = ErrorBody),
    (status = 401, description = "The admin key is missing or wrong", body = ErrorBody),
    (status = 403, description = "The server has no admin key", body = ErrorBody),
    (status = 404, description = "The model does not exist", body = ErrorBody),
    (status = 503, description = "The new one cannot be loaded; the old one stays", body = ErrorBody)))]
pub(crate) async fn reload(
    State(app): State<AppState>,
    JsonBody(request): JsonBody<ReloadRequest>,
) -> Result<Json<ReloadResponse>, ApiError> {
    let done = app.registry.reload(&request.model, request.path).await?;
    Ok(Json(ReloadResponse { model: done.model, path: done.path.display().to_string(), waited: done.waited }))
}
