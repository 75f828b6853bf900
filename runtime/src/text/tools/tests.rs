//! Every dialect: calls found, text kept, prompts with tools, grammars whose answers parse.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::constrain::GrammarFactory;
use crate::text::{ChatRequest, ChatTemplate, Tokenizer, golden};

/// Templates in the manner of the families: what matters is the marks they write.
fn template(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Hermes => {
            "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}\n{% endfor %}</tools> Use <tool_call></tool_call>{% endif %}\
             {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}\
             {% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
        }
        Dialect::Llama3 => {
            "{% if tools %}Environment: ipython\n{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot_id|>{% endfor %}{# <|python_tag|> #}"
        }
        Dialect::Mistral => {
            "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}[INST] {{ m.content }}{% if m.tool_calls %}[TOOL_CALLS] [{{ m.tool_calls | tojson }}]{% endif %}[/INST]{% endfor %}"
        }
        Dialect::Granite => {
            "{% if tools %}<|start_of_role|>tools<|end_of_role|>{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}{# <|tool_call|> #}"
        }
        Dialect::Phi => {
            "{% if tools %}<|tool|>{{ tools | tojson }}<|/tool|>{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        }
        Dialect::Harmony => {
            "{% if tools %}namespace functions {% for t in tools %}{{ t.function.name }}{% endfor %}{% endif %}{% for m in messages %}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant"
        }
        Dialect::DeepSeek => {
            "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.function.name }}\n```json\n{{ '' + c.function.arguments + '' }}\n```<｜tool▁call▁end｜>{% endfor %}{% endfor %}"
        }
        Dialect::Json => {
            "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
        }
    }
}

const ALL: [Dialect; 8] = [
    Dialect::Hermes,
    Dialect::Llama3,
    Dialect::Mistral,
    Dialect::Granite,
    Dialect::Phi,
    Dialect::Harmony,
    Dialect::DeepSeek,
    Dialect::Json,
];

fn chat_template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, [("bos_token", "<s>")]).expect("valid template")
}

/// A tokenizer with the marks of all dialects as special tokens.
fn tokenizer_with(marks: &[&str]) -> Tokenizer {
    let mut file: Value = serde_json::from_slice(&golden::bytes("qwen3", "tokenizer.json")).expect("JSON");
    let base = golden::tokenizer("qwen3").vocab_size();
    let added = file["added_tokens"].as_array_mut().expect("list");
    for (i, mark) in marks.iter().enumerate() {
        added.push(json!({"id": base + i, "content": mark, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}));
    }
    Tokenizer::from_bytes(file.to_string().as_bytes(), "with marks").expect("valid")
}

/// A tokenizer without marks as tokens; that of qwen3 has `<tool_call>`, which tells a dialect.
fn tokenizer_of(dialect: Dialect) -> Tokenizer {
    golden::tokenizer(if dialect == Dialect::Json { "mistral" } else { "qwen3" })
}

fn format_of(dialect: Dialect) -> AnswerFormat {
    AnswerFormat::detect(&chat_template(template(dialect)), &tokenizer_of(dialect))
}

