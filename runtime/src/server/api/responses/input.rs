//! The items of a request, in the form that chat templates read.
//!
//! Items are finer than chat messages: an assistant's message of those holds the reasoning in front of it and the calls
//! behind it.

use serde_json::{Value, json};

use super::request::{InputItem, InputPart, ItemKind};
use crate::server::api::chat::Role;
use crate::server::api::values::TextOr;
use crate::server::error::ApiError;

/// Most items of a request.
const MAX_ITEMS: usize = 16_384;

/// The messages of instructions and input.
pub(super) fn template_messages(
    instructions: Option<String>,
    input: TextOr<InputItem>,
) -> Result<Vec<Value>, ApiError> {
    let mut messages = Messages::default();
    messages.list.extend(instructions.map(|text| json!({"role": "system", "content": text})));
    match input {
        TextOr::Text(text) => messages.list.push(json!({"role": "user", "content": text})),
        TextOr::Parts(items) if items.is_empty() => {
            return Err(ApiError::invalid("input", "input is empty; give a text or at least one item"));
        }
        TextOr::Parts(items) if items.len() > MAX_ITEMS => {
            return Err(ApiError::invalid("input", format!("at most {MAX_ITEMS} items are taken")));
        }
        TextOr::Parts(items) => {
            for (index, item) in items.into_iter().enumerate() {
                messages.push(index, item)?;
            }
        }
    }
    Ok(messages.list)
}

#[derive(Default)]
struct Messages {
    list: Vec<Value>,
    /// Whether the last message is an assistant's whose items have not ended.
    is_open: bool,
}

impl Messages {
    fn push(&mut self, index: usize, item: InputItem) -> Result<(), ApiError> {
        check(index, &item)?;
        let required = |field: &str| {
            let path = format!("input[{index}].{field}");
            ApiError::invalid(path.clone(), format!("{path} is required"))
        };
        match item.kind {
            ItemKind::Message => {
                let role = item.role.ok_or_else(|| required("role"))?;
                let content = text_of(item.content.ok_or_else(|| required("content"))?);
                self.say(role, content);
            }
            ItemKind::FunctionCall => {
                let id = item.call_id.ok_or_else(|| required("call_id"))?;
                let name = item.name.ok_or_else(|| required("name"))?;
                let arguments = item.arguments.ok_or_else(|| required("arguments"))?;
                let call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
                self.call(call);
            }
            ItemKind::FunctionCallOutput => {
                let id = item.call_id.ok_or_else(|| required("call_id"))?;
                let output = text_of(item.output.ok_or_else(|| required("output"))?);
                self.is_open = false;
                self.list.push(json!({"role": "tool", "tool_call_id": id, "content": output}));
            }
            ItemKind::Reasoning => {
                let text = item.content.map(text_of).or(item.summary.map(|parts| text_of(TextOr::Parts(parts))));
                self.assistant()["reasoning_content"] = json!(text.unwrap_or_default());
            }
        }
        Ok(())
    }

    fn say(&mut self, role: Role, content: String) {
        let role = match role {
            Role::Assistant => {
                let message = self.assistant();
                let before = message["content"].as_str().unwrap_or_default();
                message["content"] = json!(format!("{before}{content}"));
                return;
            }
            Role::System | Role::Developer => "system",
            Role::User => "user",
            Role::Tool => "tool",
        };
        self.is_open = false;
        self.list.push(json!({"role": role, "content": content}));
    }

    fn call(&mut self, call: Value) {
        let message = self.assistant();
        match message.get_mut("tool_calls").and_then(Value::as_array_mut) {
            Some(calls) => calls.push(call),
            None => message["tool_calls"] = json!([call]),
        }
    }

    /// The assistant's message that items belong to. Text behind calls begins another.
    fn assistant(&mut self) -> &mut Value {
        if !self.is_open {
            self.list.push(json!({"role": "assistant", "content": ""}));
            self.is_open = true;
        }
        let last = self.list.len() - 1;
        &mut self.list[last]
    }
}

