//! Golden prompts, idioms of published templates, and limits.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::*;
use crate::text::golden;

/// The template of a fixture, from wherever the fixture keeps it.
fn golden_template(fixture: &str, cases: &Value) -> ChatTemplate {
    let source = match cases["template_location"].as_str() {
        Some("chat_template.jinja") => String::from_utf8(golden::bytes(fixture, "chat_template.jinja")).expect("UTF-8"),
        _ => golden::json(fixture, "tokenizer_config.json")["chat_template"].as_str().expect("template").to_owned(),
    };
    let tokens = ["bos_token", "eos_token"];
    let tokens = tokens.iter().filter_map(|&name| Some((name, cases[name].as_str()?)));
    ChatTemplate::new(&source, tokens).expect("valid template")
}

#[test]
fn golden_prompts_are_exact() {
    for fixture in golden::WITH_TOKENIZER {
        let cases = golden::json(fixture, "chat_golden.json");
        let (template, tokenizer) = (golden_template(fixture, &cases), golden::tokenizer(fixture));
        let list = cases["cases"].as_array().expect("cases");
        assert!(list.len() >= 10);
        for case in list {
            let request = ChatRequest {
                add_generation_prompt: case["add_generation_prompt"].as_bool().expect("flag"),
                ..ChatRequest::new(case["messages"].as_array().expect("messages"))
            };
            let result = template.render(&request);
            if let Some(message) = case["error"].as_str() {
                assert_eq!(result, Err(ChatError::Raised { message: message.to_owned() }), "{fixture}");
                continue;
            }
            let prompt = result.expect("renders");
            assert_eq!(prompt, case["rendered"].as_str().expect("text"), "{fixture}: {}", case["name"]);
            assert_eq!(tokenizer.encode(&prompt, false).expect("encodes"), golden::ids(&case["ids"]));
        }
    }
}

fn render(source: &str, request: &ChatRequest<'_>) -> Result<String, ChatError> {
    ChatTemplate::new(source, [("bos_token", "<s>"), ("eos_token", "</s>")])?.render(request)
}

/// The text of `source` for a short conversation.
fn text(source: &str) -> String {
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": " Hi there\n"}),
        json!({"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello", "tool_calls": [
            {"function": {"name": "f", "arguments": {"b": "<1>", "a": [1, 2.5, null, true]}}}]}),
    ];
    render(source, &ChatRequest::new(&messages)).expect("renders")
}

