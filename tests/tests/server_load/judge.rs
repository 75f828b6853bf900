//! What a reply must look like.

use serde_json::{Map, Value, json};

use super::client::Reply;

/// What of a reply depends on the request alone: choices and counts, whether they came whole or in pieces; tokens.
///
/// # Errors
/// Why it is no valid reply.
pub fn content(reply: &Reply) -> Result<Value, String> {
    let text = std::str::from_utf8(&reply.body).map_err(|e| e.to_string())?;
    let is_stream = reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    let whole = if is_stream { joined(text)? } else { parse(text)? };
    match (&whole["choices"], &whole["usage"]) {
        (Value::Null, _) => Ok(whole),
        (choices, usage) if usage["completion_tokens"].is_u64() => {
            Ok(json!({"choices": choices, "prompt": usage["prompt_tokens"], "answer": usage["completion_tokens"]}))
        }
        _ => Err(format!("choices, but no usage: {text}")),
    }
}

/// Checks that a body is an error in OpenAI's shape, and gives its message.
///
/// # Errors
/// Why it is none.
pub fn error(reply: &Reply) -> Result<String, String> {
    let body = parse(&reply.text())?;
    let error = body["error"].as_object().ok_or_else(|| format!("no error: {body}"))?;
    let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
    let optional = |name| error.get(name).is_some_and(|v: &Value| v.is_null() || v.is_string());
    if message.is_empty() || !error.get("type").is_some_and(Value::is_string) || !optional("param") || !optional("code")
    {
        return Err(format!("not in OpenAI's shape: {body}"));
    }
    Ok(message.to_owned())
}

fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("{e}: {text}"))
}

/// A stream's chunks as one answer.
fn joined(text: &str) -> Result<Value, String> {
    let mut events: Vec<&str> =
        text.split("\n\n").filter_map(|block| block.strip_prefix("data: ")).filter(|data| !data.is_empty()).collect();
    if events.pop() != Some("[DONE]") {
        return Err(format!("the stream does not end with [DONE]: {text}"));
    }
    let (mut choices, mut usage) = (Vec::new(), Value::Null);
    for event in events {
        let chunk = parse(event)?;
        let pieces = chunk["choices"].as_array().ok_or_else(|| format!("a chunk without choices: {chunk}"))?;
        for piece in pieces {
            let index = piece["index"].as_u64().ok_or_else(|| format!("a choice without index: {chunk}"))? as usize;
            choices.resize(choices.len().max(index + 1), Value::Object(Map::new()));
            join(&mut choices[index], piece);
        }
        join(&mut usage, &chunk["usage"]);
    }
    if choices.iter().any(|choice| !choice["finish_reason"].is_string()) {
        return Err(format!("a choice without an end: {text}"));
    }
    Ok(json!({"choices": choices, "usage": usage}))
}

/// Appends strings and lists, field by field.
fn join(whole: &mut Value, piece: &Value) {
    match (whole, piece) {
        (_, Value::Null) => {}
        (Value::String(whole), Value::String(piece)) => whole.push_str(piece),
        (Value::Array(whole), Value::Array(piece)) => whole.extend(piece.iter().cloned()),
        (Value::Object(whole), Value::Object(piece)) => {
            for (name, value) in piece {
                join(whole.entry(name).or_insert(Value::Null), value);
            }
        }
        (whole, piece) => *whole = piece.clone(),
    }
}
