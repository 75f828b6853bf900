//! Blocks of Anthropic's interface, in the form that chat templates read.

use serde_json::{Value, json};

use super::request::{BlockKind, InputBlock, InputMessage, Speaker, SystemBlock};
use crate::server::api::values::TextOr;
use crate::server::error::ApiError;

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 16_384;

/// The messages of a system prompt and a conversation.
pub(super) fn template_messages(
    system: Option<TextOr<SystemBlock>>,
    messages: Vec<InputMessage>,
) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() || messages.len() > MAX_MESSAGES {
        return Err(ApiError::invalid(
            "messages",
            format!("messages has {}; give 1 to {MAX_MESSAGES}", messages.len()),
        ));
    }
    let mut list = Vec::with_capacity(messages.len() + 1);
    if let Some(system) = system {
        list.push(json!({"role": "system", "content": text_of("system", system)?}));
    }
    for (index, message) in messages.into_iter().enumerate() {
        let path = format!("messages[{index}].content");
        match message.content {
            TextOr::Text(text) => list.push(json!({"role": role(message.role), "content": text})),
            TextOr::Parts(blocks) if blocks.is_empty() => {
                return Err(ApiError::invalid(path.clone(), format!("{path} is empty; give a text or blocks")));
            }
            TextOr::Parts(blocks) => push_blocks(&mut list, &path, message.role, blocks)?,
        }
    }
    Ok(list)
}

fn role(speaker: Speaker) -> &'static str {
    match speaker {
        Speaker::User => "user",
        Speaker::Assistant => "assistant",
    }
}

/// A message of several blocks: an assistant's is one message, a user's a message for each result and one for the text.
fn push_blocks(list: &mut Vec<Value>, path: &str, speaker: Speaker, blocks: Vec<InputBlock>) -> Result<(), ApiError> {
    let (mut texts, mut calls, mut thoughts): (Vec<String>, Vec<Value>, Vec<String>) = Default::default();
    for (place, block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{place}]");
        check(&path, speaker, &block)?;
        let required =
            |field: &str| ApiError::invalid(format!("{path}.{field}"), format!("{path}.{field} is required"));
        match block.kind {
            BlockKind::Text => texts.push(block.text.ok_or_else(|| required("text"))?),
            BlockKind::Thinking => thoughts.push(block.thinking.ok_or_else(|| required("thinking"))?),
            BlockKind::ToolUse => {
                let name = block.name.ok_or_else(|| required("name"))?;
                let arguments = Value::Object(block.input.ok_or_else(|| required("input"))?).to_string();
                let id = block.id.ok_or_else(|| required("id"))?;
                calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
            }
            BlockKind::ToolResult => {
                let id = block.tool_use_id.ok_or_else(|| required("tool_use_id"))?;
                let content = block.content.map(|c| text_of(&format!("{path}.content"), c)).transpose()?;
                let content = match block.is_error {
                    Some(true) => format!("Error: {}", content.unwrap_or_default()),
                    _ => content.unwrap_or_default(),
                };
                list.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
            }
        }
    }
    if speaker == Speaker::User && texts.is_empty() {
        return Ok(());
    }
    let mut message = json!({"role": role(speaker), "content": texts.join("\n")});
    if !thoughts.is_empty() {
        message["reasoning_content"] = json!(thoughts.join("\n"));
    }
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    }
    list.push(message);
    Ok(())
}

