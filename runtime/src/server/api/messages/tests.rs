use serde_json::json;

use super::*;

fn read(fields: Value) -> MessagesRequest {
    let mut body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]});
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    crate::server::request::parse(body.to_string().as_bytes()).unwrap_or_else(|e| panic!("{body}: {e}"))
}

#[test]
fn tools_are_named_in_the_callers_words() {
    let tool = |fields: Value| {
        let mut tool = json!({"name": "f", "input_schema": {"type": "object"}});
        for (name, value) in fields.as_object().expect("fields") {
            tool[name] = value.clone();
        }
        json!([tool])
    };
    let cases = [
        (json!({"tools": tool(json!({"type": "web_search_20250305"}))}), "tools[0].type"),
        (json!({"tools": tool(json!({})), "tool_choice": {"type": "tool"}}), "tool_choice.name"),
        (json!({"tools": tool(json!({})), "tool_choice": {"type": "any", "name": "f"}}), "tool_choice.name"),
        (json!({"tool_choice": {"type": "any"}}), "tool_choice"),
        (json!({"tools": tool(json!({"name": "no spaces"}))}), "tools[0].name"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}), "thinking.budget_tokens"),
    ];
    for (fields, param) in cases {
        let error = conversation(read(fields.clone())).err().unwrap_or_else(|| panic!("{fields}"));
        assert_eq!(error.param.as_deref(), Some(param), "{fields}");
    }
    let fine = json!({"tools": tool(json!({"description": "d", "type": "custom", "cache_control": {"type": "ephemeral"}})),
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true}});
    let conversation = conversation(read(fine)).expect("valid");
    assert_eq!(conversation.tools.expect("tools").definitions().len(), 1);
}

#[test]
fn an_assistants_text_at_the_end_is_continued() {
    let end = |messages: Value| conversation(read(json!({"messages": messages}))).expect("valid").end;
    let (user, assistant) = (json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"}));
    assert_eq!(end(json!([user])), PromptEnd::Answer);
    assert_eq!(end(json!([user, assistant])), PromptEnd::LastMessage);
    let used = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]});
    assert_eq!(end(json!([user, used])), PromptEnd::Answer);
}

#[test]
fn thinking_reaches_the_template() {
    let variable = |kind: &str| {
        let conversation = conversation(read(json!({"thinking": {"type": kind}}))).expect("valid");
        conversation.variables["enable_thinking"].clone()
    };
    assert_eq!(
        (variable("adaptive"), variable("enabled"), variable("disabled")),
        (json!(true), json!(true), json!(false))
    );
}
