//! Random answers under random schemas, the bytes of tokens, and grammars that mean harm.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::serving::TokenConstraint;
use crate::text::{Tokenizer, golden};

/// Columns of the logits: more than the tokenizer has tokens, as with most models.
const PADDED: usize = 640;

/// The tokenizer of a fixture and its end of text.
fn fixture(name: &str) -> (Tokenizer, u32) {
    let tokenizer = golden::tokenizer(name);
    let eos = ["<|im_end|>", "</s>", "<|eot_id|>"].iter().find_map(|t| tokenizer.token_to_id(t));
    (tokenizer, eos.expect("an end of text"))
}

fn factory(name: &str) -> (GrammarFactory, Tokenizer, u32) {
    let (tokenizer, eos) = fixture(name);
    (GrammarFactory::new(&tokenizer, PADDED, &[eos, 99_999]).expect("known decoder"), tokenizer, eos)
}

fn is_set(mask: &[u32], token: usize) -> bool {
    mask[token / 32] >> (token % 32) & 1 == 1
}

fn tokens_of(mask: &[u32]) -> Vec<u32> {
    (0..mask.len() * 32).filter(|t| is_set(mask, *t)).map(|t| t as u32).collect()
}

/// A text of allowed tokens, chosen by `numbers`; once those are used up, the shortest way out is preferred.
fn answer(constraint: &mut dyn TokenConstraint, tokenizer: &Tokenizer, eos: u32, numbers: &[u16]) -> Option<String> {
    let (mut ids, mut numbers) = (Vec::new(), numbers.iter());
    while !constraint.is_finished() {
        let allowed = tokens_of(constraint.allowed().expect("within its limits"));
        assert!(!allowed.is_empty() && allowed.iter().all(|t| (*t as usize) < tokenizer.vocab_size()), "{allowed:?}");
        let token = match numbers.next() {
            Some(number) => allowed[*number as usize % allowed.len()],
            None => *allowed.iter().min_by_key(|t| closing(tokenizer, eos, **t)).expect("one"),
        };
        constraint.accept(token).expect("allowed");
        if token == eos {
            break;
        }
        ids.push(token);
        if ids.len() > 600 {
            return None;
        }
    }
    Some(tokenizer.decode(&ids, false).expect("known ids"))
}

/// Small for tokens that end something.
fn closing(tokenizer: &Tokenizer, eos: u32, token: u32) -> usize {
    let bytes = tokenizer.token_bytes(token).unwrap_or_default();
    let order: &[&[u8]] = &[b"\"", b"}", b"]", b"0", b"1", b":", b","];
    if token == eos { 0 } else { 1 + order.iter().position(|o| *o == bytes).unwrap_or(order.len()) }
}

fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "null"})),
        (-50i64..50, 0i64..40).prop_map(|(low, n)| json!({"type": "integer", "minimum": low, "maximum": low + n})),
        (0u64..4, 0u64..4).prop_map(|(low, n)| json!({"type": "string", "minLength": low, "maxLength": low + n})),
        Just(json!({"type": "string", "pattern": "^[a-c]{2,3}$"})),
        prop::collection::vec("[a-zé\" ]{0,5}", 1..4).prop_map(|texts| json!({"enum": texts})),
        Just(json!({"const": {"k": [1, null, "x"]}})),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            (inner.clone(), 0u64..3, 0u64..3)
                .prop_map(|(s, low, n)| json!({"type": "array", "items": s, "minItems": low, "maxItems": low + n})),
            prop::collection::vec((inner.clone(), any::<bool>()), 1..4).prop_map(object),
            prop::collection::vec(inner, 1..3).prop_map(|any| json!({"anyOf": any})),
        ]
    })
}