/// Refuses fields that a block of its kind does not have, and blocks that its speaker does not say.
fn check(path: &str, speaker: Speaker, block: &InputBlock) -> Result<(), ApiError> {
    use BlockKind::{Text, Thinking, ToolResult, ToolUse};
    let only = |is_given: bool, kind: BlockKind| is_given && block.kind != kind;
    let assistants = matches!(block.kind, Thinking | ToolUse);
    let refused = [
        ("type", assistants && speaker == Speaker::User, "only assistants think and use tools"),
        ("type", block.kind == ToolResult && speaker == Speaker::Assistant, "only users give results of tools"),
        ("text", only(block.text.is_some(), Text), "only text has it"),
        ("thinking", only(block.thinking.is_some(), Thinking), "only thinking has it"),
        ("signature", only(block.signature.is_some(), Thinking), "only thinking has it"),
        ("id", only(block.id.is_some(), ToolUse), "only tool_use has it"),
        ("name", only(block.name.is_some(), ToolUse), "only tool_use has it"),
        ("input", only(block.input.is_some(), ToolUse), "only tool_use has it"),
        ("tool_use_id", only(block.tool_use_id.is_some(), ToolResult), "only tool_result has it"),
        ("content", only(block.content.is_some(), ToolResult), "only tool_result has it"),
        ("is_error", only(block.is_error.is_some(), ToolResult), "only tool_result has it"),
        ("citations", is_given(block.citations.as_ref()), "citations are not supported"),
        ("caller", is_given(block.caller.as_ref()), "tools are used by the model itself"),
    ];
    match refused.into_iter().find(|(_, is_refused, _)| *is_refused) {
        Some((field, _, why)) => {
            Err(ApiError::unsupported(format!("{path}.{field}"), format!("{path}.{field}: {why}")))
        }
        None => Ok(()),
    }
}

fn is_given(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}

fn text_of(path: &str, content: TextOr<SystemBlock>) -> Result<String, ApiError> {
    match content {
        TextOr::Text(text) => Ok(text),
        TextOr::Parts(blocks) => {
            if let Some(place) = blocks.iter().position(|block| is_given(block.citations.as_ref())) {
                let path = format!("{path}[{place}].citations");
                return Err(ApiError::unsupported(path, "citations are not supported"));
            }
            Ok(blocks.into_iter().map(|block| block.text).collect::<Vec<_>>().join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(system: Value, messages: Value) -> Result<Value, ApiError> {
        let system = serde_json::from_value(system).expect("system");
        template_messages(system, serde_json::from_value(messages).expect("messages")).map(Value::from)
    }

    #[test]
    fn blocks_become_messages() {
        let messages = json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "let me look", "citations": null},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "one"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "gone", "is_error": true},
                {"type": "text", "text": "and?", "cache_control": {"type": "ephemeral"}},
            ]},
        ]);
        let expected = json!([
            {"role": "system", "content": "be brief\nplease"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "let me look", "reasoning_content": "hm", "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
            ]},
            {"role": "tool", "tool_call_id": "t1", "content": "one"},
            {"role": "tool", "tool_call_id": "t2", "content": "Error: gone"},
            {"role": "user", "content": "and?"},
        ]);
        let system = json!([{"type": "text", "text": "be brief"}, {"type": "text", "text": "please"}]);
        assert_eq!(read(system, messages).expect("valid"), expected);
        assert_eq!(
            read(Value::Null, json!([{"role": "user", "content": "a"}])).expect("valid").as_array().map(Vec::len),
            Some(1)
        );
    }

    #[test]
    fn blocks_with_fields_of_another_kind_are_refused_by_name() {
        let cases = [
            ("user", json!({"type": "thinking", "thinking": "a"}), "type"),
            ("user", json!({"type": "tool_use", "id": "a", "name": "b", "input": {}}), "type"),
            ("assistant", json!({"type": "tool_result", "tool_use_id": "a"}), "type"),
            ("user", json!({"type": "text"}), "text"),
            ("user", json!({"type": "text", "text": "a", "id": "b"}), "id"),
            ("user", json!({"type": "tool_result"}), "tool_use_id"),
            ("assistant", json!({"type": "tool_use", "id": "a", "name": "b"}), "input"),
            ("assistant", json!({"type": "tool_use", "id": "a", "input": {}}), "name"),
            ("assistant", json!({"type": "text", "text": "a", "citations": []}), "citations"),
        ];
        for (role, block, field) in cases {
            let messages = json!([{"role": role, "content": [block]}]);
            let error = read(Value::Null, messages).expect_err("refused");
            assert_eq!(error.param, Some(format!("messages[0].content[0].{field}")), "{block}");
        }
        for messages in [json!([]), json!([{"role": "user", "content": []}])] {
            assert!(read(Value::Null, messages).is_err());
        }
    }
}
