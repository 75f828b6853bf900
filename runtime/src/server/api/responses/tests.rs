use serde_json::json;

use super::*;

fn read(fields: Value) -> ResponsesRequest {
    let mut body = json!({"input": "a"});
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    crate::server::request::parse(body.to_string().as_bytes()).unwrap_or_else(|e| panic!("{body}: {e}"))
}

fn refused(fields: Value) -> Option<String> {
    let request = read(fields);
    check_fixed_values(&request).and_then(|()| conversation(request).map(|_| ())).err().and_then(|error| error.param)
}

#[test]
fn what_needs_storage_or_cannot_be_honoured_is_refused_by_name() {
    let schema = |fields: Value| json!({"text": {"format": fields}});
    let cases = [
        (json!({"store": true}), "store"),
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"background": true}), "background"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"include": ["reasoning.encrypted_content"]}), "include"),
        (json!({"reasoning": {"summary": "auto"}}), "reasoning.summary"),
        (json!({"stream_options": {}}), "stream_options"),
        (json!({"stream": true, "stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"service_tier": "priority"}), "service_tier"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (schema(json!({"type": "json_schema", "name": "a"})), "text.format.schema"),
        (schema(json!({"type": "json_schema", "schema": {}})), "text.format.name"),
        (schema(json!({"type": "text", "schema": {}})), "text.format"),
        (json!({"input": []}), "input"),
    ];
    for (fields, param) in cases {
        assert_eq!(refused(fields.clone()).as_deref(), Some(param), "{fields}");
    }
    let fine = json!({"store": false, "background": false, "truncation": "disabled", "include": [INCLUDE_LOGPROBS],
        "metadata": {}, "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}, "prompt_cache_key": "k"});
    assert_eq!(refused(fine), None);
}

#[test]
fn formats_become_grammars() {
    let format = |fields: Value| {
        let request = read(json!({"text": {"format": fields}}));
        conversation(request).expect("valid").wanted.map(|wanted| wanted.param)
    };
    assert_eq!(format(json!({"type": "json_object"})).as_deref(), Some("text.format"));
    let schema = json!({"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": true});
    assert_eq!(format(schema).as_deref(), Some("text.format.schema"));
}
