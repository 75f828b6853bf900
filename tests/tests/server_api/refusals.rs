//! What is refused, and how: every field by its name, before anything is scheduled.

use serde_json::{Value, json};

use super::{MODEL, chat, server, with};

/// Posts a body that must be refused and returns the error.
fn refused(path: &str, body: &Value, status: u16) -> Value {
    let answer = server().post(path, body);
    assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
    let error = answer.json()["error"].clone();
    assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()) && error["type"].is_string(), "{error}");
    error
}

#[test]
fn chat_fields_out_of_range_are_named() {
    let deep = (0..55).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}));
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": 5}}});
    let cases = [
        (json!({"temperature": -1}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_p": 1.5}), "top_p"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"min_p": 2}), "min_p"),
        (json!({"presence_penalty": 2.5}), "presence_penalty"),
        (json!({"frequency_penalty": -2.5}), "frequency_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"logit_bias": {"512": 1}}), "logit_bias.512"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5"),
        (json!({"n": 0}), "n"),
        (json!({"n": 9}), "n"),
        (json!({"n": 100_000}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"stop": [""]}), "stop"),
        (json!({"stop": vec!["x"; 17]}), "stop"),
        (json!({"stop_token_ids": [512]}), "stop_token_ids"),
        (json!({"cache_salt": ""}), "cache_salt"),
        (json!({"ignore_eos": true, "guided_regex": "a"}), "ignore_eos"),
        (json!({"guided_regex": "(a"}), "guided_regex"),
        (json!({"guided_grammar": "start: missing"}), "guided_grammar"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"guided_json": {"type": "no such type"}}), "guided_json"),
        (json!({"guided_json": deep}), "guided_json"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 1}}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"tools": [{"type": "function", "function": {"name": "two words"}}]}), "tools[0].function.name"),
        (json!({"tools": [tool], "tool_choice": "required"}), "tools"),
        (
            json!({"messages": [{"role": "user", "content": "a"}], "continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
        ),
        (json!({"web_search_options": {}}), "web_search_options"),
    ];
    for (fields, param) in cases {
        let error = refused("/v1/chat/completions", &chat(fields.clone()), 400);
        assert_eq!(
            (&error["param"], &error["type"]),
            (&json!(param), &json!("invalid_request_error")),
            "{fields}: {error}"
        );
    }
}

#[test]
fn completion_fields_out_of_range_are_named() {
    let base = json!({"model": MODEL, "prompt": "a"});
    let cases = [
        (json!({"suffix": "x"}), "suffix"),
        (json!({"best_of": 2}), "best_of"),
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": [512]}), "prompt"),
        (json!({"prompt": vec!["a"; 129]}), "prompt"),
        (json!({"prompt": null}), "prompt"),
        (json!({"messages": []}), "messages"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"stream_options": {}}), "stream_options"),
    ];
    for (fields, param) in cases {
        let error = refused("/v1/completions", &with(base.clone(), &fields), 400);
        assert_eq!(error["param"], json!(param), "{fields}: {error}");
    }
}

#[test]
fn what_is_longer_than_the_context_is_refused() {
    let long = "word ".repeat(5000);
    let cases = [
        ("/v1/chat/completions", chat(json!({"messages": [{"role": "user", "content": long}]})), "messages"),
        ("/v1/chat/completions", chat(json!({"max_tokens": 4096})), "messages"),
        ("/v1/chat/completions", chat(json!({"max_tokens": u64::MAX})), "messages"),
        ("/v1/completions", json!({"prompt": long}), "prompt"),
        ("/v1/completions", json!({"prompt": "a", "max_tokens": 4096}), "prompt"),
        ("/v1/responses", json!({"input": long}), "input"),
    ];
    for (path, body, param) in cases {
        let error = refused(path, &body, 400);
        assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!(param)), "{path}");
    }
    let answer = server().post(
        "/v1/messages",
        &json!({"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": long}]}),
    );
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (400, &json!("invalid_request_error")));
}

#[test]
fn unknown_models_and_templates_that_fail_are_named() {
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"] {
        let body =
            json!({"model": "none", "messages": [{"role": "user", "content": "a"}], "prompt": "a", "input": "a"});
        let needed = match path {
            "/v1/chat/completions" => "messages",
            "/v1/completions" => "prompt",
            _ => "input",
        };
        let error = refused(path, &json!({"model": body["model"], needed: body[needed]}), 404);
        assert_eq!(error["code"], "model_not_found", "{path}");
    }
    let nested = (0..140).fold(json!(1), |inner, _| json!([inner]));
    let answer = server().post("/v1/chat/completions", &chat(json!({"chat_template_kwargs": {"a": nested}})));
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[test]
fn the_document_names_every_route() {
    let answer = server().get("/openapi.json");
    let document = answer.json();
    assert_eq!((answer.status, document["openapi"].as_str().map(|v| &v[..3])), (200, Some("3.1")));
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v1/models",
        "/tokenize",
        "/detokenize",
        "/health",
        "/ready",
        "/version",
        "/metrics",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
}
