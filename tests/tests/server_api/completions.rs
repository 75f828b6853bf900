//! `POST /v1/completions`.

use serde_json::{Value, json};

use super::{MODEL, ok, server, with};

const PATH: &str = "/v1/completions";

fn body(more: Value) -> Value {
    with(json!({"model": MODEL, "prompt": "Once upon a time", "max_tokens": 10, "temperature": 0}), &more)
}

fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().expect("choices").iter();
    choices.map(|choice| choice["text"].as_str().expect("text").to_owned()).collect()
}

fn tokens(text: &str) -> Value {
    ok("/tokenize", &json!({"model": MODEL, "prompt": text}))["tokens"].clone()
}

#[test]
fn prompts_in_every_form_give_the_same_answers() {
    let (a, b) = ("Once upon a time", "The end of");
    let one = texts(&ok(PATH, &body(json!({"prompt": a}))));
    let two = texts(&ok(PATH, &body(json!({"prompt": b}))));
    assert_ne!(one, two);
    let both = [one.clone(), two].concat();
    for prompt in [json!([a, b]), json!([tokens(a), tokens(b)])] {
        let answer = ok(PATH, &body(json!({"prompt": prompt})));
        assert_eq!(texts(&answer), both);
        assert_eq!(answer["usage"]["completion_tokens"], 20);
        assert_eq!(answer["choices"][1]["index"], 1);
    }
    assert_eq!(texts(&ok(PATH, &body(json!({"prompt": tokens(a)})))), one);
    assert_eq!(texts(&ok(PATH, &body(json!({"max_tokens": null})))).len(), 1);
}

#[test]
fn streamed_and_whole_answers_are_the_same() {
    for more in [
        json!({}),
        json!({"prompt": ["Once", "The end"], "n": 2, "temperature": 1.0, "seed": 3}),
        json!({"echo": true, "prompt": ["Once", "The end"]}),
        json!({"echo": true, "logprobs": 2, "n": 2, "temperature": 1.0, "seed": 4}),
    ] {
        let body = body(more);
        let whole = ok(PATH, &body);
        let chunks = server().post(PATH, &with(body.clone(), &json!({"stream": true}))).chunks();
        for (index, choice) in whole["choices"].as_array().expect("choices").iter().enumerate() {
            let pieces: Vec<&Value> = chunks
                .iter()
                .flat_map(|chunk| chunk["choices"].as_array().expect("choices"))
                .filter(|c| c["index"] == index)
                .collect();
            let text: String = pieces.iter().map(|c| c["text"].as_str().expect("text")).collect();
            assert_eq!(choice["text"], json!(text), "{body}");
            assert_eq!(pieces.last().expect("an end")["finish_reason"], choice["finish_reason"]);
            for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                let joined: Vec<&Value> =
                    pieces.iter().filter_map(|c| c["logprobs"][list].as_array()).flatten().collect();
                let expected: Vec<&Value> = choice["logprobs"][list].as_array().into_iter().flatten().collect();
                assert_eq!(joined, expected, "{list}");
            }
        }
    }
}

#[test]
fn a_prompts_logprobs_are_those_its_tokens_were_generated_with() {
    let generated = ok(PATH, &body(json!({"logprobs": 3})));
    let expected = &generated["choices"][0]["logprobs"];
    let prompt = tokens("Once upon a time");
    let ids: Vec<Value> = expected["tokens"].as_array().expect("tokens").clone();
    // The same tokens as part of the prompt: those whose text encodes to themselves.
    let text: String = ids.iter().map(|t| t.as_str().expect("text")).collect();
    let whole = tokens(&format!("Once upon a time{text}"));
    let is_same = whole.as_array().map(Vec::len) == Some(prompt.as_array().expect("ids").len() + ids.len());
    let echoed = ok(PATH, &body(json!({"prompt": whole, "echo": true, "logprobs": 3, "max_tokens": 1})));
    let all = &echoed["choices"][0]["logprobs"];
    assert!(all["token_logprobs"][0].is_null() && all["top_logprobs"][0].is_null());
    let offsets: Vec<u64> =
        all["text_offset"].as_array().expect("offsets").iter().map(|o| o.as_u64().expect("a place")).collect();
    assert!(offsets.is_sorted() && offsets[0] == 0, "{offsets:?}");
    if is_same {
        let behind = prompt.as_array().expect("ids").len();
        for place in 0..ids.len() {
            assert_eq!(all["token_logprobs"][behind + place], expected["token_logprobs"][place], "token {place}");
            assert_eq!(all["top_logprobs"][behind + place], expected["top_logprobs"][place], "token {place}");
        }
    }
    let echo = echoed["choices"][0]["text"].as_str().expect("text");
    assert!(echo.starts_with(&format!("Once upon a time{text}")), "{echo:?}");
}

#[test]
fn answers_end_as_they_are_told() {
    let end = |more: Value| ok(PATH, &body(more))["choices"][0]["finish_reason"].clone();
    assert_eq!(end(json!({})), "length");
    let answer = ok(PATH, &body(json!({"logprobs": 0})));
    let second = answer["choices"][0]["logprobs"]["tokens"][1].as_str().expect("a token");
    assert_eq!(end(json!({"stop": second})), "stop");
    // A stop token is no part of the answer.
    let first = tokens(answer["choices"][0]["logprobs"]["tokens"][0].as_str().expect("a token"))[0].clone();
    let stopped = ok(PATH, &body(json!({"stop_token_ids": [first]})));
    assert_eq!((&stopped["choices"][0]["text"], &stopped["choices"][0]["finish_reason"]), (&json!(""), &json!("stop")));
}
