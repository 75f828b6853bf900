//! The chat page at `/`: one response that needs nothing else.
//!
//! Markup, style and scripts are put together with a fresh nonce for each response, so that the content security policy can
//! forbid everything but them: no other script runs, nothing is loaded from anywhere, and requests go to this server only.
//! The page knows no secret; it uses the same interface as any client.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

const MARKUP: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// In the order in which they need each other.
const SCRIPTS: [&str; 3] = [include_str!("markdown.js"), include_str!("client.js"), include_str!("page.js")];

/// The route of the page.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/", get(page))
}

/// The page.
pub async fn page() -> Response {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers: [(HeaderName, String); 6] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".into()),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
        (header::REFERRER_POLICY, "no-referrer".into()),
        (header::CACHE_CONTROL, "no-store".into()),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin".into()),
    ];
    let mut response = document(&nonce).into_response();
    for (name, value) in headers {
        // All of them are ASCII: words of ours and a number.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn document(nonce: &str) -> String {
    let scripts: String = SCRIPTS.iter().map(|s| format!("(() => {{\n{s}\n}})();\n")).collect();
    let style = format!("<style nonce=\"{nonce}\">\n{STYLE}</style>");
    let script = format!("<script nonce=\"{nonce}\">\n\"use strict\";\n{scripts}</script>");
    MARKUP.replace("<!-- style -->", &style).replace("<!-- script -->", &script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use axum::http::Request;
    use tower::ServiceExt;

    async fn fetch() -> (String, String) {
        let request = Request::get("/").body(axum::body::Body::empty()).expect("a request");
        let response = routes::<()>().with_state(()).oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), 200);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("ASCII").to_owned();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (policy, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_page_allows_itself_and_nothing_else() {
        let (policy, body) = fetch().await;
        let nonce = policy.split("script-src 'nonce-").nth(1).and_then(|p| p.split('\'').next()).expect("a nonce");
        assert_eq!(body.matches("<script").count(), body.matches(&format!("<script nonce=\"{nonce}\"")).count());
        assert_eq!(body.matches("<style").count(), body.matches(&format!("<style nonce=\"{nonce}\"")).count());
        assert!(!policy.contains("unsafe") && !policy.contains('*') && policy.starts_with("default-src 'none'"));
        assert_ne!(fetch().await.0, policy, "each response has a nonce of its own");
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_no_text_becomes_markup() {
        let document = document("x");
        for forbidden in [
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            " style=\"",
            " onclick",
            "src=",
            "@import",
        ] {
            assert!(!document.contains(forbidden), "{forbidden}");
        }
        assert!(!document.contains("<!-- s"), "every part is in its place");
    }
}