fn object(fields: Vec<(Value, bool)>) -> Value {
    let name = |i: usize| ["name", "a b", "é", "z"][i].to_owned();
    let required: Vec<String> = fields.iter().enumerate().filter(|(_, (_, r))| *r).map(|(i, _)| name(i)).collect();
    let properties: serde_json::Map<String, Value> =
        fields.into_iter().enumerate().map(|(i, (schema, _))| (name(i), schema)).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// Whether `value` is what `schema` describes, for the keywords that [`schema`] writes.
fn is_valid(schema: &Value, value: &Value) -> bool {
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().any(|s| is_valid(s, value));
    }
    if let Some(choices) = schema["enum"].as_array() {
        return choices.contains(value);
    }
    if !schema["const"].is_null() {
        return schema["const"] == *value;
    }
    let within = |n: usize, low: &str, high: &str| {
        schema[low].as_u64().is_none_or(|l| n as u64 >= l) && schema[high].as_u64().is_none_or(|h| n as u64 <= h)
    };
    match (schema["type"].as_str().expect("a type"), value) {
        ("boolean", Value::Bool(_)) | ("null", Value::Null) => true,
        ("integer", Value::Number(n)) => n.as_i64().is_some_and(|n| {
            n >= schema["minimum"].as_i64().expect("bound") && n <= schema["maximum"].as_i64().expect("bound")
        }),
        ("string", Value::String(text)) if schema["pattern"].is_string() => {
            (2..=3).contains(&text.len()) && text.chars().all(|c| ('a'..='c').contains(&c))
        }
        ("string", Value::String(text)) => within(text.chars().count(), "minLength", "maxLength"),
        ("array", Value::Array(items)) => {
            within(items.len(), "minItems", "maxItems") && items.iter().all(|item| is_valid(&schema["items"], item))
        }
        ("object", Value::Object(fields)) => {
            let required = schema["required"].as_array().expect("list");
            required.iter().all(|name| fields.contains_key(name.as_str().expect("name")))
                && fields.iter().all(|(name, field)| is_valid(&schema["properties"][name], field))
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_answer_under_a_schema_is_valid(
        schema in schema(),
        numbers in prop::collection::vec(any::<u16>(), 0..60),
        which in 0usize..2,
    ) {
        let (factory, tokenizer, eos) = factory(["qwen3", "mistral"][which]);
        let wrapped = json!({"type": "object", "properties": {"v": schema}, "required": ["v"], "additionalProperties": false});
        let mut constraint = factory.compile(&Grammar::JsonSchema(wrapped.clone())).expect("enforceable");
        if let Some(text) = answer(constraint.as_mut(), &tokenizer, eos, &numbers) {
            let value: Value = serde_json::from_str(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
            prop_assert!(is_valid(&wrapped, &value), "{text} against {wrapped}");
        }
    }

    #[test]
    fn a_fork_goes_its_own_way(cut in 0usize..12, numbers in prop::collection::vec(any::<u16>(), 12..30)) {
        let (factory, tokenizer, eos) = factory("qwen3");
        let grammar = Grammar::JsonSchema(json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
            "required": ["a", "b"], "additionalProperties": false}));
        let mut constraint = factory.compile(&grammar).expect("enforceable");
        for number in &numbers[..cut] {
            let allowed = tokens_of(constraint.allowed().expect("allowed"));
            constraint.accept(allowed[*number as usize % allowed.len()]).expect("allowed");
            if constraint.is_finished() {
                return Ok(());
            }
        }
        let mut fork = constraint.fork();
        prop_assert_eq!(fork.allowed().expect("fork"), constraint.allowed().expect("original"));
        let first = answer(fork.as_mut(), &tokenizer, eos, &numbers[cut..]);
        prop_assert_eq!(answer(constraint.as_mut(), &tokenizer, eos, &numbers[cut..]), first);
    }

    #[test]
    fn any_grammar_is_an_answer_or_an_error(text in "[a-z(){}\\[\\]|*+?:/\"\\\\%@<>.,\n 0-9-]{0,60}") {
        let (factory, ..) = factory("mistral");
        for grammar in [Grammar::Regex(text.clone()), Grammar::Lark(text.clone()), Grammar::Lark(format!("start: {text}"))] {
            let _ = factory.compile(&grammar);
        }
    }

    #[test]
    fn any_json_is_a_schema_or_an_error(schema in any_schema()) {
        let (factory, ..) = factory("mistral");
        if let Ok(mut constraint) = factory.compile(&Grammar::JsonSchema(schema)) {
            let _ = constraint.allowed();
        }
    }
}

/// JSON with keywords of schemas in places where they may make no sense.
fn any_schema() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "type",
        "properties",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "required",
        "enum",
        "const",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "multipleOf",
        "minLength",
        "maxItems",
        "prefixItems",
        "not",
        "if",
        "then",
        "additionalProperties",
        "patternProperties",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (-1e9f64..1e9).prop_map(Value::from),
        Just(json!("#")),
        Just(json!("#/$defs/x")),
        Just(json!("object")),
        Just(json!("string")),
        Just(json!("date-time")),
        "[a-z(\\[*+]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Value>()),
        ]
    })
}

