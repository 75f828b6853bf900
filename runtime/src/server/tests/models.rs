//! Models that come and go while requests run.

use std::fs;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::harness::{TestServer, options, write_model};
use crate::server::auth::Keys;
use crate::server::models::{ModelOptions, Registry};

/// A long answer, streamed.
fn story(model: &str) -> String {
    json!({"model": model, "prompt": "abc", "max_tokens": 100, "stream": true, "ignore_eos": true, "temperature": 0})
        .to_string()
}

fn loaded(registry: &Registry) -> Vec<String> {
    registry.list().into_iter().filter_map(|(names, model)| model.map(|_| names[0].clone())).collect()
}

/// The bytes that one tiny model reserves.
async fn bytes_of_one() -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::new(options(folder.path(), &["probe"]).models);
    let bytes = registry.get("probe").await.unwrap().service.memory().total();
    registry.shutdown(Duration::ZERO).await;
    bytes
}

/// Room for so many tiny models, and a half.
async fn room_for(models: u64) -> Option<u64> {
    let one = bytes_of_one().await;
    Some(one * models + one / 2)
}

async fn registry(
    folder: &tempfile::TempDir,
    names: &[&str],
    change: impl FnOnce(&mut ModelOptions),
) -> std::sync::Arc<Registry> {
    let mut options = options(folder.path(), names).models;
    change(&mut options);
    Registry::new(options)
}

#[tokio::test]
async fn the_model_unused_longest_makes_room() {
    let (folder, budget) = (tempfile::tempdir().unwrap(), room_for(2).await);
    let registry = registry(&folder, &["a", "b", "c"], |options| options.memory_budget = budget).await;
    for name in ["a", "b"] {
        registry.get(name).await.unwrap();
    }
    assert_eq!(loaded(&registry), ["a", "b"]);
    registry.get("a").await.unwrap();
    registry.get("c").await.unwrap();
    assert_eq!(loaded(&registry), ["a", "c"], "b was unused longest");
    registry.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_model_in_use_is_waited_for_not_unloaded() {
    let (folder, budget) = (tempfile::tempdir().unwrap(), room_for(1).await);
    let registry = registry(&folder, &["a", "b"], |options| options.memory_budget = budget).await;
    let held = registry.get("a").await.unwrap();
    let waiting = tokio::spawn({
        let registry = registry.clone();
        async move { registry.get("b").await }
    });
    // It cannot end while the model is held; half a second would show if it did.
    let early = tokio::time::timeout(Duration::from_millis(500), async {
        while !waiting.is_finished() {
            tokio::task::yield_now().await;
        }
    });
    assert!(early.await.is_err(), "b was loaded beside a");
    assert_eq!(loaded(&registry), ["a"]);
    drop(held);
    assert!(waiting.await.unwrap().is_ok());
    assert_eq!(loaded(&registry), ["b"]);
    registry.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_load_gives_up_where_memory_stays_in_use_or_never_was() {
    let (folder, budget) = (tempfile::tempdir().unwrap(), room_for(1).await);
    let registry = registry(&folder, &["a", "b"], |options| {
        (options.memory_budget, options.wait_for_room) = (budget, Duration::ZERO);
    })
    .await;
    let _held = registry.get("a").await.unwrap();
    let error = registry.get("b").await.err().unwrap();
    assert_eq!((error.status, error.code), (StatusCode::SERVICE_UNAVAILABLE, Some("no_memory")));
    registry.shutdown(Duration::ZERO).await;
    let folder = tempfile::tempdir().unwrap();
    let small = self::registry(&folder, &["a"], |options| options.memory_budget = Some(1000)).await;
    let error = small.get("a").await.err().unwrap();
    assert!(error.message.contains("the memory budget is 1000 B"), "{error}");
}

#[tokio::test]
async fn many_who_want_a_model_share_one_load() {
    let folder = tempfile::tempdir().unwrap();
    let loads = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = loads.clone();
    let registry = registry(&folder, &["a"], |options| {
        options.resolver = Some(std::sync::Arc::new(move |path: &std::path::Path| {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(path.to_path_buf())
        }));
    })
    .await;
    let gets = (0..20).map(|_| registry.get("a"));
    assert!(futures_util::future::join_all(gets).await.iter().all(Result::is_ok));
    assert_eq!(loads.load(std::sync::atomic::Ordering::Relaxed), 1);
    registry.shutdown(Duration::ZERO).await;
    let error = registry.get("a").await.err().unwrap();
    assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE, "a server that ends loads nothing");
}

#[tokio::test]
async fn a_failed_load_is_reported_and_tried_again() {
    let server = TestServer::start_with(&["tiny", "broken"], |_| {}).await;
    let manifest = server.model("broken").join("manifest.json");
    let good = fs::read(&manifest).unwrap();
    fs::write(&manifest, "{").unwrap();
    let answer = server.post("/tokenize", &json!({"model": "broken", "prompt": "a"})).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("model_load_failed"))
    );
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("manifest.json"));
    assert_eq!(server.get("/health").await.status, StatusCode::OK, "the others go on");
    fs::write(&manifest, good).unwrap();
    let answer = server.post("/tokenize", &json!({"model": "broken", "prompt": "a"})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_failure_is_not_tried_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(&folder, &["a"], |options| options.retry_failed = Duration::from_secs(3600)).await;
    fs::remove_file(folder.path().join("a/tokenizer.json")).unwrap();
    assert!(registry.get("a").await.is_err());
    write_model(&folder.path().join("a"));
    assert!(registry.get("a").await.is_err(), "the hour is not over");
    let reloaded = registry.reload("a", None).await.unwrap();
    assert!(!reloaded.waited && registry.get("a").await.is_ok());
    registry.shutdown(Duration::ZERO).await;
}

