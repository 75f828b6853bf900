//! `POST /v1/chat/completions`.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::{Value, json};

use super::{MODEL, chat, ok, server, with};

const PATH: &str = "/v1/chat/completions";

/// The answers' texts.
fn contents(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().expect("choices").iter();
    choices.map(|choice| choice["message"]["content"].as_str().expect("content").to_owned()).collect()
}

/// What a stream says of an answer: its text, its end, its log-probabilities.
type Told = (String, Value, Vec<Value>);

/// What a stream says, put together: content and end of each answer, and the chunk with the usage.
fn streamed(body: &Value) -> (BTreeMap<u64, Told>, Vec<Value>) {
    let answer = server().post(PATH, &with(body.clone(), &json!({"stream": true})));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.headers.contains("content-type: text/event-stream"), "{}", answer.headers);
    let chunks = answer.chunks();
    let mut answers: BTreeMap<u64, Told> = BTreeMap::new();
    for chunk in &chunks {
        assert_eq!((&chunk["object"], &chunk["id"]), (&json!("chat.completion.chunk"), &chunks[0]["id"]));
        for choice in chunk["choices"].as_array().expect("choices") {
            let (index, delta) = (choice["index"].as_u64().expect("index"), &choice["delta"]);
            let is_first = !answers.contains_key(&index);
            assert_eq!(delta["role"] == "assistant", is_first, "{chunk}");
            let (text, end, logprobs) = answers.entry(index).or_default();
            assert!(end.is_null(), "nothing follows the end: {chunk}");
            text.push_str(delta["content"].as_str().unwrap_or_default());
            *end = choice["finish_reason"].clone();
            logprobs.extend(choice["logprobs"]["content"].as_array().cloned().unwrap_or_default());
        }
    }
    (answers, chunks)
}

#[test]
fn streamed_and_whole_answers_are_the_same() {
    for more in [
        json!({}),
        json!({"n": 3, "temperature": 1.0, "seed": 7, "max_tokens": 30}),
        json!({"temperature": 1.5, "seed": 1, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "repetition_penalty": 1.2}),
        json!({"temperature": 1, "seed": 2, "presence_penalty": 1.0, "frequency_penalty": -1.0, "logprobs": true, "top_logprobs": 2}),
    ] {
        let body = chat(more);
        let whole = ok(PATH, &body);
        let (pieces, _) = streamed(&body);
        assert_eq!(contents(&whole), pieces.values().map(|p| p.0.clone()).collect::<Vec<_>>(), "{body}");
        for (choice, (_, end, logprobs)) in whole["choices"].as_array().expect("choices").iter().zip(pieces.values()) {
            assert_eq!(&choice["finish_reason"], end);
            assert_eq!(choice["logprobs"]["content"].as_array().cloned().unwrap_or_default(), *logprobs);
        }
    }
}

#[test]
fn usage_is_sent_where_it_is_asked_for() {
    let (_, chunks) = streamed(&chat(json!({})));
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    let (_, chunks) = streamed(&chat(json!({"stream_options": {"include_usage": true}})));
    let (last, before) = chunks.split_last().expect("chunks");
    assert!(last["choices"] == json!([]) && before.iter().all(|chunk| chunk.get("usage").is_none()));
    let whole = ok(PATH, &chat(json!({})));
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][count], whole["usage"][count], "{count}");
    }
    assert_eq!(last["usage"]["completion_tokens"], 12);
    assert_eq!(last["timings"]["predicted_n"], 12);
    let (_, chunks) = streamed(&chat(json!({"stream_options": {"continuous_usage_stats": true}})));
    let counts: Vec<u64> = chunks.iter().map(|c| c["usage"]["completion_tokens"].as_u64().expect("usage")).collect();
    assert!(counts.is_sorted() && counts.first() == Some(&0) && counts.last() == Some(&12), "{counts:?}");
}

#[test]
fn a_seed_names_an_answer() {
    let answer =
        |seed: i64| contents(&ok(PATH, &chat(json!({"temperature": 1.0, "seed": seed, "n": 2, "max_tokens": 20}))));
    let (first, again, other) = (answer(5), answer(5), answer(-6));
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert_ne!(first[0], first[1]);
    // Answer i draws from seed + i.
    assert_eq!(first[1], answer(6)[0]);
    let unseeded = || contents(&ok(PATH, &chat(json!({"temperature": 1.0, "max_tokens": 20}))));
    assert_ne!(unseeded(), unseeded());
}

#[test]
fn stop_strings_cut_answers_wherever_tokens_end() {
    let body = chat(json!({"max_tokens": 40, "temperature": 1.0, "seed": 11}));
    let whole = contents(&ok(PATH, &body)).remove(0);
    let characters: Vec<char> = whole.chars().collect();
    for start in (0..characters.len() - 5).step_by(7) {
        let stop: String = characters[start..start + 5].iter().collect();
        let expected = &whole[..whole.find(&stop).expect("there")];
        let body = with(body.clone(), &json!({"stop": [stop]}));
        let answer = ok(PATH, &body);
        assert_eq!((contents(&answer)[0].as_str(), &answer["choices"][0]["finish_reason"]), (expected, &json!("stop")));
        assert_eq!(answer["choices"][0]["stop_reason"], json!(stop));
        let (pieces, _) = streamed(&body);
        assert_eq!((pieces[&0].0.as_str(), &pieces[&0].1), (expected, &json!("stop")), "{stop:?}");
        let kept = ok(PATH, &with(body, &json!({"include_stop_str_in_output": true})));
        assert_eq!(contents(&kept)[0], format!("{expected}{stop}"));
    }
}