#[test]
fn tokens_have_the_bytes_that_decoding_gives_them() {
    for name in golden::WITH_TOKENIZER {
        let (tokenizer, cases) = (golden::tokenizer(name), golden::json(name, "tokenizer_golden.json"));
        for case in cases["encode"].as_array().expect("cases") {
            let (ids, text) = (golden::ids(&case["ids"]), case["text"].as_str().expect("text"));
            let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id).expect("known decoder")).collect();
            let decoded = tokenizer.decode(&ids, false).expect("known ids");
            let joined = String::from_utf8_lossy(&bytes);
            // SentencePiece drops the first space of a text; no token can know that.
            assert!(joined == decoded || joined == format!(" {decoded}"), "{name}: {text:?}: {joined:?} {decoded:?}");
        }
    }
}

#[test]
fn every_text_of_a_tokenizer_fixture_can_be_written() {
    for name in golden::WITH_TOKENIZER {
        let (factory, tokenizer, eos) = factory(name);
        let cases = golden::json(name, "tokenizer_golden.json");
        for case in cases["decode"].as_array().expect("cases").iter().take(60) {
            let ids: Vec<u32> = golden::ids(&case["ids"]).into_iter().filter(|id| !tokenizer.is_special(*id)).collect();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id).expect("known")).collect();
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let mut constraint = factory.compile(&Grammar::Choice(vec![text.clone() + "!", text])).expect("valid");
            for id in ids {
                assert!(is_set(constraint.allowed().expect("mask"), id as usize), "{name}: {case}");
                constraint.accept(id).expect("allowed");
            }
            assert!(is_set(constraint.allowed().expect("mask"), eos as usize), "{name}: {case}");
        }
    }
}

#[test]
fn the_end_comes_where_the_grammar_allows_it() {
    let (factory, tokenizer, eos) = factory("qwen3");
    let id = |text: &str| tokenizer.token_to_id(text).expect("a letter");
    let mut constraint = factory.compile(&Grammar::Regex("ab?".into())).expect("valid");
    assert_eq!(tokens_of(constraint.allowed().expect("mask")), [id("a"), id("ab")]);
    assert!(constraint.accept(eos).is_err(), "the text may not be empty");
    let mut constraint = factory.compile(&Grammar::Regex("ab?".into())).expect("valid");
    constraint.accept(id("a")).expect("allowed");
    assert!(!constraint.is_finished());
    let mut both = vec![id("b"), eos];
    both.sort_unstable();
    assert_eq!(tokens_of(constraint.allowed().expect("mask")), both);
    let mut other = constraint.fork();
    constraint.accept(id("b")).expect("allowed");
    other.accept(eos).expect("allowed");
    assert!(constraint.is_finished() && other.is_finished(), "nothing may follow either");
}

#[test]
fn a_token_that_is_not_allowed_is_an_error_that_stays() {
    let (factory, tokenizer, _) = factory("qwen3");
    let mut constraint = factory.compile(&Grammar::JsonObject).expect("valid");
    assert!(constraint.accept(tokenizer.token_to_id("x").expect("a letter")).is_err());
    assert!(constraint.allowed().is_err());
    assert!(factory.compile(&Grammar::JsonObject).expect("valid").accept(PADDED as u32 + 7).is_err());
}