fn tools(choice: &Value, parallel: bool) -> ToolSet {
    let list = [
        json!({"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": {"type": "object",
            "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["city"], "additionalProperties": false}}}),
        json!({"type": "function", "name": "stop-it", "strict": true}),
    ];
    ToolSet::new(&list, Some(choice), parallel).expect("valid").expect("some")
}

/// The answer of a parser that gets `text` in pieces of so many characters, again and again.
fn parsed(format: &AnswerFormat, prompt: &str, tools: Option<&ToolSet>, text: &str, sizes: &[usize]) -> ParsedAnswer {
    let (mut parser, mut answer) = (format.parser(prompt, tools), ParsedAnswer::default());
    let (mut rest, mut sizes) = (text.chars().collect::<Vec<_>>(), sizes.iter().cycle());
    while !rest.is_empty() {
        let size = (*sizes.next().unwrap_or(&usize::MAX)).clamp(1, rest.len());
        answer.extend(parser.push(&rest.drain(..size).collect::<String>()));
    }
    answer.extend(parser.finish());
    assert_eq!(answer.calls.len(), parser.calls());
    answer.calls.iter_mut().for_each(|call| call.id.clear());
    answer
}

fn call(name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: String::new(), name: name.into(), arguments: arguments.into() }
}

#[test]
fn templates_tell_their_dialect() {
    for dialect in ALL {
        assert_eq!(format_of(dialect).dialect(), dialect);
    }
    let plain = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let format = AnswerFormat::detect(&chat_template(plain), &tokenizer_with(&["[TOOL_CALLS]"]));
    assert_eq!(format.dialect(), Dialect::Hermes, "a template without tools gets a system message that says how");
}

/// Two calls as each dialect writes them, with text before where it may have some.
fn two_calls(dialect: Dialect) -> Vec<(&'static str, &'static str)> {
    match dialect {
        Dialect::Hermes => vec![(
            "Let me see.",
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome}\\\"\"}}\n</tool_call>\n<tool_call>\n{\"arguments\": {}, \"name\": \"stop-it\"}\n</tool_call>\n",
        )],
        Dialect::Llama3 => vec![
            (
                "",
                "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Rome}\\\"\"}}; {\"name\": \"stop-it\", \"parameters\": {}}",
            ),
            (
                "So:",
                "<|python_tag|>[{\"function\": \"get_weather\", \"id\": 3, \"parameters\": {\"city\": \"Rome}\\\"\"}}, {\"name\": \"stop-it\"}]",
            ),
        ],
        Dialect::Mistral => vec![
            (
                "Hm",
                "[TOOL_CALLS] [{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome}\\\"\"}}, {\"name\": \"stop-it\", \"arguments\": {}}]",
            ),
            ("", "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Rome}\\\"\"}[TOOL_CALLS]stop-it[CALL_ID]abc123def[ARGS]{}"),
            ("", "[TOOL_CALLS]get_weather{\"city\": \"Rome}\\\"\"}[TOOL_CALLS]stop-it{}"),
        ],
        Dialect::Granite => vec![(
            "",
            "<|tool_call|>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome}\\\"\"}}, {\"name\": \"stop-it\", \"arguments\": \"{}\"}]",
        )],
        Dialect::Phi => vec![
            (
                "",
                "<|tool_call|>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome}\\\"\"}}, {\"name\": \"stop-it\", \"parameters\": {}}]<|/tool_call|>",
            ),
            (
                "Yes: ",
                "functools[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome}\\\"\"}},{\"name\": \"stop-it\", \"arguments\": {}}]",
            ),
        ],
        Dialect::Harmony => vec![(
            "",
            "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Rome}\\\"\"}<|call|><|start|>assistant to=functions.stop-it<|channel|>commentary json<|message|>{}<|call|>",
        )],
        Dialect::DeepSeek => vec![
            (
                "One moment. ",
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Rome}\\\"\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>stop-it\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            ),
            (
                "",
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Rome}\\\"\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>stop-it<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            ),
        ],
        Dialect::Json => vec![
            (
                "",
                "[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome}\\\"\"}}, {\"name\": \"stop-it\", \"arguments\": {}}]",
            ),
            (
                "",
                " {\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome}\\\"\"}}\n{\"name\": \"stop-it\", \"parameters\": {}}",
            ),
        ],
    }
}

#[test]
fn calls_are_found_in_every_dialect_however_they_are_cut() {
    let set = tools(&json!("auto"), true);
    let expected = vec![call("get_weather", "{\"city\": \"Rome}\\\"\"}"), call("stop-it", "{}")];
    for dialect in ALL {
        for (before, calls) in two_calls(dialect) {
            for sizes in [&[usize::MAX][..], &[1], &[2, 3], &[7, 1, 11]] {
                let answer = parsed(&format_of(dialect), "", Some(&set), &format!("{before}{calls}"), sizes);
                assert_eq!(answer.calls, expected, "{dialect:?} {calls}");
                assert_eq!((answer.content.as_str(), answer.reasoning.as_str()), (before, ""), "{dialect:?} {calls}");
            }
        }
    }
}

#[test]
fn without_tools_calls_are_content() {
    for dialect in ALL.into_iter().filter(|d| *d != Dialect::Harmony) {
        for (before, calls) in two_calls(dialect) {
            let text = format!("{before}{calls}");
            let answer = parsed(&format_of(dialect), "", None, &text, &[5]);
            assert_eq!((answer.content, answer.calls), (text, vec![]), "{dialect:?}");
        }
    }
    let harmony = parsed(&format_of(Dialect::Harmony), "", None, two_calls(Dialect::Harmony)[0].1, &[3]);
    assert_eq!((harmony.content.as_str(), harmony.calls.len()), ("{\"city\": \"Rome}\\\"\"}{}", 0));
}

#[test]
fn one_call_only_where_calls_may_not_be_parallel() {
    let set = tools(&json!("auto"), false);
    for dialect in ALL {
        for (before, calls) in two_calls(dialect) {
            let mut parser = format_of(dialect).parser("", Some(&set));
            let mut answer = ParsedAnswer::default();
            answer.extend(parser.push(&format!("{before}{calls} and more")));
            assert!(parser.is_complete(), "{dialect:?}");
            answer.extend(parser.finish());
            assert_eq!((answer.calls.len(), answer.content.as_str()), (1, before), "{dialect:?} {calls}");
        }
    }
}

#[test]
fn names_are_told_before_arguments_are_complete() {
    let set = tools(&json!("auto"), true);
    let mut parser = format_of(Dialect::Hermes).parser("", Some(&set));
    assert_eq!(parser.push("Hi <tool"), [AnswerDelta::Content("Hi ".into())]);
    assert_eq!(parser.push("_call>\n{\"name\": \"get_weather\", \"argum"), []);
    let deltas = parser.push("ents\": {\"ci");
    assert!(
        matches!(&deltas[..], [AnswerDelta::CallBegin { index: 0, id, name }, AnswerDelta::CallArguments { index: 0, json }]
        if id.starts_with("call_") && name == "get_weather" && json == "{\"ci"),
        "{deltas:?}"
    );
    assert_eq!(parser.push("ty\": 1"), [AnswerDelta::CallArguments { index: 0, json: "ty\": 1".into() }]);
    assert_eq!(parser.finish(), [], "a call that is cut off stays as far as it came");
    assert_eq!(parser.calls(), 1);
}

#[test]
fn text_that_only_looks_like_a_call_is_content() {
    let set = tools(&json!("auto"), true);
    let cases = [
        (Dialect::Hermes, "a <tool_cal and <b> </tool_call> <think> <tool_call"),
        (Dialect::Hermes, "<tool_call>not json</tool_call> <tool_call>{\"nme\": 3}</tool_call>"),
        (Dialect::Hermes, "<tool_call>{\"name\": \"get_weather\", \"arguments\": 7}</tool_call>"),
        (Dialect::Hermes, "<tool_call>[]</tool_call> <tool_call>{\"name\": \"\", \"arguments\": {}}"),
        (Dialect::Hermes, "{\"name\": \"get_weather\", \"arguments\": {}}"),
        (Dialect::Llama3, "{\"name\": \"unknown\", \"parameters\": {}}"),
        (Dialect::Llama3, "{\"name\": \"get_weather\"}"),
        (Dialect::Llama3, "Well: {\"name\": \"get_weather\", \"parameters\": {}}"),
        (Dialect::Json, "[1, 2, {\"name\": \"get_weather\"}] {\"a\": 1}"),
        (Dialect::Json, "  \n "),
        (Dialect::Mistral, "[TOOL_CALLS] and more [TOOL_CALLS]get_weather[ARG]{}"),
        (Dialect::Phi, "functools are [fun] functools[1]"),
        (Dialect::DeepSeek, "<｜tool▁call▁begin｜>function{}"),
        (Dialect::Granite, "<|tool_call|>{]"),
    ];
    for (dialect, text) in cases {
        for sizes in [&[usize::MAX][..], &[1], &[3, 2]] {
            let answer = parsed(&format_of(dialect), "", Some(&set), text, sizes);
            assert_eq!((answer.content.as_str(), answer.calls.len()), (text, 0), "{dialect:?}");
        }
    }
    let nested = "<tool_call>x<tool_call>{\"name\": \"stop-it\", \"arguments\": {}}</tool_call>!";
    let answer = parsed(&format_of(Dialect::Hermes), "", Some(&set), nested, &[4]);
    assert_eq!((answer.content.as_str(), answer.calls.len()), ("<tool_call>x!", 1));
    let endless = format!("<tool_call>{{\"x\": \"{}", "y".repeat(40_000));
    assert_eq!(parsed(&format_of(Dialect::Hermes), "", Some(&set), &endless, &[64]).content, endless);
}

#[test]
fn thoughts_are_kept_apart() {
    let set = tools(&json!("auto"), true);
    let hermes = format_of(Dialect::Hermes);
    let text =
        "<think>\nI think </thin\n\nso.\n</think>\n\nYes <think>\n<tool_call>{\"name\": \"stop-it\"}</tool_call>";
    for sizes in [&[usize::MAX][..], &[1], &[2, 9]] {
        let answer = parsed(&hermes, "", Some(&set), text, sizes);
        assert_eq!(answer.reasoning, "I think </thin\n\nso.");
        assert_eq!((answer.content.as_str(), answer.calls.len()), ("Yes <think>\n", 1));
        let open = parsed(&hermes, "assistant\n<think>\n", None, " a\n</think>\nb", sizes);
        assert_eq!((open.reasoning.as_str(), open.content.as_str()), ("a", "b"));
        let cut = parsed(&hermes, "", None, "<think>a </thi", sizes);
        assert_eq!((cut.reasoning.as_str(), cut.content.as_str()), ("a </thi", ""));
        let harmony = "<|channel|>analysis<|message|>Hm <|x<|end|><|start|>assistant<|channel|>commentary<|message|>First. <|end|>\
            <|start|>assistant<|channel|>final<|message|>Yes.<|return|>";
        let answer = parsed(&format_of(Dialect::Harmony), "", Some(&set), harmony, sizes);
        assert_eq!((answer.reasoning.as_str(), answer.content.as_str()), ("Hm <|x", "First. Yes."));
        let plain = parsed(&format_of(Dialect::Harmony), "", Some(&set), " to be or not", sizes);
        assert_eq!(plain.content, " to be or not");
    }
    let plain = AnswerFormat::detect(
        &chat_template("{% for m in messages %}{{ m.content }}{% endfor %}"),
        &golden::tokenizer("qwen3"),
    );
    assert_eq!(parsed(&plain, "", None, "<think>a</think>", &[1]).content, "<think>a</think>", "no mark of this model");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Any text of the dialects' pieces, cut in any way, gives what it gives uncut; and nothing gets lost.
    #[test]
    fn how_a_text_is_cut_does_not_matter(
        dialect in prop::sample::select(ALL.to_vec()),
        pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..12),
        sizes in prop::collection::vec(1usize..9, 1..6),
        with_tools in any::<bool>(),
        open in any::<bool>(),
        parallel in any::<bool>(),
    ) {
        let (format, set, text) = (format_of(dialect), tools(&json!("auto"), parallel), pieces.concat());
        let (prompt, set) = (if open { "<think>\n" } else { "" }, with_tools.then_some(&set));
        let whole = parsed(&format, prompt, set, &text, &[usize::MAX]);
        prop_assert_eq!(&parsed(&format, prompt, set, &text, &sizes), &whole);
        prop_assert_eq!(&parsed(&format, prompt, set, &text, &[1]), &whole);
        if !with_tools && !open && dialect != Dialect::Harmony && !text.contains("<think>") {
            prop_assert_eq!(whole.content, text);
        }
    }
}

