//! Requests that go to another server, a made-up one on this machine.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::harness::{Answer, TestServer};
use crate::server::upstream::{UpstreamOptions, UpstreamTarget};

/// What the other server does with a request.
#[derive(Clone, Debug)]
enum Act {
    /// Closes the connection.
    HangUp,
    /// Sends these bytes, piece by piece, and closes the connection.
    Send(Vec<&'static str>),
}

/// Another server: what it was sent, and what it will do; at the end of its list, it repeats the last act.
#[derive(Clone)]
struct Other {
    address: SocketAddr,
    acts: Arc<Mutex<VecDeque<Act>>>,
    received: Arc<Mutex<Vec<String>>>,
}

impl Other {
    async fn start(acts: &[Act]) -> Other {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = Other {
            address: listener.local_addr().unwrap(),
            acts: Arc::new(Mutex::new(acts.iter().cloned().collect())),
            received: Arc::default(),
        };
        let running = other.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                running.answer(stream).await;
            }
        });
        other
    }

    async fn answer(&self, mut stream: TcpStream) {
        let Some(request) = read_request(&mut stream).await else { return };
        self.received.lock().unwrap().push(request);
        let act = {
            let mut acts = self.acts.lock().unwrap();
            if acts.len() > 1 { acts.pop_front().unwrap() } else { acts[0].clone() }
        };
        if let Act::Send(pieces) = act {
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    }

    fn received(&self) -> Vec<String> {
        self.received.lock().unwrap().clone()
    }

    fn target(&self, model: Option<&str>, key: Option<&str>) -> UpstreamTarget {
        let url = format!("http://{}/v1", self.address).parse().unwrap();
        UpstreamTarget { url, model: model.map(String::from), key: key.map(String::from) }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
        text.extend_from_slice(&piece[..n]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = whole.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        if body.len() >= length {
            return Some(whole);
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nset-cookie: a=b\r\nx-other: yes\r\ncontent-length: 13\r\n\r\n{\"odd\" : 1.0}";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
const LIMITED: &str = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nwait";
const WRONG: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nwrong";

fn send(text: &'static str) -> Act {
    Act::Send(vec![text])
}

async fn server(targets: Vec<UpstreamTarget>, rules: &[&str]) -> TestServer {
    TestServer::start_with(&["tiny"], |options| {
        options.upstream = UpstreamOptions {
            targets,
            rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
            retries: 2,
            backoff: Duration::from_millis(1),
            timeout: Duration::from_secs(60),
        };
    })
    .await
}

async fn chat(server: &TestServer, fields: Value) -> Answer {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let headers = [("content-type", "application/json"), ("authorization", "Bearer callers-own"), ("cookie", "c=d")];
    server.request(Method::POST, "/v1/chat/completions", &headers, &body.to_string()).await
}

#[tokio::test]
async fn a_request_that_names_the_other_model_goes_there_unchanged() {
    let other = Other::start(&[send(OK)]).await;
    let server = server(vec![other.target(Some("big"), Some("their-key"))], &[]).await;
    let answer = chat(&server, json!({"model": "big", "a_field_unknown_here": 1.50})).await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "{\"odd\" : 1.0}"));
    assert!(answer.headers.contains_key("x-other") && !answer.headers.contains_key("set-cookie"));
    let received = other.received();
    let (head, body) = received[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: Bearer their-key\r\n") && head.contains("via: 1.1 moesaic"), "{head}");
    assert!(!received[0].contains("callers-own") && !head.contains("cookie"), "{head}");
    assert!(body.ends_with("\"a_field_unknown_here\":1.5}"), "{body}");
    assert_eq!(chat(&server, json!({"model": "tiny"})).await.status, StatusCode::OK);
    assert_eq!(chat(&server, json!({"model": "none"})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(other.received().len(), 1, "only what named it went there");
    let models = server.get("/v1/models").await.json();
    assert_eq!((&models["data"][1]["id"], &models["data"][1]["owned_by"]), (&json!("big"), &json!("upstream")));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_stream_is_passed_on_byte_for_byte() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let pieces = ["data: {\"a\"", ":1}\n\n", ": comment\r\n", "data: [DONE]\n\n", "\u{1F600}"];
    let acts = [Act::Send([HEAD].into_iter().chain(pieces).collect())];
    let other = Other::start(&acts).await;
    let server = server(vec![other.target(Some("big"), None)], &[]).await;
    let body = json!({"model": "big", "stream": true}).to_string();
    let stream = server.open(Method::POST, "/v1/responses", &[], &body).await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let bytes = stream.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes, pieces.concat().as_bytes());
    assert!(!other.received()[0].contains("authorization"), "no key was given");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn busy_and_broken_servers_are_tried_again_then_the_next() {
    let first = Other::start(&[send(BUSY), Act::HangUp, send(LIMITED)]).await;
    let second = Other::start(&[send(BUSY), send(OK)]).await;
    let server = server(vec![first.target(Some("big"), Some("one")), second.target(Some("bigger"), None)], &[]).await;
    let answer = chat(&server, json!({"model": "big"})).await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "{\"odd\" : 1.0}"));
    assert_eq!((first.received().len(), second.received().len()), (3, 2));
    assert!(second.received()[0].contains("\"model\":\"bigger\""), "each server is asked for its own model");
    assert!(!second.received()[0].contains("Bearer one"), "and gets no other's key");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn what_no_server_can_answer_is_said_as_it_was() {
    let busy = Other::start(&[send(LIMITED)]).await;
    let server_of_busy = server(vec![busy.target(Some("big"), None)], &[]).await;
    let answer = chat(&server_of_busy, json!({"model": "big"})).await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::TOO_MANY_REQUESTS, "wait"));
    assert_eq!(busy.received().len(), 3);
    server_of_busy.stop().await.unwrap();
    let wrong = Other::start(&[send(WRONG)]).await;
    let server_of_wrong = server(vec![wrong.target(Some("big"), None)], &[]).await;
    let answer = chat(&server_of_wrong, json!({"model": "big"})).await;
    assert_eq!((answer.status, wrong.received().len()), (StatusCode::BAD_REQUEST, 1), "its fault is the caller's");
    server_of_wrong.stop().await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{closed}").parse().unwrap();
    let server = server(vec![UpstreamTarget { url, model: Some("big".into()), key: None }], &[]).await;
    let answer = chat(&server, json!({"model": "big"})).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (StatusCode::BAD_GATEWAY, &json!("upstream_unreachable"))
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn rules_send_what_is_too_long_or_offers_tools() {
    let other = Other::start(&[send(OK)]).await;
    let server = server(vec![other.target(Some("big"), None)], &["context", "tools,tokens>10", "model:gpt-*"]).await;
    let went = async |fields: Value| {
        let before = other.received().len();
        let answer = chat(&server, fields).await;
        let went = other.received().len() > before;
        if went {
            assert_eq!(answer.text(), "{\"odd\" : 1.0}");
            assert!(other.received()[before].contains("\"model\":\"big\""));
        }
        (went, answer.status)
    };
    let messages = |letters: usize| json!([{"role": "user", "content": "a".repeat(letters)}]);
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    assert_eq!(went(json!({"model": "tiny"})).await, (false, StatusCode::OK));
    assert_eq!(went(json!({"model": "tiny", "messages": messages(200)})).await, (true, StatusCode::OK));
    assert_eq!(
        went(json!({"model": "tiny", "messages": messages(90), "max_tokens": 100})).await,
        (true, StatusCode::OK)
    );
    assert_eq!(went(json!({"model": "tiny", "messages": messages(20)})).await, (false, StatusCode::OK));
    assert_eq!(went(json!({"model": "tiny", "messages": messages(50), "tools": tools})).await, (true, StatusCode::OK));
    assert_eq!(went(json!({"model": "gpt-5", "any": "field"})).await, (true, StatusCode::OK));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn two_servers_do_not_send_a_request_to_and_fro() {
    let other = Other::start(&[send(OK)]).await;
    let server = server(vec![other.target(Some("big"), None)], &["model:*"]).await;
    let body = json!({"model": "big", "messages": []}).to_string();
    let answer = server.request(Method::POST, "/v1/chat/completions", &[("via", "1.1 moesaic")], &body).await;
    assert_eq!((answer.status, other.received().len()), (StatusCode::NOT_FOUND, 0), "{}", answer.text());
    server.stop().await.unwrap();
}
