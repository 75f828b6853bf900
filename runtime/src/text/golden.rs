//! Access to the golden tokenizer fixtures, for the tests of this folder.

use std::path::PathBuf;

use serde_json::Value;

use super::Tokenizer;

/// Fixtures that come with a tokenizer and a chat template.
pub(crate) const WITH_TOKENIZER: [&str; 3] = ["llama31", "mistral", "qwen3"];

pub(crate) fn bytes(fixture: &str, file: &str) -> Vec<u8> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(fixture).join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn json(fixture: &str, file: &str) -> Value {
    serde_json::from_slice(&bytes(fixture, file)).expect("fixture is JSON")
}

pub(crate) fn tokenizer(fixture: &str) -> Tokenizer {
    Tokenizer::from_bytes(&bytes(fixture, "tokenizer.json"), fixture).expect("fixture is valid")
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids")
}

/// The joined pieces of a stream over `ids`.
pub(crate) fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = tokenizer.decode_stream(skip_special);
    let mut text = String::new();
    for &id in ids {
        text.push_str(stream.push(id).expect("known id"));
    }
    text + &stream.finish()
}