const PIECES: [&str; 34] = [
    "<tool_call>",
    "</tool_call>",
    "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"x\"}}",
    "{\"name\": \"stop-it\"",
    ", ",
    "\"parameters\": {}",
    "}",
    "{",
    "[",
    "]",
    "<think>",
    "</think>",
    "\n",
    " ",
    "text",
    "é",
    "<|python_tag|>",
    ";",
    "[TOOL_CALLS]",
    "get_weather",
    "[ARGS]",
    "<|tool_call|>",
    "<|/tool_call|>",
    "functools[",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "function<｜tool▁sep｜>stop-it\n```json\n",
    "```",
    "<｜tool▁call▁end｜>",
    "<|channel|>",
    "analysis",
    "<|message|>",
    "<|end|>",
    "<|start|>assistant to=functions.stop-it",
];

#[test]
fn prompts_carry_tools_calls_and_results() {
    let set = tools(&json!("auto"), true);
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "Weather?"}),
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Rome\"}"}}]}),
        json!({"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"}),
    ];
    let request = ChatRequest { tools: Some(set.definitions()), ..ChatRequest::new(&messages) };
    let render = |source: &str| {
        let template = chat_template(source);
        let format = AnswerFormat::detect(&template, &golden::tokenizer("qwen3"));
        format.render(&template, &request).expect("renders")
    };
    let hermes = render(template(Dialect::Hermes));
    assert!(
        hermes.contains("{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\"}}"),
        "an object, not a string: {hermes}"
    );
    assert!(hermes.starts_with("<tools>{\"type\": \"function\""), "{hermes}");
    let deepseek = render(template(Dialect::DeepSeek));
    assert!(deepseek.contains("```json\n{\"city\": \"Rome\"}\n```"), "the text as it is: {deepseek}");
    let plain = render("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    for part in [
        "system: Be brief.\n\nYou can call functions.",
        "{\"name\":\"get_weather\"",
        "assistant: <tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
        "user: <tool_response>\nsunny\n</tool_response>",
    ] {
        assert!(plain.contains(part), "{part} in {plain}");
    }
    let bad = [json!({"role": "assistant", "tool_calls": [{"function": {}}]})];
    let template = chat_template(template(Dialect::Hermes));
    let error = format_of(Dialect::Hermes).render(&template, &ChatRequest::new(&bad)).expect_err("no name").to_string();
    assert_eq!(error, "messages[0]: tool_calls[0].function.name must be a string");
}