#[test]
fn json_objects_and_choices() {
    let (factory, tokenizer, eos) = factory("mistral");
    for numbers in [[].as_slice(), &[7, 99, 3, 250, 11, 42, 5, 1, 80, 33], &[1; 30]] {
        let mut object = factory.compile(&Grammar::JsonObject).expect("valid");
        let text = answer(object.as_mut(), &tokenizer, eos, numbers).expect("short");
        assert!(serde_json::from_str::<Value>(&text).expect("JSON").is_object(), "{text}");
        let choices = ["yes".to_owned(), r"a\x41".into(), "\"né\n".into()];
        let mut choice = factory.compile(&Grammar::Choice(choices.to_vec())).expect("valid");
        let text = answer(choice.as_mut(), &tokenizer, eos, numbers).expect("short");
        assert!(choices.contains(&text), "{text:?}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused_by_name() {
    let (factory, ..) = factory("qwen3");
    let error = |schema: Value| factory.compile(&Grammar::JsonSchema(schema)).err().expect("refused").to_string();
    for (schema, part) in [
        (json!({"type": "object", "propertyNames": {"pattern": "^a"}}), "propertyNames"),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"type": "strnig"}), "strnig"),
        (json!({"type": "string", "pattern": "(?<=a)b"}), "look"),
        (json!({"$ref": "#/$defs/missing"}), "missing"),
        (json!({"$ref": "http://example.com/schema.json"}), "example.com"),
        (json!({"type": "integer", "minimum": 5, "maximum": 3}), "5"),
        (json!([1]), "must be an object"),
        (json!({"type": "object", "x-guidance": {"lenient": true}}), "x-guidance"),
    ] {
        let message = error(schema.clone());
        assert!(message.contains(part) && message.len() <= 500, "{schema}: {message}");
    }
}

