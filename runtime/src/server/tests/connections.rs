//! Peers that do nothing, or too much.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::harness::{TestServer, read_to_end, send};
use crate::server::ServerOptions;

/// Longer than a busy machine keeps a peer of these tests waiting.
const SHORT: Duration = Duration::from_millis(250);
/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(600);

fn limits(options: &mut ServerOptions, header: Duration, idle: Duration, body: Duration) {
    options.connections.header_time = header;
    options.connections.idle_time = idle;
    options.body.time = body;
}

#[tokio::test]
async fn a_peer_that_sends_nothing_or_half_a_header_is_hung_up_on() {
    let server = TestServer::start_with(&["tiny"], |options| limits(options, SHORT, LONG, LONG)).await;
    for sent in ["", "G", "GET /health HTTP/1.1\r\nHost: localh", "PRI * HTTP/2.0\r\n\r\nSM"] {
        let mut stream = server.connect().await;
        send(&mut stream, sent.as_bytes()).await;
        assert_eq!(read_to_end(&mut stream).await, "", "{sent:?}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_connection_may_rest_between_requests_but_not_for_ever() {
    let server = TestServer::start_with(&["tiny"], |options| limits(options, LONG, SHORT, LONG)).await;
    let mut stream = server.connect().await;
    send(&mut stream, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let text = read_to_end(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 200") && !text.contains("connection: close"), "{text}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_body_must_arrive_in_time_and_have_a_decent_size() {
    let server = TestServer::start_with(&["tiny"], |options| {
        limits(options, LONG, LONG, SHORT);
        options.body.bytes = 1000;
    })
    .await;
    let mut stream = server.connect().await;
    send(&mut stream, b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{").await;
    let text = read_to_end(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("body_timeout"), "{text}");
    let answer = server.post("/tokenize", &json!({"prompt": "a".repeat(2000)})).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("body_too_large"))
    );
    let mut stream = server.connect().await;
    let chunked = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    send(&mut stream, chunked.as_bytes()).await;
    send(&mut stream, format!("7d0\r\n{}\r\n", "a".repeat(2000)).as_bytes()).await;
    let text = read_to_end(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 413") && text.contains("request_too_large"), "{text}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn further_connections_wait_for_those_there_are() {
    let server = TestServer::start_with(&["tiny"], |options| {
        limits(options, LONG, LONG, LONG);
        options.connections.connections = 2;
    })
    .await;
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for stream in [&mut first, &mut second] {
        send(stream, request).await;
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    let mut third = server.connect().await;
    send(&mut third, request).await;
    let mut start = [0; 12];
    let early = tokio::time::timeout(SHORT, third.read_exact(&mut start)).await;
    assert!(early.is_err(), "it was answered although two connections are open");
    drop(first);
    third.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn nonsense_is_answered_as_an_error() {
    let server = TestServer::start().await;
    for (method, path, status, code) in [
        (Method::GET, "/nowhere", StatusCode::NOT_FOUND, "unknown_url"),
        (Method::GET, "/tokenize", StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        (Method::DELETE, "/v1/models", StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        (Method::GET, "/v1/models/other", StatusCode::NOT_FOUND, "model_not_found"),
        (Method::GET, "/v1/models/%ff", StatusCode::BAD_REQUEST, "invalid_value"),
    ] {
        let answer = server.request(method.clone(), path, &[], "").await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.json()["error"]["code"], code, "{method} {path}");
        assert_eq!(answer.headers.contains_key("allow"), status == StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
    }
    for body in ["", "{", "[]", "\"", "null", "{\"prompt\": 1}", "{\"prompt\": \"a\"} x"] {
        let answer = server.request(Method::POST, "/tokenize", &[], body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {}", answer.text());
        assert!(answer.json()["error"]["message"].is_string());
    }
    let mut stream = server.connect().await;
    let head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\nConnection: close\r\n\r\n";
    send(&mut stream, &[head.as_bytes(), b"{\"prompt\":\"\xff\"}"].concat()).await;
    let text = read_to_end(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("UTF-8"), "{text}");
    let mut stream = server.connect().await;
    send(&mut stream, b"GET /health HTTP/1.1\r\n\r\n").await;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 400", "no Host header");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn http_2_without_tls_is_spoken() {
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    let server = TestServer::start().await;
    let client: Client<_, String> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let response = client.get(format!("http://{}/health", server.address).parse().unwrap()).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, axum::http::Version::HTTP_2));
    drop(client);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_stops_ends_what_runs_and_takes_nothing_new() {
    let server = TestServer::start().await;
    let body = json!({"model": "tiny", "prompt": "abc", "max_tokens": 40, "stream": true, "ignore_eos": true});
    let stream = server.open(Method::POST, "/v1/completions", &[], &body.to_string()).await;
    let idle = server.connect().await;
    server.tell_to_stop();
    let text = http_body_util::BodyExt::collect(stream.into_body()).await.unwrap().to_bytes();
    assert!(text.ends_with(b"data: [DONE]\n\n"), "{text:?}");
    let address = server.address;
    server.stop().await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    drop(idle);
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_for() {
    use axum::routing::get;
    use tower::ServiceExt;
    async fn fails() -> &'static str {
        panic!("on purpose")
    }
    let layer = tower_http::catch_panic::CatchPanicLayer::custom(crate::server::panicked);
    let router: axum::Router = axum::Router::new().route("/", get(fails)).layer(layer);
    let response = router.oneshot(axum::extract::Request::new(axum::body::Body::empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert!(body.starts_with(b"{\"error\":{\"message\":\"the server failed"), "{body:?}");
}
