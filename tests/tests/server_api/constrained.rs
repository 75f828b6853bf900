//! Answers that are held to a format, and calls of tools.

use serde_json::{Map, Value, json};

use super::{chat, ok, server, with};

const PATH: &str = "/v1/chat/completions";

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
            "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        },
        "required": ["colour", "count", "tags"],
        "additionalProperties": false,
    })
}

fn check(value: &Value) {
    let fields: &Map<String, Value> = value.as_object().unwrap_or_else(|| panic!("{value}"));
    assert_eq!(fields.len(), 3, "{value}");
    assert!(["red", "green"].contains(&value["colour"].as_str().expect("a colour")));
    assert!(value["count"].as_u64().expect("a count") < 100);
    let tags = value["tags"].as_array().expect("tags");
    assert!((1..=3).contains(&tags.len()) && tags.iter().all(Value::is_boolean), "{value}");
}

fn content(answer: &Value) -> &str {
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    answer["choices"][0]["message"]["content"].as_str().expect("content")
}

#[test]
fn answers_follow_a_schema() {
    let named = json!({"name": "thing", "strict": true, "schema": schema()});
    let formats = [
        json!({"response_format": {"type": "json_schema", "json_schema": named}}),
        json!({"structured_outputs": {"json": schema()}}),
        json!({"guided_json": schema()}),
    ];
    for (seed, format) in formats.into_iter().enumerate() {
        let sampled = json!({"max_tokens": 200, "temperature": 1.0, "seed": seed, "n": 2});
        let answer = ok(PATH, &chat(with(sampled, &format)));
        for choice in answer["choices"].as_array().expect("choices") {
            assert_eq!(choice["finish_reason"], "stop");
            check(&serde_json::from_str(choice["message"]["content"].as_str().expect("content")).expect("JSON"));
        }
    }
}

#[test]
fn answers_follow_an_expression_a_choice_a_grammar() {
    let answer = |format: Value| {
        let body = chat(with(json!({"max_tokens": 60, "temperature": 1.0, "seed": 1}), &format));
        content(&ok(PATH, &body)).to_owned()
    };
    let date = answer(json!({"guided_regex": "20[0-9]{2}-(0[1-9]|1[0-2])"}));
    assert!(date.len() == 7 && date.starts_with("20") && &date[4..5] == "-", "{date}");
    assert!(["yes", "no"].contains(&answer(json!({"guided_choice": ["yes", "no"]})).as_str()));
    assert!(["yes", "no"].contains(&answer(json!({"structured_outputs": {"choice": ["yes", "no"]}})).as_str()));
    let sum = answer(json!({"guided_grammar": "start: N \"+\" N\nN: /[0-9]{2}/"}));
    assert!(sum.len() == 5 && &sum[2..3] == "+", "{sum}");
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "description": "Takes things.", "parameters": schema()}})
}

#[test]
fn required_tools_are_called_with_arguments_of_their_schema() {
    let tools = json!([tool("first"), tool("second")]);
    let choices = [json!("required"), json!({"type": "function", "function": {"name": "second"}})];
    for (seed, choice) in choices.into_iter().enumerate() {
        let more = json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": false, "max_tokens": 300,
            "temperature": 1.0, "seed": seed});
        let answer = ok(PATH, &chat(more.clone()));
        let message = &answer["choices"][0]["message"];
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
        let calls = message["tool_calls"].as_array().expect("calls");
        assert_eq!((calls.len(), &message["content"]), (1, &Value::Null));
        let name = calls[0]["function"]["name"].as_str().expect("a name");
        assert!(if choice == "required" { ["first", "second"].contains(&name) } else { name == "second" });
        let arguments = calls[0]["function"]["arguments"].as_str().expect("arguments");
        check(&serde_json::from_str(arguments).expect("JSON"));
        let streamed = streamed_call(&chat(more));
        assert_eq!(streamed, (name.to_owned(), arguments.to_owned()));
        continue_with(&tools, message);
    }
}

/// The name and arguments of a streamed call.
fn streamed_call(body: &Value) -> (String, String) {
    let (mut name, mut arguments) = (String::new(), String::new());
    for chunk in server().post(PATH, &with(body.clone(), &json!({"stream": true}))).chunks() {
        for call in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
            assert_eq!(call["index"], 0);
            // The id and the name come with the first piece only.
            assert_eq!(call["id"].is_string(), name.is_empty(), "{call}");
            name.push_str(call["function"]["name"].as_str().unwrap_or_default());
            arguments.push_str(call["function"]["arguments"].as_str().expect("arguments"));
        }
    }
    (name, arguments)
}

/// A call's message and its result are taken back.
fn continue_with(tools: &Value, message: &Value) {
    let result = json!({"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "done"});
    let messages = json!([{"role": "user", "content": "Do it."}, message, result]);
    let answer = ok(PATH, &chat(json!({"messages": messages, "tools": tools, "tool_choice": "auto", "max_tokens": 3})));
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn tools_that_must_not_be_called_are_not() {
    let more = json!({"tools": [tool("first")], "tool_choice": "none"});
    let answer = ok(PATH, &chat(more));
    assert_eq!(answer["choices"][0]["message"].get("tool_calls"), None);
    // They are no part of the prompt either.
    assert_eq!(answer["usage"]["prompt_tokens"], ok(PATH, &chat(json!({})))["usage"]["prompt_tokens"]);
}
