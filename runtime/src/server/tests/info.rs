//! What the server says about itself, and tokens.

use axum::http::{Method, StatusCode, header};
use serde_json::json;

use super::harness::TestServer;

#[tokio::test]
async fn a_server_says_how_it_is() {
    let server = TestServer::start_with(&["tiny", "other"], |options| {
        options.models.models[0].names.push("alias".into());
    })
    .await;
    assert_eq!(server.get("/health").await.json(), json!({"status": "ok"}));
    assert_eq!(server.get("/ready").await.json(), json!({"status": "ok"}));
    assert_eq!(server.get("/version").await.json(), json!({"version": env!("CARGO_PKG_VERSION")}));
    let models = server.get("/v1/models").await.json();
    let ids: Vec<_> = models["data"].as_array().unwrap().iter().map(|card| card["id"].clone()).collect();
    assert_eq!(ids, [json!("tiny"), json!("alias"), json!("other")]);
    let [tiny, other] = [&models["data"][0], &models["data"][2]];
    assert_eq!((&tiny["loaded"], &tiny["max_model_len"]), (&json!(true), &json!(128)));
    assert_eq!((&other["loaded"], &other["max_model_len"]), (&json!(false), &json!(null)));
    assert_eq!(server.get("/v1/models/alias").await.json()["root"], "tiny");
    let answer = server.get("/health").await;
    assert_eq!(answer.headers["x-request-id"].len(), 32);
    let answer = server.request(Method::GET, "/health", &[("x-request-id", "mine")], "").await;
    assert_eq!(answer.headers["x-request-id"], "mine");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn text_and_messages_become_tokens_and_text_again() {
    let server = TestServer::start().await;
    let answer = server.post("/tokenize", &json!({"prompt": "abc a", "return_token_strs": true})).await;
    let expected = json!({"count": 5, "max_model_len": 128, "tokens": [4, 5, 6, 30, 4],
        "token_strs": ["a", "b", "c", " ", "a"]});
    assert_eq!(answer.json(), expected);
    let text = server.post("/detokenize", &json!({"model": "tiny", "tokens": [4, 5, 6, 30, 4]})).await;
    assert_eq!(text.json(), json!({"prompt": "abc a"}));
    let messages = json!([{"role": "user", "content": "hi"}]);
    let count = async |body: serde_json::Value| server.post("/tokenize", &body).await.json()["count"].clone();
    assert_eq!(count(json!({"messages": messages})).await, 5); // "uhi a"
    assert_eq!(count(json!({"messages": messages, "add_generation_prompt": false})).await, 4);
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"prompt": "a", "messages": []}), "prompt"),
        ("/tokenize", json!({"prompt": "a", "tools": []}), "tools"),
        ("/tokenize", json!({"prompt": "a", "nonsense": 1}), "nonsense"),
        ("/tokenize", json!({"messages": [{"content": "a"}]}), "messages.0"),
        ("/detokenize", json!({"tokens": [99999]}), "tokens"),
        ("/detokenize", json!({"tokens": [-1]}), "tokens[0]"),
        ("/detokenize", json!({}), "tokens"),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {}", answer.text());
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    let answer = server.post("/tokenize", &json!({"model": "none", "prompt": "a"})).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    server.stop().await.unwrap();
}

/// A line of the text format: name, labels, value.
fn sample(line: &str) -> (String, f64) {
    let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let bare = name.split('{').next().unwrap();
    assert!(!bare.is_empty() && bare.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c)), "{line}");
    assert!(name == bare || name.ends_with('}'), "{line}");
    (name.to_string(), value.parse().unwrap_or_else(|e| panic!("{e}: {line}")))
}

#[tokio::test]
async fn metrics_can_be_read() {
    let server = TestServer::start().await;
    let body = json!({"model": "tiny", "prompt": "abc", "max_tokens": 5, "ignore_eos": true});
    let answer = server.post("/v1/completions", &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    server.get("/nowhere").await;
    let mut answer = server.get("/metrics").await;
    // A service counts an answer after it has sent its last event.
    while !answer.text().contains("moesaic:e2e_request_latency_seconds_count{model_name=\"tiny\"} 1") {
        answer = server.get("/metrics").await;
    }
    assert!(answer.headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"));
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
    let value = |name: &str| {
        let found = samples.iter().find(|(n, _)| n == name);
        found.unwrap_or_else(|| panic!("{name} is not in\n{text}")).1
    };
    assert_eq!(value("moesaic:prompt_tokens_total{model_name=\"tiny\"}"), 3.0);
    assert_eq!(value("moesaic:generation_tokens_total{model_name=\"tiny\"}"), 5.0);
    assert_eq!(value("moesaic:e2e_request_latency_seconds_count{model_name=\"tiny\"}"), 1.0);
    assert_eq!(value("moesaic:request_success_total{model_name=\"tiny\",finished_reason=\"length\"}"), 1.0);
    assert_eq!(value("moesaic:http_requests_total{handler=\"/v1/completions\",status=\"200\"}"), 1.0);
    assert_eq!(value("moesaic:http_requests_total{handler=\"unknown\",status=\"404\"}"), 1.0);
    for name in [
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "num_preemptions_total",
        "time_to_first_token_seconds_sum",
        "inter_token_latency_seconds_count",
        "request_queue_time_seconds_count",
        "request_prefill_time_seconds_count",
        "request_decode_time_seconds_count",
    ] {
        value(&format!("moesaic:{name}{{model_name=\"tiny\"}}"));
    }
    server.stop().await.unwrap();
}