#[test]
fn tool_sets_refuse_by_field() {
    let tool = |function: Value| json!({"type": "function", "function": function});
    let error = |tools: &[Value], choice: Value| ToolSet::new(tools, Some(&choice), true).expect_err("refused").field;
    let f = tool(json!({"name": "f"}));
    assert_eq!(error(&[json!(3)], json!("auto")), "tools[0]");
    assert_eq!(error(&[json!({"type": "web_search"})], json!("auto")), "tools[0].type");
    assert_eq!(error(&[f.clone(), tool(json!({"name": "a b"}))], json!("auto")), "tools[1].function.name");
    assert_eq!(error(&[tool(json!({"name": "f", "parameters": 3}))], json!("auto")), "tools[0].function.parameters");
    assert_eq!(error(&[tool(json!({"name": "f", "nonsense": 3}))], json!("auto")), "tools[0].function.nonsense");
    assert_eq!(error(&[f.clone(), f.clone()], json!("auto")), "tools[1]");
    for choice in [json!("any"), json!({"type": "function", "function": {"name": "g"}}), json!(3)] {
        assert_eq!(error(std::slice::from_ref(&f), choice), "tool_choice");
    }
    assert_eq!(error(&[], json!("required")), "tool_choice");
    assert_eq!(ToolSet::new(&[], None, true), Ok(None));
    assert_eq!(ToolSet::new(std::slice::from_ref(&f), Some(&json!("none")), true), Ok(None));
    let g = tool(json!({"name": "g"}));
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}});
    let set = ToolSet::new(&[f, g], Some(&allowed), true).expect("valid").expect("some");
    assert_eq!((set.names().collect::<Vec<_>>(), set.choice()), (vec!["g"], &ToolChoice::Required));
}

