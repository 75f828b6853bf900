//! The generating endpoints over loopback, with a tiny model whose words mean nothing: what is tested is that every way to ask
//! for an answer gives the same one, and that every field does what it says.

mod chat;
mod completions;
mod constrained;
mod embeddings;
mod messages;
mod refusals;
mod responses;

use std::sync::OnceLock;

use moesaic_tests::served::Served;
use serde_json::{Value, json};

/// The model's name.
const MODEL: &str = "llama31";

/// One server for all tests.
fn server() -> &'static Served {
    static SERVER: OnceLock<Served> = OnceLock::new();
    SERVER.get_or_init(|| Served::fixture(MODEL))
}

/// `base` with the fields of `more`.
fn with(base: Value, more: &Value) -> Value {
    let mut all = base;
    for (name, value) in more.as_object().expect("fields") {
        all[name] = value.clone();
    }
    all
}

/// A chat request with a short answer.
fn chat(more: Value) -> Value {
    let base = json!({"model": MODEL, "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 12, "temperature": 0});
    with(base, &more)
}

/// The body of a good answer.
fn ok(path: &str, body: &Value) -> Value {
    let answer = server().post(path, body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer.json()
}
