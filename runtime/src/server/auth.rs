//! Who may call, and whose caches a caller shares.
//!
//! A key is compared as a hash, in constant time and against every key, so that neither its length nor how much of it is
//! right shows in the time an answer takes. Programs send it as `Authorization: Bearer` or `x-api-key`; a browser, which
//! can send neither with its first request, as the password of `Authorization: Basic` under any user name.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use subtle::{Choice, ConstantTimeEq};

use super::AppState;
use super::error::ApiError;
use crate::kv::salt::CacheSalt;

/// The keys that open a server: those of callers, and that of whoever administers it, which opens `/admin` only.
#[derive(Clone, Default)]
pub struct Keys {
    callers: Vec<[u8; 32]>,
    admin: Option<[u8; 32]>,
}

impl Keys {
    /// Keys of callers, none for a server open to all; and that of the administrator, without which `/admin` is closed.
    pub fn new<'a>(callers: impl IntoIterator<Item = &'a str>, admin: Option<&str>) -> Keys {
        Keys { callers: callers.into_iter().map(digest).collect(), admin: admin.map(digest) }
    }

    /// Whether callers need a key.
    pub fn required(&self) -> bool {
        !self.callers.is_empty()
    }

    fn admits(&self, key: &str) -> bool {
        let key = digest(key);
        let equal = self.callers.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&key));
        equal.into()
    }

    fn is_admin(&self, key: &str) -> bool {
        let key = digest(key);
        self.admin.is_some_and(|known| known.ct_eq(&key).into())
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("callers", &self.callers.len()).finish_non_exhaustive()
    }
}

fn digest(key: &str) -> [u8; 32] {
    blake3::hash(key.as_bytes()).into()
}

/// Whoever sent a request that was let in.
#[derive(Clone, Default)]
pub(crate) struct Caller {
    key: Option<Arc<str>>,
}

impl Caller {
    /// Whose cached prefixes the caller may use, with the salt of its request where there is one.
    pub fn salt(&self, cache_salt: Option<&str>) -> CacheSalt {
        CacheSalt::new(self.key.as_deref(), cache_salt)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Infallible> {
        Ok(parts.extensions.get::<Caller>().cloned().unwrap_or_default())
    }
}

/// Middleware: lets requests in that have a key, if one is needed. `/health` needs none.
pub(crate) async fn authenticate(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path == "/health" {
        return next.run(request).await;
    }
    let admin = path == "/admin" || path.starts_with("/admin/");
    let caller = if admin { admit_admin(&app.keys, request.headers()) } else { admit(&app.keys, request.headers()) };
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => refuse(error, request.headers()),
    }
}

fn refuse(error: ApiError, headers: &HeaderMap) -> Response {
    let mut response = error.into_response();
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if response.status() == StatusCode::UNAUTHORIZED && accepts.contains("text/html") {
        let scheme = HeaderValue::from_static("Basic realm=\"moesaic\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

fn admit(keys: &Keys, headers: &HeaderMap) -> Result<Caller, ApiError> {
    if !keys.required() {
        return Ok(Caller::default());
    }
    let presented = presented_keys(headers);
    match presented.iter().find(|key| keys.admits(key)) {
        Some(key) => Ok(Caller { key: Some(key.as_str().into()) }),
        None if presented.is_empty() => Err(missing("an API key")),
        None => Err(wrong("API key")),
    }
}

fn admit_admin(keys: &Keys, headers: &HeaderMap) -> Result<Caller, ApiError> {
    if keys.admin.is_none() {
        // Callers without a key learn nothing but that they need one.
        admit(keys, headers)?;
        let message = "administration is off; start the server with --admin-key";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message).with_code("admin_disabled"));
    }
    let presented = presented_keys(headers);
    match presented.iter().any(|key| keys.is_admin(key)) {
        true => Ok(Caller::default()),
        false if presented.is_empty() => Err(missing("the admin key")),
        false => Err(wrong("admin key")),
    }
}

fn missing(what: &str) -> ApiError {
    let message = format!("{what} is needed: send it as Authorization: Bearer KEY, or x-api-key: KEY");
    ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("missing_api_key")
}

fn wrong(what: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, format!("incorrect {what}")).with_code("invalid_api_key")
}

/// All keys in a request's headers.
fn presented_keys(headers: &HeaderMap) -> Vec<String> {
    let authorization = headers.get_all(header::AUTHORIZATION).iter().filter_map(credential);
    let plain = headers.get_all("x-api-key").iter().filter_map(|value| Some(value.to_str().ok()?.trim().to_string()));
    authorization.chain(plain).collect()
}

fn credential(value: &HeaderValue) -> Option<String> {
    let (scheme, rest) = value.to_str().ok()?.trim().split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_string());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(password.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn keys_come_in_three_spellings() {
        let keys = Keys::new(["alpha", "beta"], None);
        for (name, value) in [
            ("authorization", "Bearer alpha"),
            ("authorization", "bearer  beta"),
            ("x-api-key", "alpha"),
            ("authorization", "Basic eDphbHBoYQ=="), // x:alpha
        ] {
            assert!(admit(&keys, &headers(&[(name, value)])).is_ok(), "{name}: {value}");
        }
        assert!(admit(&keys, &headers(&[("authorization", "Bearer no"), ("x-api-key", "beta")])).is_ok());
        for (name, value) in [
            ("authorization", "alpha"),
            ("authorization", "Bearer alphabet"),
            ("authorization", "Bearer "),
            ("authorization", "Bearer alph"),
            ("authorization", "Basic alpha"),
            ("authorization", "Basic YWxwaGE="), // alpha, without a user
            ("x-api-key", ""),
            ("x-api-key", "ALPHA"),
        ] {
            let error = admit(&keys, &headers(&[(name, value)])).err().unwrap();
            assert_eq!(error.status, StatusCode::UNAUTHORIZED, "{name}: {value}");
        }
    }

    #[test]
    fn each_key_has_caches_of_its_own() {
        let keys = Keys::new(["alpha", "beta"], None);
        let salt = |key: &str| admit(&keys, &headers(&[("x-api-key", key)])).unwrap().salt(None);
        assert_ne!(salt("alpha"), salt("beta"));
        assert_eq!(salt("alpha"), CacheSalt::new(Some("alpha"), None));
        let open = admit(&Keys::default(), &headers(&[("authorization", "Bearer anything")])).unwrap();
        assert_eq!(open.salt(None), CacheSalt::PUBLIC);
    }

    #[test]
    fn the_admin_key_is_another() {
        let keys = Keys::new(["alpha"], Some("root"));
        assert!(admit_admin(&keys, &headers(&[("x-api-key", "root")])).is_ok());
        assert!(admit_admin(&keys, &headers(&[("x-api-key", "alpha")])).is_err());
        assert!(admit(&keys, &headers(&[("x-api-key", "root")])).is_err());
        let off = admit_admin(&Keys::default(), &headers(&[])).err().unwrap();
        assert_eq!(off.status, StatusCode::FORBIDDEN);
    }
}