/// Marks of all dialects, as the families' tokenizers have them: special.
const MARKS: [&str; 17] = [
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|tool_call|>",
    "<|/tool_call|>",
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|start|>",
    "<|constrain|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<think>",
    "</think>",
];

/// An answer of allowed tokens, decoded as an answer is; chosen by `numbers`, then the shortest way out.
fn constrained(
    format: &AnswerFormat,
    tokenizer: &Tokenizer,
    grammar: &crate::constrain::Grammar,
    numbers: &[u16],
) -> Option<String> {
    let eos = tokenizer.token_to_id("<|im_end|>").or(tokenizer.token_to_id("</s>")).expect("an end");
    let factory = GrammarFactory::new(tokenizer, tokenizer.vocab_size(), &[eos]).expect("known decoder");
    let mut constraint = factory.compile(grammar).unwrap_or_else(|e| panic!("{e}: {grammar:?}"));
    let (mut stream, mut text, mut numbers) = (format.decode_stream(tokenizer), String::new(), numbers.iter());
    let preferred = ["\"", "}", "]", "<", "0", ":"];
    for _ in 0..900 {
        if constraint.is_finished() {
            return Some(text + &stream.finish());
        }
        let mask = constraint.allowed().expect("within limits").to_vec();
        let allowed: Vec<u32> =
            (0..mask.len() as u32 * 32).filter(|t| mask[*t as usize / 32] >> (t % 32) & 1 == 1).collect();
        let rank = |t: &u32| match tokenizer.id_to_token(*t).unwrap_or_default() {
            _ if *t == eos => 0,
            // Thoughts that are begun have to be ended.
            name if MARKS.contains(&name.as_str()) && name != "<think>" => 1,
            // A thought in ordinary tokens may go on for ever.
            name if format!("{text}{name}").starts_with("<th") => 3 + preferred.len(),
            name => 2 + preferred.iter().position(|p| *p == name).unwrap_or(preferred.len()),
        };
        let token = match numbers.next() {
            Some(n) => allowed[*n as usize % allowed.len()],
            None => *allowed.iter().min_by_key(|t| rank(t)).expect("one"),
        };
        constraint.accept(token).expect("allowed");
        if token == eos {
            return Some(text + &stream.finish());
        }
        text.push_str(stream.push(token).expect("known"));
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn calls_that_must_be_made_parse_and_keep_to_their_schema(
        dialect in prop::sample::select(ALL.to_vec()),
        special in any::<bool>(),
        named in any::<bool>(),
        numbers in prop::collection::vec(any::<u16>(), 0..50),
    ) {
        let tokenizer = if special && dialect != Dialect::Json { tokenizer_with(&MARKS) } else { tokenizer_of(dialect) };
        let format = AnswerFormat::detect(&chat_template(template(dialect)), &tokenizer);
        let choice = if named { json!({"type": "function", "function": {"name": "get_weather"}}) } else { json!("required") };
        let set = tools(&choice, true);
        let grammar = format.call_grammar("", &set).expect("small").expect("a grammar");
        let text = constrained(&format, &tokenizer, &grammar, &numbers);
        prop_assert!(text.is_some() || !numbers.is_empty(), "the shortest way out is short");
        if let Some(text) = text {
            let answer = parsed(&format, "", Some(&set), &text, &[3]);
            prop_assert!(!answer.calls.is_empty() && answer.content.trim().is_empty(), "{dialect:?} {text:?} {answer:?}");
            for call in &answer.calls {
                let arguments: Value = serde_json::from_str(&call.arguments).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
                prop_assert!(call.name == "get_weather" || !named && call.name == "stop-it", "{text}");
                prop_assert!(call.name == "stop-it" || arguments["city"].is_string(), "{text}");
            }
        }
    }
}

#[test]
fn constrained_answers_may_think_first() {
    use crate::constrain::Grammar;
    let tokenizer = tokenizer_with(&MARKS);
    let numbers: Vec<u16> = (0..25).map(|i| i * 37).collect();
    let mut complete = 0;
    for dialect in [Dialect::Hermes, Dialect::Harmony] {
        let format = AnswerFormat::detect(&chat_template(template(dialect)), &tokenizer);
        for (prompt, closed) in [("", false), ("<think>\n", false), ("<think>\n\n</think>\n\n", true)] {
            for inner in [
                Grammar::JsonObject,
                Grammar::JsonSchema(json!({"type": "object"})),
                Grammar::Regex("[{](a|/)*[}]".into()),
                Grammar::Choice(vec!["{\"a\": 1}".into()]),
                Grammar::Lark("start: \"{\" x* \"}\"\nx: \"a\"".into()),
            ] {
                let grammar = format.answer_grammar(prompt, inner.clone()).expect("small");
                assert_eq!(grammar == inner, dialect == Dialect::Hermes && closed);
                let Some(text) = constrained(&format, &tokenizer, &grammar, if closed { &[] } else { &numbers }) else {
                    continue;
                };
                complete += 1;
                let answer = parsed(&format, prompt, None, &text, &[2]);
                let content = answer.content.trim();
                assert!(
                    content.starts_with('{') && content.ends_with('}'),
                    "{dialect:?} {inner:?} {text:?} {answer:?}"
                );
            }
        }
    }
    assert!(complete >= 20, "{complete} of 30 answers came to an end");
}