#[test]
fn logprobs_have_the_text_and_fall() {
    let answer = ok(PATH, &chat(json!({"logprobs": true, "top_logprobs": 20, "max_tokens": 16})));
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().expect("logprobs");
    assert_eq!(tokens.len(), 16);
    let mut text = Vec::new();
    for token in tokens {
        let number = |value: &Value| value["logprob"].as_f64().expect("a number");
        let top: Vec<f64> = token["top_logprobs"].as_array().expect("top").iter().map(number).collect();
        assert_eq!(top.len(), 20);
        assert!(top.windows(2).all(|pair| pair[0] >= pair[1]), "{top:?}");
        let sum: f64 = top.iter().map(|logprob| logprob.exp()).sum();
        assert!(sum > 0.0 && sum <= 1.0 + 1e-5, "{sum}");
        // At temperature 0 the likeliest is chosen.
        assert_eq!((number(token), &token["token"]), (top[0], &token["top_logprobs"][0]["token"]));
        text.extend(token["bytes"].as_array().expect("bytes").iter().map(|b| b.as_u64().expect("a byte") as u8));
    }
    assert_eq!(String::from_utf8_lossy(&text), contents(&answer)[0]);
    assert!(ok(PATH, &chat(json!({})))["choices"][0]["logprobs"].is_null());
}

#[test]
fn a_bias_forbids_and_forces_tokens() {
    let first = |more: Value| {
        let answer = ok(PATH, &chat(with(json!({"logprobs": true, "max_tokens": 1}), &more)));
        answer["choices"][0]["logprobs"]["content"][0]["token"].as_str().expect("a token").to_owned()
    };
    let id = |token: &str| {
        ok("/tokenize", &json!({"model": MODEL, "prompt": token, "add_special_tokens": false}))["tokens"][0].clone()
    };
    let likeliest = first(json!({}));
    assert_ne!(first(json!({"logit_bias": {id(&likeliest).to_string(): -100}})), likeliest);
    assert_eq!(first(json!({"logit_bias": {id("Q").to_string(): 100}})), "Q");
}

#[test]
fn a_prompt_is_cached_for_those_who_share_its_salt() {
    let long = "A sentence that is long enough to fill some pages. ".repeat(6);
    let body = |more: Value| {
        let messages = json!([{"role": "system", "content": long}, {"role": "user", "content": "a"}]);
        with(chat(json!({"messages": messages, "cache_salt": "test"})), &more)
    };
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
    let (cold, warm) = (ok(PATH, &body(json!({}))), ok(PATH, &body(json!({}))));
    assert_eq!(cached(&cold), 0);
    let prompt = warm["usage"]["prompt_tokens"].as_u64().expect("a count");
    assert!(cached(&warm) >= prompt - 17 && cached(&warm) < prompt, "{} of {prompt}", cached(&warm));
    assert_eq!(warm["timings"]["cache_n"], warm["usage"]["prompt_tokens_details"]["cached_tokens"]);
    assert_eq!(contents(&cold), contents(&warm));
    let other = ok(PATH, &body(json!({"cache_salt": "other"})));
    assert_eq!((cached(&other), contents(&other)), (0, contents(&cold)));
}

#[test]
fn the_last_message_can_be_continued() {
    let user = json!({"role": "user", "content": "Say something."});
    let messages = json!([user, {"role": "assistant", "content": "An answer "}]);
    let continued = ok(PATH, &chat(json!({"messages": messages, "continue_final_message": true})));
    // The same prompt, written out.
    let prompt = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nSay something.<|im_end|>\n\
        <|im_start|>assistant\nAn answer";
    let written =
        json!({"model": MODEL, "prompt": prompt, "add_special_tokens": false, "max_tokens": 12, "temperature": 0});
    let written = ok("/v1/completions", &written);
    assert_eq!(continued["usage"]["prompt_tokens"], written["usage"]["prompt_tokens"]);
    assert_eq!(json!(contents(&continued)[0]), written["choices"][0]["text"]);
}

#[test]
fn whoever_leaves_frees_the_model() {
    let mut stream =
        server().open(PATH, &chat(json!({"stream": true, "max_tokens": 3500, "ignore_eos": true, "n": 8})));
    let mut first = [0; 64];
    stream.read_exact(&mut first).expect("the answer begins");
    drop(stream);
    // Eight answers hold every sequence of the engine: another is answered only once they are gone, which takes a step.
    let answer = ok(PATH, &chat(json!({"n": 8})));
    assert_eq!(contents(&answer).len(), 8);
}

#[test]
fn answers_name_the_artifact_and_the_model() {
    let answer = ok(PATH, &chat(json!({"model": null, "service_tier": "auto"})));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!(MODEL)));
    assert_eq!(answer["service_tier"], "default");
    let fingerprint = answer["system_fingerprint"].as_str().expect("a fingerprint");
    assert!(fingerprint.starts_with("moesaic-") && fingerprint.len() == 20, "{fingerprint}");
    assert_eq!(answer["choices"][0]["message"]["refusal"], Value::Null);
}