/// The template that SmolLM2-Instruct carries: no whitespace control, literal line breaks.
#[test]
fn smollm2_template() {
    let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
        {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let messages = [json!({"role": "user", "content": "Hi"})];
    assert_eq!(
        render(source, &ChatRequest::new(&messages)).expect("renders"),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn idioms_of_published_templates() {
    let cases = [
        ("{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}", "aus"),
        ("{{ messages[1:] | length }} {{ messages[-1]['role'] }}", "2 assistant"),
        ("{{ messages[2].content.split('</think>')[-1].lstrip('\\n') }}", "Hello"),
        ("{{ messages[2].content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].strip('\\n') }}", "hm"),
        ("{{ messages[1].content.strip() }}|{{ messages[1].content | trim }}", "Hi there|Hi there"),
        ("{{ messages[0].content.startswith('Be') and messages[0].content.endswith('.') }}", "True"),
        (
            "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }},{% endfor %}",
            "-,system,user,",
        ),
        ("{% for m in messages %}{{ loop.nextitem.role if not loop.last else '-' }},{% endfor %}", "user,assistant,-,"),
        ("{{ tools is defined }} {{ tools is none }} {{ nothing is defined }} {{ not tools }}", "True True False True"),
        (
            "{{ tools is iterable and tools | length > 0 }} {{ nothing is iterable }} {{ 'a' is iterable }}",
            "False True True",
        ),
        ("{{ '%s is %d' % ('x', 3) }} {{ '%s' % messages[0].role }}", "x is 3 system"),
        ("{% for k, v in {'b': 1, 'a': none}.items() %}{{ k }}={{ v }};{% endfor %}", "b=1;a=None;"),
        ("{{ messages[2].tool_calls[0].function.arguments | tojson }}", r#"{"b": "<1>", "a": [1, 2.5, null, true]}"#),
        ("{{ messages[0].get('name', 'none') }} {{ 'role' in messages[0] }}", "none True"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "3"),
        (
            "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.role }} {% endfor %}",
            "system assistant ",
        ),
        ("{% for m in messages %}{% if loop.first %}{% break %}{% endif %}x{% endfor %}", ""),
        ("{% macro line(x, end='!') %}{{ x }}{{ end }}{% endmacro %}{{ line('a') }}{{ line('b', end='?') }}", "a!b?"),
        ("{{ bos_token + messages | map(attribute='role') | join(',') ~ eos_token }}", "<s>system,user,assistant</s>"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        (
            "{{ messages[0].content is string }} {{ messages is iterable }} {{ messages[0] is mapping }}",
            "True True True",
        ),
        ("{{ [1, 2] + [3] }} {{ {'a': true, 'b': 'c'} }}", "[1, 2, 3] {'a': True, 'b': 'c'}"),
        ("{{ messages[0].content.upper().replace('BRIEF', 'x') }} {{ 'a b'.title() }}", "BE x. A B"),
        ("{%- generation -%} kept {%- endgeneration %}{% generation %}!{% endgeneration %}", "kept!"),
        ("{%- set x = 'a' -%}   {{- x }}\n    {% if true %}\nb\n    {% endif %}\nc", "a\nb\nc"),
        ("{{ (messages | length) // 2 }} {{ 7 % 4 }} {{ 'a' if false else 'b' }} {{ 1.0 }}", "1 3 b 1.0"),
        ("{{ messages[0].missing }}|{{ messages[0].missing or 'default' }}", "|default"),
    ];
    for (source, expected) in cases {
        assert_eq!(text(source), expected, "{source}");
    }
}

#[test]
fn tools_variables_and_time_reach_the_template() {
    let source = "{% for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %} {{ enable_thinking }} \
                  {{ strftime_now('%d %b %Y') }} {{ add_generation_prompt }} {{ messages | length }}";
    let (tools, variables) = ([json!({"z": 1, "a": "é<"})], json!({"enable_thinking": false, "messages": "ignored"}));
    let request = ChatRequest {
        tools: Some(&tools),
        variables: variables.as_object(),
        now: Some(UNIX_EPOCH + Duration::from_secs(86_400 * 365)),
        ..ChatRequest::new(&[])
    };
    let expected = "{\n  \"z\": 1,\n  \"a\": \"é<\"\n} False 01 Jan 1971 True 0";
    assert_eq!(render(source, &request).expect("renders"), expected);
}

const PARTS_TEMPLATE: &str = "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}";

#[test]
fn content_takes_the_form_that_the_template_reads() {
    let strings = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let parts = [json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})];
    let string = [json!({"role": "user", "content": "ab"})];
    assert_eq!(render(strings, &ChatRequest::new(&parts)).expect("joined"), "a\nb");
    assert_eq!(render(PARTS_TEMPLATE, &ChatRequest::new(&parts)).expect("as it is"), "ab");
    assert_eq!(render(PARTS_TEMPLATE, &ChatRequest::new(&string)).expect("wrapped"), "ab");
    let image = [json!({"role": "user", "content": [{"type": "image_url"}]})];
    let error = render(strings, &ChatRequest::new(&image)).expect_err("no text").to_string();
    assert_eq!(error, "messages[0]: content[0] is of type image_url, but this model's template takes text only");
}

#[test]
fn malformed_messages_are_named() {
    let error = |message: Value| render("{{ messages }}", &ChatRequest::new(&[message])).expect_err("malformed");
    assert_eq!(error(json!("hi")).to_string(), "messages[0]: must be an object");
    assert_eq!(error(json!({"content": "hi"})).to_string(), "messages[0]: role must be a string");
    assert!(error(json!({"role": "user", "content": 3})).to_string().starts_with("messages[0]: content must be"));
    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    let error = error(json!({"role": "user", "deep": deep})).to_string();
    assert_eq!(error, "messages[0] is nested deeper than 128 levels");
}

#[test]
fn raised_messages_come_out_of_macros_unchanged() {
    let source = "{% macro m() %}{{ raise_exception('No «tools»: {0}') }}{% endmacro %}{{ m() }}";
    let error = render(source, &ChatRequest::new(&[])).expect_err("raises");
    assert_eq!(error, ChatError::Raised { message: "No «tools»: {0}".to_owned() });
}

#[test]
fn failures_name_the_line() {
    let syntax = ChatTemplate::new("a\n{% if %}", []).expect_err("syntax");
    assert!(matches!(syntax, ChatError::Syntax { line: 2, .. }), "{syntax}");
    let failing = render("a\nb\n{{ messages[0].x.y }}", &ChatRequest::new(&[json!({"role": "user"})]));
    assert!(matches!(failing, Err(ChatError::Render { line: 3, .. })), "{failing:?}");
}

#[test]
fn runaway_templates_stop() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    let verbose = "{% set x = 'x' * 1000000 %}{% for a in range(9999) %}{{ x }}{% endfor %}";
    for source in [endless, recursive, verbose] {
        let error = render(source, &ChatRequest::new(&[])).expect_err("limited");
        assert!(matches!(error, ChatError::LimitExceeded { .. }), "{error:?}");
    }
}
