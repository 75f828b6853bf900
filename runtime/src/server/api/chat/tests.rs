use serde_json::json;

use super::*;

fn read(fields: Value) -> ChatCompletionRequest {
    let mut body = json!({"messages": [{"role": "user", "content": "a"}]});
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    crate::server::request::parse(body.to_string().as_bytes()).unwrap_or_else(|e| panic!("{body}: {e}"))
}

/// The field that a request without a model is refused for.
fn refused(fields: Value) -> Option<String> {
    let mut request = read(fields);
    let checks = check_fixed_values(&request)
        .and(stream_extras(&request).map(|_| ()))
        .and(max_tokens(&request).map(|_| ()))
        .and(logprobs(&request).map(|_| ()));
    checks.and_then(|()| conversation(&mut request).map(|_| ())).err().and_then(|error| error.param)
}

#[test]
fn values_that_cannot_be_honoured_are_refused_by_name() {
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let cases = [
        (json!({"store": true}), "store"),
        (json!({"service_tier": "flex"}), "service_tier"),
        (json!({"modalities": ["text", "audio"]}), "modalities"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (
            json!({"stream": true, "stream_options": {"include_obfuscation": true}}),
            "stream_options.include_obfuscation",
        ),
        (json!({"max_tokens": 3, "max_completion_tokens": 4}), "max_tokens"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": tool, "response_format": {"type": "json_object"}}), "response_format"),
        (json!({"guided_regex": "a", "guided_choice": ["b"]}), "guided_choice"),
        (json!({"response_format": {"type": "json_object"}, "guided_json": {}}), "guided_json"),
        (json!({"continue_final_message": true, "add_generation_prompt": true}), "continue_final_message"),
        (json!({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}}), "reasoning_effort"),
        (json!({"messages": []}), "messages"),
    ];
    for (fields, param) in cases {
        assert_eq!(refused(fields.clone()).as_deref(), Some(param), "{fields}");
    }
}

#[test]
fn values_that_change_nothing_are_taken() {
    let fields = json!({
        "store": false, "service_tier": "auto", "modalities": ["text"], "user": "me", "metadata": {"a": "b"},
        "safety_identifier": "x", "max_tokens": 3, "max_completion_tokens": 3, "top_logprobs": 0, "stop": null, "tools": null,
        "tool_choice": "none", "parallel_tool_calls": true, "response_format": {"type": "text"}, "logprobs": null,
    });
    assert_eq!(refused(fields), None);
}

#[test]
fn unknown_and_mistyped_fields_are_refused_by_their_path() {
    let refused = |body: Value| {
        let error = crate::server::request::parse::<ChatCompletionRequest>(body.to_string().as_bytes());
        error.err().and_then(|error| error.param).unwrap_or_default()
    };
    let with = |name: &str, value: Value| json!({"messages": [{"role": "user", "content": "a"}], name: value});
    let message = |message: Value| json!({"messages": [message]});
    let image = json!({"type": "image_url", "image_url": {"url": "x"}});
    let cases = [
        (with("prediction", json!({})), "prediction"),
        (with("functions", json!([])), "functions"),
        (with("temperature", json!("hot")), "temperature"),
        (with("n", json!(-1)), "n"),
        (with("seed", json!(1.5)), "seed"),
        (with("stop", json!([1])), "stop[0]"),
        (with("logit_bias", json!({"5": "x"})), "logit_bias.5"),
        (with("response_format", json!({"type": "xml"})), "response_format.type"),
        (
            with("response_format", json!({"type": "json_schema", "json_schema": {"name": "a", "x": 1}})),
            "response_format.json_schema.x",
        ),
        (with("stream_options", json!({"x": 1})), "stream_options.x"),
        (json!({}), "messages"),
        (message(json!({"role": "king", "content": "a"})), "messages[0].role"),
        (message(json!({"role": "user", "content": 5})), "messages[0].content"),
        (message(json!({"role": "user", "content": [image]})), "messages[0].content[0].type"),
        (message(json!({"role": "user", "content": "a", "x": 1})), "messages[0].x"),
    ];
    for (body, param) in cases {
        assert_eq!(refused(body.clone()), param, "{body}");
    }
}

#[test]
fn prompts_end_where_the_request_says() {
    let end_of = |fields: Value| end(&read(fields)).expect("valid");
    assert_eq!(end_of(json!({})), PromptEnd::Answer);
    assert_eq!(end_of(json!({"add_generation_prompt": false})), PromptEnd::Messages);
    assert_eq!(end_of(json!({"continue_final_message": true})), PromptEnd::LastMessage);
    assert_eq!(end_of(json!({"continue_final_message": true, "add_generation_prompt": false})), PromptEnd::LastMessage);
}
