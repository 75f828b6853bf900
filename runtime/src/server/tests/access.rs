//! Who is let in, and from where.

use axum::http::{Method, StatusCode, header};
use serde_json::json;

use super::harness::{TestServer, options};
use crate::server::auth::Keys;
use crate::server::{Server, ServerError};

/// Every route, and some that are none.
const ROUTES: &[(Method, &str)] = &[
    (Method::GET, "/"),
    (Method::GET, "/ready"),
    (Method::GET, "/version"),
    (Method::GET, "/metrics"),
    (Method::GET, "/openapi.json"),
    (Method::GET, "/v1/models"),
    (Method::GET, "/v1/models/tiny"),
    (Method::POST, "/v1/chat/completions"),
    (Method::POST, "/v1/completions"),
    (Method::POST, "/v1/responses"),
    (Method::POST, "/v1/messages"),
    (Method::POST, "/v1/messages/count_tokens"),
    (Method::POST, "/v1/embeddings"),
    (Method::POST, "/tokenize"),
    (Method::POST, "/detokenize"),
    (Method::POST, "/admin/reload"),
    (Method::GET, "/admin/reload"),
    (Method::GET, "/no/such/route"),
    (Method::PUT, "/v1/chat/completions"),
    (Method::OPTIONS, "/v1/chat/completions"),
    (Method::GET, "/health/"),
    (Method::GET, "//health"),
    (Method::GET, "/health/../metrics"),
    (Method::GET, "/%68ealth"),
];

#[tokio::test]
async fn no_route_but_health_answers_without_the_right_key() {
    let server =
        TestServer::start_with(&["tiny"], |options| options.keys = Keys::new(["right", "second"], Some("admin"))).await;
    let wrong: [&[(&str, &str)]; 5] = [
        &[],
        &[("authorization", "Bearer wrong")],
        &[("x-api-key", "righ")],
        &[("authorization", "right")],
        &[("authorization", "Basic cmlnaHQ=")],
    ];
    for (method, path) in ROUTES {
        for headers in wrong {
            let answer = server.request(method.clone(), path, headers, "{}").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path} {headers:?}");
            assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"moesaic\"");
            let error = &answer.json()["error"];
            assert_eq!(error["type"], "authentication_error", "{method} {path}");
        }
        let admin = path.starts_with("/admin");
        for key in ["right", "second", "admin"] {
            let answer = server.request(method.clone(), path, &[("x-api-key", key)], "{}").await;
            let refused = answer.status == StatusCode::UNAUTHORIZED;
            assert_eq!(refused, admin != (key == "admin"), "{method} {path} {key}: {}", answer.status);
            assert!(!answer.status.is_server_error(), "{method} {path}: {}", answer.text());
        }
    }
    assert_eq!(server.get("/health").await.status, StatusCode::OK);
    let page = server.request(Method::GET, "/", &[("accept", "text/html,*/*")], "").await;
    assert!(page.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic "));
    let page = server.request(Method::GET, "/", &[("authorization", "Basic eDpyaWdodA==")], "").await;
    assert_eq!(page.status, StatusCode::OK);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn errors_of_messages_have_the_other_shape() {
    let server = TestServer::start_with(&["tiny"], |options| options.keys = Keys::new(["right"], None)).await;
    let answer = server.post("/v1/messages", &json!({})).await;
    let body = answer.json();
    assert_eq!((answer.status, &body["type"]), (StatusCode::UNAUTHORIZED, &json!("error")));
    assert_eq!(body["error"]["type"], "authentication_error");
    let answer = server.request(Method::GET, "/v1/messages", &[("x-api-key", "right")], "").await;
    assert_eq!((answer.status, &answer.json()["type"]), (StatusCode::METHOD_NOT_ALLOWED, &json!("error")));
    let length: usize = answer.headers[header::CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
    assert_eq!(length, answer.body.len());
    let answer = server.request(Method::POST, "/admin/reload", &[("x-api-key", "right")], "{}").await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (StatusCode::FORBIDDEN, &json!("admin_disabled")));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn strange_names_and_pages_are_refused() {
    let server = TestServer::start_with(&["tiny"], |options| {
        options.allowed_hosts = vec!["model.example".into()];
        options.cors_origins = vec!["https://app.example".into()];
    })
    .await;
    let status = async |headers: &[(&str, &str)]| server.request(Method::GET, "/v1/models", headers, "").await.status;
    assert_eq!(status(&[("host", "localhost")]).await, StatusCode::OK);
    assert_eq!(status(&[("host", "model.example:80")]).await, StatusCode::OK);
    assert_eq!(status(&[("host", "evil.example")]).await, StatusCode::FORBIDDEN);
    assert_eq!(status(&[("origin", "http://evil.example")]).await, StatusCode::FORBIDDEN);
    assert_eq!(status(&[("origin", "null")]).await, StatusCode::FORBIDDEN);
    let own = format!("http://{}", server.address);
    assert_eq!(status(&[("origin", &own)]).await, StatusCode::OK);
    let answer = server.request(Method::GET, "/v1/models", &[("origin", "https://app.example")], "").await;
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
    let preflight = [("origin", "https://app.example"), ("access-control-request-method", "POST")];
    let answer = server.request(Method::OPTIONS, "/v1/chat/completions", &preflight, "").await;
    assert_eq!(answer.status, StatusCode::OK);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn without_origins_no_page_may_read_answers() {
    let server = TestServer::start().await;
    let own = format!("http://{}", server.address);
    let answer = server.request(Method::GET, "/v1/models", &[("origin", &own)], "").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{:?}", answer.headers);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_public_address_needs_a_key_or_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let public = "0.0.0.0:0".parse().unwrap();
    let refused = Server::bind(public, options(folder.path(), &["tiny"])).await.err().unwrap();
    assert!(matches!(refused, ServerError::Unauthenticated(_)) && refused.to_string().contains("--api-key"));
    let mut open = options(folder.path(), &["tiny"]);
    open.allow_unauthenticated = true;
    assert!(Server::bind(public, open).await.is_ok());
    let mut keyed = options(folder.path(), &["tiny"]);
    keyed.keys = Keys::new(["key"], None);
    assert!(Server::bind(public, keyed).await.is_ok());
    let mut admin_only = options(folder.path(), &["tiny"]);
    admin_only.keys = Keys::new([], Some("admin"));
    assert!(Server::bind(public, admin_only).await.is_err(), "an admin key does not keep callers out");
}