async fn reload(server: &TestServer, body: &Value) -> (StatusCode, Value) {
    let answer = server.request(Method::POST, "/admin/reload", &[("x-api-key", "admin")], &body.to_string()).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_model_is_replaced_under_load_without_dropping_a_request() {
    let server = TestServer::start_with(&["tiny"], |options| {
        options.keys = Keys::new([], Some("admin"));
        options.models.service.max_waiting = 100;
    })
    .await;
    let expected = server.request(Method::POST, "/v1/completions", &[], &story("tiny")).await;
    assert!(expected.body.ends_with(b"data: [DONE]\n\n"), "{}", expected.text());
    let other = server.folder.path().join("replacement");
    write_model(&other);
    let requests = async {
        let body = story("tiny");
        let one = || server.request(Method::POST, "/v1/completions", &[], &body);
        let answers = futures_util::future::join_all((0..24).map(|_| one())).await;
        for answer in answers {
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            assert_eq!(chunks(&answer.text()), chunks(&expected.text()));
        }
    };
    let reloads = async {
        for path in [Some(&other), None, Some(&server.model("tiny"))] {
            let mut body = json!({"model": "tiny"});
            if let Some(path) = path {
                body["path"] = json!(path);
            }
            let (status, answer) = reload(&server, &body).await;
            assert_eq!((status, &answer["waited"]), (StatusCode::OK, &json!(false)), "{answer}");
        }
    };
    tokio::join!(requests, reloads);
    server.stop().await.unwrap();
}

/// The texts of a stream.
fn chunks(stream: &str) -> String {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let text = |data: &str| {
        let chunk: Value = serde_json::from_str(data).unwrap();
        assert!(chunk.get("error").is_none(), "{chunk}");
        chunk["choices"][0]["text"].as_str().unwrap_or_default().to_string()
    };
    data.map(text).collect()
}

#[tokio::test]
async fn where_memory_holds_one_model_a_replacement_waits_for_its_requests() {
    let budget = room_for(1).await;
    let server = TestServer::start_with(&["tiny"], |options| {
        options.keys = Keys::new([], Some("admin"));
        options.models.memory_budget = budget;
        options.models.wait_for_room = Duration::ZERO;
    })
    .await;
    let running = server.open(Method::POST, "/v1/completions", &[], &story("tiny")).await;
    let body = json!({"model": "tiny"});
    let (answer, rest) = tokio::join!(reload(&server, &body), running.into_body().collect());
    assert_eq!((answer.0, &answer.1["waited"]), (StatusCode::OK, &json!(true)), "{}", answer.1);
    assert!(rest.unwrap().to_bytes().ends_with(b"data: [DONE]\n\n"));
    assert_eq!(server.post("/tokenize", &json!({"prompt": "a"})).await.status, StatusCode::OK);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_replacement_that_cannot_be_loaded_changes_nothing() {
    let server = TestServer::start_with(&["tiny"], |options| options.keys = Keys::new([], Some("admin"))).await;
    let missing = server.folder.path().join("missing");
    let (status, answer) = reload(&server, &json!({"model": "tiny", "path": missing})).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("model_load_failed")));
    assert_eq!(reload(&server, &json!({"model": "none"})).await.0, StatusCode::NOT_FOUND);
    let (status, answer) = reload(&server, &json!({"model": "tiny", "force": true})).await;
    assert_eq!((status, &answer["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("force")));
    assert_eq!(server.post("/tokenize", &json!({"prompt": "a"})).await.status, StatusCode::OK);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_whose_first_model_is_broken_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), &["tiny"]);
    fs::remove_file(folder.path().join("tiny/weights-00001.safetensors")).unwrap();
    let server = crate::server::Server::bind("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    let ended = server.run(tokio_util::sync::CancellationToken::new(), |_| panic!("it is not loaded")).await;
    assert!(ended.err().unwrap().to_string().contains("weights-00001.safetensors"));
}

#[tokio::test]
async fn a_lost_device_shows_in_health_and_comes_back() {
    let server = TestServer::start().await;
    let weights = server.model("tiny").join("weights-00001.safetensors");
    let good = fs::read(&weights).unwrap();
    fs::OpenOptions::new().write(true).open(&weights).unwrap().set_len(100).unwrap();
    let body = json!({"model": "tiny", "prompt": "abc", "max_tokens": 3});
    while server.get("/health").await.status == StatusCode::OK {
        let answer = server.post("/v1/completions", &body).await;
        assert!(answer.status.is_server_error(), "{}", answer.text());
    }
    let (health, ready) = (server.get("/health").await, server.get("/ready").await);
    assert_eq!((health.status, health.json()), (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "lost"})));
    assert_eq!((ready.status, &ready.json()["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("lost")));
    fs::write(&weights, good).unwrap();
    while server.get("/health").await.status != StatusCode::OK {}
    let answer = server.post("/v1/completions", &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    server.stop().await.unwrap();
}