/// Refuses fields that an item of its kind does not have.
fn check(index: usize, item: &InputItem) -> Result<(), ApiError> {
    let is = |kind| item.kind == kind;
    let annotated = [&item.content, &item.output].into_iter().flatten().any(has_annotations);
    let refused = [
        ("role", item.role.is_some() && !is(ItemKind::Message), "only messages have a role"),
        ("role", item.role == Some(Role::Tool), "a tool's result is an item of type function_call_output"),
        (
            "content",
            item.content.is_some() && !is(ItemKind::Message) && !is(ItemKind::Reasoning),
            "calls have no content",
        ),
        ("name", item.name.is_some() && !is(ItemKind::FunctionCall), "only calls have a name"),
        ("arguments", item.arguments.is_some() && !is(ItemKind::FunctionCall), "only calls have arguments"),
        ("output", item.output.is_some() && !is(ItemKind::FunctionCallOutput), "only results have an output"),
        ("summary", item.summary.is_some() && !is(ItemKind::Reasoning), "only reasoning has a summary"),
        (
            "call_id",
            item.call_id.is_some() && !is(ItemKind::FunctionCall) && !is(ItemKind::FunctionCallOutput),
            "only calls and their results have a call_id",
        ),
        ("encrypted_content", item.encrypted_content.is_some(), "reasoning is not encrypted here"),
        ("content", annotated, "annotations are not supported"),
    ];
    match refused.into_iter().find(|(_, is_refused, _)| *is_refused) {
        Some((field, _, why)) => Err(ApiError::unsupported(format!("input[{index}].{field}"), why)),
        None => Ok(()),
    }
}

fn has_annotations(content: &TextOr<InputPart>) -> bool {
    match content {
        TextOr::Text(_) => false,
        TextOr::Parts(parts) => parts.iter().any(|part| part.annotations.as_ref().is_some_and(|a| !a.is_empty())),
    }
}

fn text_of(content: TextOr<InputPart>) -> String {
    match content {
        TextOr::Text(text) => text,
        TextOr::Parts(parts) => parts.into_iter().map(|part| part.text).collect::<Vec<_>>().join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(instructions: Option<&str>, input: Value) -> Result<Value, ApiError> {
        let input = serde_json::from_value(input).expect("input");
        template_messages(instructions.map(str::to_owned), input).map(Value::from)
    }

    #[test]
    fn items_become_messages() {
        let call =
            |id: &str| json!({"type": "function_call", "id": "fc_1", "call_id": id, "name": "f", "arguments": "{}"});
        let made = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let input = json!([
            {"role": "developer", "content": "be brief"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "status": "completed", "id": "msg_1",
             "content": [{"type": "output_text", "text": "calling", "annotations": [], "logprobs": []}]},
            call("1"), call("2"),
            {"type": "function_call_output", "call_id": "1", "output": "one"},
            {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "two"}]},
            {"role": "assistant", "content": "done"},
        ]);
        let expected = json!([
            {"role": "system", "content": "first"},
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": "calling", "reasoning_content": "hm", "tool_calls": [made("1"), made("2")]},
            {"role": "tool", "tool_call_id": "1", "content": "one"},
            {"role": "tool", "tool_call_id": "2", "content": "two"},
            {"role": "assistant", "content": "done"},
        ]);
        assert_eq!(read(Some("first"), input).expect("valid"), expected);
        assert_eq!(read(None, json!("a")).expect("valid"), json!([{"role": "user", "content": "a"}]));
    }

    #[test]
    fn items_with_fields_of_another_kind_are_refused_by_name() {
        let cases = [
            (json!({"content": "a"}), "role"),
            (json!({"role": "user"}), "content"),
            (json!({"role": "tool", "content": "a"}), "role"),
            (json!({"role": "user", "content": "a", "output": "b"}), "output"),
            (json!({"role": "user", "content": "a", "call_id": "b"}), "call_id"),
            (json!({"type": "function_call", "call_id": "a", "arguments": "{}"}), "name"),
            (json!({"type": "function_call", "call_id": "a", "name": "f"}), "arguments"),
            (json!({"type": "function_call", "name": "f", "arguments": "{}"}), "call_id"),
            (json!({"type": "function_call", "content": "a"}), "content"),
            (json!({"type": "function_call_output", "call_id": "a"}), "output"),
            (json!({"type": "function_call_output", "call_id": "a", "output": "b", "name": "c"}), "name"),
            (json!({"type": "reasoning", "encrypted_content": "a"}), "encrypted_content"),
            (json!({"role": "user", "content": "a", "summary": []}), "summary"),
        ];
        for (item, field) in cases {
            let error = read(None, json!([item])).expect_err("refused");
            assert_eq!(error.param, Some(format!("input[0].{field}")), "{item}");
        }
        assert_eq!(read(None, json!([])).expect_err("empty").param.as_deref(), Some("input"));
    }
}
