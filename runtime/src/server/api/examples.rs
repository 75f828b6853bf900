//! Requests that work, one for each thing an endpoint is used for: shown in `/openapi.json`, where tests take them from.

use serde_json::{Value, json};

/// The examples of a path, each with a name.
pub(super) fn of(path: &str) -> Vec<(&'static str, Value)> {
    match path {
        "/v1/chat/completions" => chat(),
        "/v1/completions" => completions(),
        "/v1/responses" => responses(),
        "/v1/messages" => messages(),
        "/v1/messages/count_tokens" => vec![(
            "count",
            json!({"model": "SmolLM2-135M-Instruct", "system": "Be brief.", "messages": [{"role": "user", "content": "Hello"}]}),
        )],
        "/v1/embeddings" => vec![
            ("texts", json!({"input": ["a cat", "a dog"]})),
            ("base64", json!({"input": "a cat", "encoding_format": "base64", "pooling": "mean"})),
        ],
        "/tokenize" => vec![
            ("text", json!({"prompt": "Hello", "return_token_strs": true})),
            ("messages", json!({"messages": [{"role": "user", "content": "Hello"}]})),
        ],
        "/detokenize" => vec![("tokens", json!({"tokens": [1, 2, 3]}))],
        _ => Vec::new(),
    }
}

/// A request with further fields.
fn with(base: &Value, more: Value) -> Value {
    let mut request = base.clone();
    if let (Value::Object(fields), Value::Object(more)) = (&mut request, more) {
        fields.extend(more);
    }
    request
}

fn weather() -> Value {
    json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": false
    })
}

fn chat() -> Vec<(&'static str, Value)> {
    let base = json!({"messages": [{"role": "user", "content": "What makes the sky blue?"}], "max_tokens": 64});
    let function = json!({"name": "get_weather", "description": "The weather of a city now", "parameters": weather()});
    let tools = json!([{"type": "function", "function": function}]);
    let schema = json!({"type": "json_schema", "json_schema": {"name": "city", "schema": weather()}});
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\":\"Oslo\"}"}});
    let conversation = json!([
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Is it cold in Oslo?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "-3 degrees"}
    ]);
    vec![
        ("answer", base.clone()),
        ("stream", with(&base, json!({"stream": true, "stream_options": {"include_usage": true}}))),
        (
            "sampling",
            with(&base, json!({"temperature": 0.8, "top_p": 0.95, "top_k": 40, "seed": 1, "n": 2, "stop": "\n"})),
        ),
        ("logprobs", with(&base, json!({"logprobs": true, "top_logprobs": 3, "temperature": 0}))),
        ("json_schema", with(&base, json!({"response_format": schema}))),
        ("tool_call", with(&base, json!({"tools": tools, "tool_choice": "required", "parallel_tool_calls": false}))),
        ("tool_result", with(&base, json!({"tools": tools, "messages": conversation}))),
    ]
}

fn completions() -> Vec<(&'static str, Value)> {
    let base = json!({"prompt": "Once upon a time", "max_tokens": 32});
    vec![
        ("continuation", base.clone()),
        ("stream", with(&base, json!({"stream": true}))),
        ("logprobs", with(&base, json!({"prompt": ["One, two,", "A, B,"], "logprobs": 2, "echo": true}))),
        ("choice", with(&base, json!({"guided_choice": ["there", "nowhere"]}))),
    ]
}

fn responses() -> Vec<(&'static str, Value)> {
    let base = json!({"input": "What makes the sky blue?", "max_output_tokens": 64});
    let tool = json!({"type": "function", "name": "get_weather", "parameters": weather(), "strict": true});
    let format = json!({"format": {"type": "json_schema", "name": "city", "schema": weather()}});
    vec![
        ("answer", with(&base, json!({"instructions": "Be brief."}))),
        ("stream", with(&base, json!({"stream": true}))),
        ("json_schema", with(&base, json!({"text": format}))),
        ("tool_call", with(&base, json!({"tools": [tool], "tool_choice": "required"}))),
        ("logprobs", with(&base, json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2}))),
    ]
}

fn messages() -> Vec<(&'static str, Value)> {
    let base = json!({
        "model": "SmolLM2-135M-Instruct",
        "messages": [{"role": "user", "content": "What makes the sky blue?"}],
        "max_tokens": 64
    });
    let tool = json!({"name": "get_weather", "input_schema": weather()});
    let cached = json!([{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]);
    vec![
        ("answer", with(&base, json!({"system": cached, "temperature": 0}))),
        ("stream", with(&base, json!({"stream": true, "stop_sequences": ["\n\n"]}))),
        ("tool_call", with(&base, json!({"tools": [tool], "tool_choice": {"type": "any"}}))),
        (
            "json_schema",
            with(&base, json!({"output_config": {"format": {"type": "json_schema", "schema": weather()}}})),
        ),
    ]
}
