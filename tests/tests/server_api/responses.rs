//! `POST /v1/responses`.

use serde_json::{Value, json};

use super::{MODEL, chat, ok, server, with};

const PATH: &str = "/v1/responses";

fn body(more: Value) -> Value {
    with(json!({"model": MODEL, "input": "Say something.", "max_output_tokens": 12, "temperature": 0}), &more)
}

/// A response without what differs from call to call.
fn comparable(response: &Value) -> Value {
    let mut response = response.clone();
    for field in ["id", "created_at", "usage", "timings"] {
        response[field] = Value::Null;
    }
    for item in response["output"].as_array_mut().expect("items") {
        (item["id"], item["call_id"]) = (Value::Null, Value::Null);
    }
    response
}

fn tool() -> Value {
    json!({"type": "function", "name": "look_up", "description": "Looks a word up.", "strict": true, "parameters": {
        "type": "object", "properties": {"word": {"enum": ["cat", "dog"]}}, "required": ["word"], "additionalProperties": false,
    }})
}

/// Streams a response, checks the order of its events, and returns the last one's response.
fn streamed(body: &Value) -> Value {
    let answer = server().post(PATH, &with(body.clone(), &json!({"stream": true})));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let events = answer.events();
    let (mut text, mut arguments, mut done) = (String::new(), String::new(), Vec::new());
    for (place, event) in events.iter().enumerate() {
        let data = event.json();
        assert_eq!((event.name.as_deref(), &data["sequence_number"]), (data["type"].as_str(), &json!(place)));
        match data["type"].as_str().expect("a type") {
            "response.output_text.delta" => text.push_str(data["delta"].as_str().expect("text")),
            "response.output_text.done" => assert_eq!(data["text"], json!(text)),
            "response.function_call_arguments.delta" => arguments.push_str(data["delta"].as_str().expect("text")),
            "response.function_call_arguments.done" => assert_eq!(data["arguments"], json!(arguments)),
            "response.output_item.done" => done.push(data["item"].clone()),
            _ => {}
        }
    }
    let names: Vec<&str> = events.iter().filter_map(|event| event.name.as_deref()).collect();
    assert_eq!(names[..2], ["response.created", "response.in_progress"]);
    let last = events.last().expect("events").json()["response"].clone();
    assert_eq!(json!(done), last["output"]);
    assert_eq!(
        names.last().copied(),
        Some(format!("response.{}", last["status"].as_str().expect("a status"))).as_deref()
    );
    last
}

#[test]
fn streamed_and_whole_responses_are_the_same() {
    for more in [
        json!({}),
        json!({"temperature": 1.0, "seed": 3, "include": ["message.output_text.logprobs"], "top_logprobs": 2}),
        json!({"tools": [tool()], "tool_choice": "required", "max_output_tokens": 200, "temperature": 1.0, "seed": 1}),
    ] {
        let body = body(more);
        assert_eq!(comparable(&ok(PATH, &body)), comparable(&streamed(&body)), "{body}");
    }
}

#[test]
fn a_response_says_what_chat_says() {
    let response = ok(PATH, &body(json!({})));
    let said = ok("/v1/chat/completions", &chat(json!({})));
    let text = &response["output"][0]["content"][0];
    assert_eq!((&text["type"], &text["text"]), (&json!("output_text"), &said["choices"][0]["message"]["content"]));
    assert_eq!(response["usage"]["input_tokens"], said["usage"]["prompt_tokens"]);
    // It ended where it was cut off.
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(response["output"][0]["status"], "incomplete");
    let instructed = ok(PATH, &body(json!({"instructions": "Be brief.", "metadata": {"a": "b"}})));
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say something."}]);
    let said = ok("/v1/chat/completions", &chat(json!({"messages": messages})));
    assert_eq!(instructed["output"][0]["content"][0]["text"], said["choices"][0]["message"]["content"]);
    assert_eq!((&instructed["instructions"], &instructed["metadata"]), (&json!("Be brief."), &json!({"a": "b"})));
}

#[test]
fn calls_and_their_results_are_taken_back() {
    let choice = json!({"type": "function", "name": "look_up"});
    let called = ok(PATH, &body(json!({"tools": [tool()], "tool_choice": choice, "max_output_tokens": 200})));
    let call = &called["output"][0];
    assert_eq!(
        (&call["type"], &call["name"], &called["status"]),
        (&json!("function_call"), &json!("look_up"), &json!("completed"))
    );
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().expect("arguments")).expect("JSON");
    assert!(["cat", "dog"].contains(&arguments["word"].as_str().expect("a word")));
    let result = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "an animal"});
    let input = json!([{"role": "user", "content": "What is it?"}, call, result]);
    let answer = ok(PATH, &body(json!({"input": input, "tools": [tool()], "max_output_tokens": 3})));
    assert_eq!(answer["output"][0]["type"], "message");
}

#[test]
fn text_follows_a_schema() {
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "answer", "schema": schema, "strict": true});
    let response = ok(PATH, &body(json!({"text": {"format": format}, "max_output_tokens": 60})));
    let text = response["output"][0]["content"][0]["text"].as_str().expect("text");
    let value: Value = serde_json::from_str(text).expect("JSON");
    assert!(value["ok"].is_boolean() && response["status"] == "completed", "{response}");
    assert_eq!(response["text"]["format"], format);
}
