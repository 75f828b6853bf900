//! What keeps web pages of strangers away from a server on this machine.
//!
//! A page can make its visitor's browser send requests to a local server, directly or, after its name was made to resolve
//! to the local address, as if from the server's own origin (DNS rebinding). The first shows in `Origin`, the second in
//! `Host`; both are checked before anything else. Other programs send no `Origin`, and the `Host` they were told.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::AppState;
use super::error::ApiError;

/// Under which names a server may be called, and from which pages.
#[derive(Clone, Debug)]
pub(crate) struct OriginPolicy {
    loopback: bool,
    /// Any name will do: the server has a public address and asks for keys, which a page cannot know.
    any_host: bool,
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl OriginPolicy {
    /// The policy of a server bound to `address`; `hosts` and `origins` are allowed besides its own.
    pub fn new(address: SocketAddr, keys_required: bool, hosts: &[String], origins: &[String]) -> OriginPolicy {
        let loopback = address.ip().is_loopback();
        OriginPolicy {
            loopback,
            any_host: !loopback && keys_required && hosts.is_empty(),
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            origins: origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect(),
        }
    }

    fn allows_host(&self, host: &str) -> bool {
        if self.any_host {
            return true;
        }
        let name = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        if name == "localhost" || self.hosts.contains(&name) {
            return true;
        }
        // No name was resolved to get here, so none can have been rebound.
        name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || !self.loopback)
    }

    fn allows_origin(&self, origin: &str, authority: &Authority) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.origins.iter().any(|allowed| allowed == "*" || *allowed == origin) {
            return true;
        }
        let own = authority.as_str().to_ascii_lowercase();
        origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) == Some(&own)
    }

    fn check(&self, request: &Request) -> Result<(), ApiError> {
        let authority = authority(request)?;
        if !self.allows_host(authority.host()) {
            let message =
                format!("this server is not called {:?}; allow the name with --allowed-host", authority.host());
            return Err(ApiError::new(StatusCode::FORBIDDEN, message).with_code("host_not_allowed"));
        }
        for origin in request.headers().get_all(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or("null");
            if !self.allows_origin(origin, &authority) {
                let message = format!("pages of {origin:?} may not call this server; allow them with --cors-origin");
                return Err(ApiError::new(StatusCode::FORBIDDEN, message).with_code("origin_not_allowed"));
            }
        }
        Ok(())
    }

    /// The layer that tells browsers which pages may read answers; `None` where only the server's own may.
    pub fn cors(&self) -> Option<CorsLayer> {
        if self.origins.is_empty() {
            return None;
        }
        let origin = match self.origins.iter().any(|origin| origin == "*") {
            true => AllowOrigin::any(),
            false => AllowOrigin::list(self.origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
        };
        let exposed = [header::RETRY_AFTER, HeaderName::from_static("x-request-id")];
        let layer = CorsLayer::new().allow_origin(origin).allow_methods([Method::GET, Method::POST]);
        Some(layer.allow_headers(AllowHeaders::mirror_request()).expose_headers(exposed))
    }
}

/// The name and port a request was sent to: of its target, as HTTP/2 has it, or of its one `Host` header.
fn authority(request: &Request) -> Result<Authority, ApiError> {
    if let Some(authority) = request.uri().authority() {
        return Ok(authority.clone());
    }
    let malformed = || ApiError::bad_request("the request must have one valid Host header");
    let host = single(request.headers(), header::HOST).ok_or_else(malformed)?;
    let authority: Authority = host.to_str().ok().and_then(|host| host.parse().ok()).ok_or_else(malformed)?;
    if authority.as_str().contains('@') { Err(malformed()) } else { Ok(authority) }
}

fn single(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

/// Middleware: 403 for requests under a strange name or from a strange page.
pub(crate) async fn check_origin(State(app): State<AppState>, request: Request, next: Next) -> Response {
    match app.origins.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn policy(address: &str, keys: bool, hosts: &[&str], origins: &[&str]) -> OriginPolicy {
        let owned = |list: &[&str]| list.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        OriginPolicy::new(address.parse().unwrap(), keys, &owned(hosts), &owned(origins))
    }

    fn allows(policy: &OriginPolicy, host: &str, origin: Option<&str>) -> bool {
        let mut request = Request::builder().uri("/v1/models").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        policy.check(&request.body(Body::empty()).unwrap()).is_ok()
    }

    #[test]
    fn a_local_server_answers_to_local_names() {
        let local = policy("127.0.0.1:8000", false, &["Model.Example"], &[]);
        for host in ["localhost:8000", "LOCALHOST", "127.0.0.1:8000", "[::1]:8000", "model.example", "localhost."] {
            assert!(allows(&local, host, None), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "a@localhost", ""]
        {
            assert!(!allows(&local, host, None), "{host}");
        }
    }

    #[test]
    fn a_public_server_answers_to_its_address_or_with_keys_to_any_name() {
        let open = policy("0.0.0.0:8000", false, &[], &[]);
        assert!(allows(&open, "192.0.2.7:8000", None) && !allows(&open, "box.example:8000", None));
        assert!(allows(&policy("0.0.0.0:8000", true, &[], &[]), "box.example:8000", None));
        let named = policy("0.0.0.0:8000", true, &["box.example"], &[]);
        assert!(allows(&named, "box.example:8000", None) && !allows(&named, "other.example:8000", None));
    }

    #[test]
    fn pages_of_others_are_refused_unless_allowed() {
        let local = policy("127.0.0.1:8000", false, &[], &["https://app.example/"]);
        for origin in ["http://127.0.0.1:8000", "https://app.example"] {
            assert!(allows(&local, "127.0.0.1:8000", Some(origin)), "{origin}");
        }
        for origin in ["null", "http://127.0.0.1:9000", "https://app.example.evil", "http://evil.example", "file://"] {
            assert!(!allows(&local, "127.0.0.1:8000", Some(origin)), "{origin}");
        }
        assert!(local.cors().is_some() && policy("127.0.0.1:8000", false, &[], &[]).cors().is_none());
        assert!(allows(&policy("127.0.0.1:1", false, &[], &["*"]), "localhost", Some("http://evil.example")));
    }
}
