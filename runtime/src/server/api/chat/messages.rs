//! Messages of a chat request: checked by role, and brought into the form that chat templates read.

use serde_json::{Map, Value, json};

use super::request::{ChatMessage, MessageToolCall, Role};
use crate::server::api::values::TextOr;
use crate::server::error::ApiError;

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 16_384;

/// The messages as a template reads them.
pub(crate) fn template_messages(messages: Vec<ChatMessage>) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "messages is empty; give at least one"));
    }
    if messages.len() > MAX_MESSAGES {
        return Err(ApiError::invalid("messages", format!("at most {MAX_MESSAGES} messages are taken")));
    }
    messages.into_iter().enumerate().map(|(index, message)| template_message(index, message)).collect()
}

fn template_message(index: usize, message: ChatMessage) -> Result<Value, ApiError> {
    check(index, &message)?;
    let mut fields = Map::new();
    let role = match message.role {
        // The older name, which all templates know.
        Role::System | Role::Developer => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    fields.insert("role".into(), json!(role));
    fields.insert("content".into(), message.content.map_or(Value::Null, |content| json!(content)));
    let texts = [
        ("name", message.name),
        ("tool_call_id", message.tool_call_id),
        ("reasoning_content", message.reasoning_content),
    ];
    for (field, text) in texts {
        fields.extend(text.map(|text| (field.to_owned(), Value::from(text))));
    }
    if let Some(calls) = message.tool_calls.filter(|calls| !calls.is_empty()) {
        fields.insert("tool_calls".into(), json!(calls));
    } else if fields["content"].is_null() {
        // Templates add contents to strings.
        fields.insert("content".into(), json!(""));
    }
    Ok(Value::Object(fields))
}

/// Refuses fields that a message of its role does not have.
fn check(index: usize, message: &ChatMessage) -> Result<(), ApiError> {
    let path = |field: &str| format!("messages[{index}].{field}");
    let is_assistant = message.role == Role::Assistant;
    let has_calls = message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
    let refused = [
        ("tool_calls", has_calls && !is_assistant, "only assistant messages have tool_calls"),
        (
            "tool_call_id",
            message.tool_call_id.is_some() && message.role != Role::Tool,
            "only tool messages answer a call",
        ),
        ("reasoning_content", message.reasoning_content.is_some() && !is_assistant, "only assistant messages reason"),
        ("refusal", message.refusal.is_some(), "refusals are not supported; put them into content"),
        ("annotations", message.annotations.as_ref().is_some_and(|a| !a.is_empty()), "annotations are not supported"),
        ("audio", message.audio.is_some(), "audio is not supported"),
        ("function_call", message.function_call.is_some(), "function_call is not supported; use tool_calls"),
        ("provider_specific_fields", says_more(message), "there are none here; leave it out"),
    ];
    if let Some((field, _, why)) = refused.into_iter().find(|(_, is_refused, _)| *is_refused) {
        return Err(ApiError::unsupported(path(field), why));
    }
    if message.role == Role::Tool && message.tool_call_id.is_none() {
        return Err(ApiError::invalid(path("tool_call_id"), "a tool's message names the call that it answers"));
    }
    let is_empty = match &message.content {
        None => true,
        Some(TextOr::Text(_)) => false,
        Some(TextOr::Parts(parts)) => parts.is_empty(),
    };
    if is_empty && !is_assistant {
        return Err(ApiError::invalid(path("content"), "content is required"));
    }
    check_calls(index, message.tool_calls.as_deref().unwrap_or_default())
}

/// Whether the message has something in `provider_specific_fields` that it does not say elsewhere.
fn says_more(message: &ChatMessage) -> bool {
    let reasoning = message.reasoning_content.as_deref();
    let mut fields = message.provider_specific_fields.iter().flatten();
    fields.any(|(name, value)| {
        let repeated = name == "reasoning_content" && reasoning.is_some() && value.as_str() == reasoning;
        !value.is_null() && !repeated
    })
}

fn check_calls(index: usize, calls: &[MessageToolCall]) -> Result<(), ApiError> {
    for (place, call) in calls.iter().enumerate() {
        if call.index.is_some_and(|index| index != place) {
            let path = format!("messages[{index}].tool_calls[{place}].index");
            return Err(ApiError::invalid(path, format!("this call stands at index {place}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: Value) -> Result<Value, ApiError> {
        let messages = vec![serde_json::from_value(message).expect("a message")];
        template_messages(messages).map(|mut messages| messages.remove(0))
    }

    #[test]
    fn messages_keep_what_templates_read() {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let mut indexed = call.clone();
        indexed["index"] = json!(0);
        let cases = [
            (json!({"role": "user", "content": "a"}), json!({"role": "user", "content": "a"})),
            (json!({"role": "developer", "content": "a"}), json!({"role": "system", "content": "a"})),
            (
                json!({"role": "user", "content": [{"type": "text", "text": "a"}], "name": "n"}),
                json!({"role": "user", "content": [{"type": "text", "text": "a"}], "name": "n"}),
            ),
            (
                json!({"role": "assistant", "content": null, "tool_calls": [indexed], "refusal": null, "annotations": []}),
                json!({"role": "assistant", "content": null, "tool_calls": [call]}),
            ),
            (json!({"role": "assistant", "tool_calls": []}), json!({"role": "assistant", "content": ""})),
            (
                json!({"role": "assistant", "content": "a", "provider_specific_fields": {"refusal": null}}),
                json!({"role": "assistant", "content": "a"}),
            ),
            (
                json!({"role": "tool", "content": "7", "tool_call_id": "c1"}),
                json!({"role": "tool", "content": "7", "tool_call_id": "c1"}),
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(read(message.clone()).expect("valid"), expected, "{message}");
        }
    }

    #[test]
    fn fields_of_other_roles_are_refused_by_name() {
        let call = json!({"id": "c1", "function": {"name": "f", "arguments": "{}"}});
        let cases = [
            (json!({"role": "user"}), "content"),
            (json!({"role": "user", "content": []}), "content"),
            (json!({"role": "user", "content": "a", "tool_calls": [call]}), "tool_calls"),
            (json!({"role": "user", "content": "a", "tool_call_id": "c"}), "tool_call_id"),
            (json!({"role": "tool", "content": "a"}), "tool_call_id"),
            (json!({"role": "system", "content": "a", "reasoning_content": "b"}), "reasoning_content"),
            (json!({"role": "assistant", "content": "a", "refusal": "no"}), "refusal"),
            (json!({"role": "assistant", "content": "a", "audio": {"id": "x"}}), "audio"),
            (json!({"role": "assistant", "content": "a", "function_call": {}}), "function_call"),
            (json!({"role": "assistant", "content": "a", "annotations": [{}]}), "annotations"),
            (
                json!({"role": "assistant", "content": "a", "provider_specific_fields": {"reasoning_content": "b"}}),
                "provider_specific_fields",
            ),
        ];
        for (message, field) in cases {
            let error = read(message.clone()).expect_err("refused");
            assert_eq!(error.param, Some(format!("messages[0].{field}")), "{message}");
        }
        assert_eq!(template_messages(vec![]).expect_err("empty").param.as_deref(), Some("messages"));
    }
}