#[test]
fn tokenizers_without_bytes_are_refused() {
    let mut file: Value = serde_json::from_slice(&golden::bytes("qwen3", "tokenizer.json")).expect("JSON");
    file["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes(), "changed").expect("valid");
    assert!(GrammarFactory::new(&tokenizer, PADDED, &[]).expect_err("no bytes").is_internal());
}

/// Grammars that are small to write and large to compile or to follow. That they return at all is the test.
#[test]
fn hostile_grammars_are_refused_or_bounded() {
    let (factory, tokenizer, eos) = factory("qwen3");
    let nested = |n: usize| (0..n).fold(json!({"type": "null"}), |s, _| json!({"type": "array", "items": s}));
    let wide: serde_json::Map<String, Value> =
        (0..1500).map(|i| (format!("p{i}"), json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}))).collect();
    let doubling: serde_json::Map<String, Value> = (0..40)
        .map(|i| {
            (
                format!("d{i}"),
                json!({"allOf": [{"$ref": format!("#/$defs/d{}", i + 1)}, {"$ref": format!("#/$defs/d{}", i + 1)}]}),
            )
        })
        .chain([("d40".to_owned(), json!({"type": "string"}))])
        .collect();
    let chain: serde_json::Map<String, Value> =
        (0..5000).map(|i| (format!("c{i}"), json!({"$ref": format!("#/$defs/c{}", (i + 1) % 5000)}))).collect();
    let schemas = [
        nested(60),
        nested(120),
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"oneOf": [{"$ref": "#"}], "not": {"$ref": "#"}}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
        json!({"$defs": chain, "$ref": "#/$defs/c0"}),
        json!({"$defs": doubling, "$ref": "#/$defs/d0"}),
        json!({"type": "object", "properties": wide, "additionalProperties": false}),
        json!({"type": "string", "maxLength": 4_000_000_000u64}),
        json!({"type": "string", "minLength": 19_999}),
        json!({"type": "array", "maxItems": 19_999, "items": {"type": "array", "maxItems": 19_999, "items": {}}}),
        json!({"type": "string", "pattern": "^((((a{0,100}){0,100}){0,100}){0,100})$"}),
        json!({"type": "string", "pattern": "(.*a){20}.*"}),
        json!({"type": "string", "pattern": "(a|b)*a(a|b){60}"}),
        json!({"type": "number", "multipleOf": 1e-300}),
        json!({"type": "integer", "multipleOf": 999_999_937, "minimum": 7}),
        json!({"type": "integer", "minimum": -1e308, "maximum": 1e308}),
        json!({"allOf": (0..6).map(|i| json!({"type": "string", "pattern": format!("^.*{i}.*$")})).collect::<Vec<_>>()}),
        json!({"allOf": (0..200).map(|i| json!({"type": "string", "pattern": format!("^.*{i}.*$")})).collect::<Vec<_>>()}),
        json!({"allOf": (0..14).map(|i| json!({"oneOf": [{"properties": {format!("a{i}"): {"type": "string"}}, "required": [format!("a{i}")]}, {"properties": {format!("b{i}"): {"type": "null"}}, "required": [format!("b{i}")]}]})).collect::<Vec<_>>()}),
        json!({"enum": (0..20_000).collect::<Vec<u32>>()}),
    ];
    let texts = [
        "(".repeat(100_000),
        "a{20000}".into(),
        "(a{1000}){1000}".into(),
        "((a{100}){100}){100}".into(),
        "(.*a){30}.*".into(),
        "(a|b)*a(a|b){100}".into(),
        ".{0,20000}x".into(),
        "[^a]".repeat(8000),
        "a|".repeat(16_000),
        "(?i)\\p{L}{0,2000}".into(),
        "\\w{3000}".into(),
        "x".repeat(70_000),
    ];
    let larks = [
        "start: start start | \"a\"".to_owned(),
        "start: a\na: b\nb: a".into(),
        "start: a*\na: b*\nb: c*\nc: \"x\"*".into(),
        format!("start: {}\"a\"{}", "(".repeat(3000), ")".repeat(3000)),
        format!("start: {}", "\"a\"? ".repeat(30_000)),
        format!("start: {}", "\"a\"? ".repeat(6_000)),
        (0..40).map(|i| format!("r{i}: r{} r{}\n", i + 1, i + 1)).collect::<String>() + "r40: \"a\"\nstart: r0",
        "start: (\"a\"{10000}){10000}".into(),
        "start: /(a|b)*a(a|b){50}/ start".into(),
        "start: @other".into(),
        "start: %json {\"type\": \"object\", \"x-guidance\": 3}".into(),
        "start: %regex {\"substring_chars\": \"ab\"}".into(),
        "%import common.INT\nstart: INT".into(),
        "start: <[12345678]>".into(),
        "start: <nothing>".into(),
    ];
    let grammars = schemas.into_iter().map(Grammar::JsonSchema).chain(texts.into_iter().map(Grammar::Regex));
    for grammar in grammars.chain(larks.into_iter().map(Grammar::Lark)) {
        let began = std::time::Instant::now();
        let shown: String = format!("{grammar:?}").chars().take(120).collect();
        let Ok(mut constraint) = factory.compile(&grammar) else {
            println!("{:?} refused {shown}", began.elapsed());
            continue;
        };
        let (compiled, mut slowest, mut steps) = (began.elapsed(), std::time::Duration::ZERO, 0);
        let letters: Vec<u32> =
            ["a", "b", "\"", "[", "{", "1"].iter().filter_map(|t| tokenizer.token_to_id(t)).collect();
        while steps < 40 && !constraint.is_finished() {
            let step = std::time::Instant::now();
            let Ok(mask) = constraint.allowed() else { break };
            slowest = slowest.max(step.elapsed());
            let allowed = tokens_of(mask);
            let token =
                *letters.iter().cycle().skip(steps).take(6).find(|t| allowed.contains(t)).unwrap_or(&allowed[0]);
            if token == eos || constraint.accept(token).is_err() {
                break;
            }
            steps += 1;
        }
        println!("{compiled:?} compiled, slowest step {slowest:?} of {steps}: {shown}");
    }
}
