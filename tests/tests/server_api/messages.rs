//! `POST /v1/messages` and `/v1/messages/count_tokens`.

use serde_json::{Value, json};

use super::{MODEL, chat, ok, server, with};

const PATH: &str = "/v1/messages";

fn body(more: Value) -> Value {
    let base = json!({"model": MODEL, "max_tokens": 12, "temperature": 0, "messages": [{"role": "user", "content": "Say something."}]});
    with(base, &more)
}

fn tool() -> Value {
    json!({"name": "look_up", "description": "Looks a word up.", "input_schema": {
        "type": "object", "properties": {"word": {"enum": ["cat", "dog"]}}, "required": ["word"], "additionalProperties": false,
    }})
}

/// A message without what differs from call to call.
fn comparable(message: &Value) -> Value {
    let mut content = message["content"].clone();
    for block in content.as_array_mut().expect("blocks") {
        block["id"] = Value::Null;
    }
    json!([content, message["stop_reason"], message["stop_sequence"], message["usage"]["output_tokens"]])
}

/// Streams a message, checks the order of its events, and puts it together.
fn streamed(body: &Value) -> Value {
    let answer = server().post(PATH, &with(body.clone(), &json!({"stream": true})));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let (mut message, mut input, mut open) = (Value::Null, String::new(), None);
    for event in answer.events() {
        let data = event.json();
        assert_eq!(event.name.as_deref(), data["type"].as_str());
        let index = data["index"].as_u64().map(|index| index as usize);
        match event.name.as_deref().expect("a name") {
            "message_start" => message = data["message"].clone(),
            "content_block_start" => {
                assert_eq!((open.replace(index), index), (None, message["content"].as_array().map(Vec::len)));
                message["content"].as_array_mut().expect("blocks").push(data["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(open, Some(index));
                let block = &mut message["content"][index.expect("an index")];
                match data["delta"]["type"].as_str().expect("a type") {
                    "text_delta" => {
                        let text = [&block["text"], &data["delta"]["text"]].map(|t| t.as_str().expect("text")).concat();
                        block["text"] = json!(text);
                    }
                    "input_json_delta" => input.push_str(data["delta"]["partial_json"].as_str().expect("text")),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert_eq!(open.take(), Some(index));
                if !input.is_empty() {
                    message["content"][index.expect("an index")]["input"] = serde_json::from_str(&input).expect("JSON");
                    input.clear();
                }
            }
            "message_delta" => {
                message["stop_reason"] = data["delta"]["stop_reason"].clone();
                message["stop_sequence"] = data["delta"]["stop_sequence"].clone();
                message["usage"] = data["usage"].clone();
            }
            "message_stop" => return message,
            other => panic!("{other}"),
        }
    }
    panic!("no end: {}", answer.body)
}

#[test]
fn streamed_and_whole_messages_are_the_same() {
    for more in [
        json!({}),
        json!({"temperature": 1.0, "seed": 3, "top_k": 40, "top_p": 0.9}),
        json!({"tools": [tool()], "tool_choice": {"type": "any"}, "max_tokens": 200, "temperature": 1.0, "seed": 1}),
    ] {
        let body = body(more);
        assert_eq!(comparable(&ok(PATH, &body)), comparable(&streamed(&body)), "{body}");
    }
}

#[test]
fn a_message_says_what_chat_says() {
    let message = ok(PATH, &body(json!({"system": [{"type": "text", "text": "Be brief."}]})));
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say something."}]);
    let said = ok("/v1/chat/completions", &chat(json!({"messages": messages})));
    assert_eq!(message["content"][0]["text"], said["choices"][0]["message"]["content"]);
    assert_eq!((&message["stop_reason"], &message["type"]), (&json!("max_tokens"), &json!("message")));
    let usage = |name: &str| message["usage"][name].as_u64().expect("a count");
    let counted = ok(
        "/v1/messages/count_tokens",
        &json!({"model": MODEL, "system": "Be brief.",
        "messages": [{"role": "user", "content": "Say something."}]}),
    );
    assert_eq!(Some(usage("input_tokens") + usage("cache_read_input_tokens")), counted["input_tokens"].as_u64());
    assert_eq!(said["usage"]["prompt_tokens"], counted["input_tokens"]);
}

#[test]
fn stop_sequences_are_named() {
    let whole = ok(PATH, &body(json!({"max_tokens": 30})))["content"][0]["text"].as_str().expect("text").to_owned();
    let stop: String = whole.chars().skip(6).take(4).collect();
    let message = ok(PATH, &body(json!({"max_tokens": 30, "stop_sequences": ["never", stop]})));
    assert_eq!((&message["stop_reason"], &message["stop_sequence"]), (&json!("stop_sequence"), &json!(stop)));
    let expected = &whole[..whole.find(&stop).expect("there")];
    assert_eq!(message["content"][0]["text"].as_str().unwrap_or_default(), expected);
}

#[test]
fn tools_are_used_and_their_results_taken_back() {
    let used = ok(
        PATH,
        &body(json!({"tools": [tool()], "tool_choice": {"type": "tool", "name": "look_up"}, "max_tokens": 200})),
    );
    let block = &used["content"][0];
    assert_eq!(
        (&block["type"], &block["name"], &used["stop_reason"]),
        (&json!("tool_use"), &json!("look_up"), &json!("tool_use"))
    );
    assert!(["cat", "dog"].contains(&block["input"]["word"].as_str().expect("a word")));
    let result = json!({"type": "tool_result", "tool_use_id": block["id"], "content": "an animal"});
    let messages = json!([
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": used["content"]},
        {"role": "user", "content": [result]},
    ]);
    let answer = ok(PATH, &body(json!({"messages": messages, "tools": [tool()], "max_tokens": 3})));
    assert_eq!(answer["content"][0]["type"], "text");
}

#[test]
fn an_answer_ends_where_the_context_does() {
    let message = ok(PATH, &body(json!({"max_tokens": 1_000_000, "stop_sequences": ["e", "a", "\n", " "]})));
    assert!(["stop_sequence", "end_turn"].contains(&message["stop_reason"].as_str().expect("a reason")), "{message}");
}

#[test]
fn errors_have_anthropics_shape() {
    let cases = [
        (body(json!({"max_tokens": 0})), 400, "invalid_request_error", "max_tokens"),
        (body(json!({"frequency_penalty": 1})), 400, "invalid_request_error", "frequency_penalty"),
        (body(json!({"model": "no-such-model"})), 404, "not_found_error", "no-such-model"),
        (
            body(json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]})),
            400,
            "invalid_request_error",
            "image",
        ),
    ];
    for (body, status, kind, mentions) in cases {
        let answer = server().post(PATH, &body);
        let error = answer.json();
        assert_eq!(
            (answer.status, &error["type"], &error["error"]["type"]),
            (status, &json!("error"), &json!(kind)),
            "{body}"
        );
        assert!(error["error"]["message"].as_str().expect("a message").contains(mentions), "{error}");
    }
}
