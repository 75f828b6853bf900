//! What is asked, and how: good requests from a catalogue whose answers are known, and bad ones, drawn by a seeded generator.

use serde_json::{Value, json};

use super::client::{Manner, Question};

/// The model's name.
pub const MODEL: &str = "llama31";

/// Longest sequence of the server, in tokens.
pub const CONTEXT: u64 = 512;

/// Begins the prompts of many requests, as a long system message does.
const SHARED: &str = "You answer every question about the harbour, its ships, their crews and what they carry. You name the day \
    of arrival, the day of departure and the quay. What you do not know you say you do not know.";

/// What must come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The answer of this entry of the catalogue.
    Answer(usize),
    /// An error of this status.
    Refusal(u16),
}

/// One request of the load.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is asked.
    pub question: Question,
    /// How the client behaves.
    pub manner: Manner,
    /// What must come of it, if the client stays.
    pub expected: Expected,
}

/// SplitMix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The request with this number.
pub fn case(catalogue: &[Question], number: u64) -> Case {
    let mut random = Random(number);
    let die = random.below(100);
    if die < 20 {
        let (question, status) = bad(&mut random);
        return Case { question, manner: Manner::Polite, expected: Expected::Refusal(status) };
    }
    let entry = random.below(catalogue.len());
    let question = catalogue[entry].clone();
    let manner = match die {
        20..26 => Manner::GoesWhileAsking(random.below(200)),
        26..32 => Manner::GoesWhileAsking(200 + random.below(question.body.len())),
        32..44 => Manner::GoesWhileReading(random.below(4000)),
        44..48 => Manner::GoesSlowly(random.below(2000)),
        48..58 => Manner::Slow,
        _ => Manner::Polite,
    };
    Case { question, manner, expected: Expected::Answer(entry) }
}

fn post(path: &'static str, body: &Value) -> Question {
    Question { method: "POST", path, body: body.to_string().into_bytes() }
}

/// `base` with the fields of `more`.
fn with(base: &Value, more: &Value) -> Value {
    let mut all = base.clone();
    for (name, value) in more.as_object().expect("fields") {
        all[name] = value.clone();
    }
    all
}

/// Requests whose answers depend on nothing but themselves: greedy ones, and sampled ones with a seed.
pub fn catalogue() -> Vec<Question> {
    let whole = chats().chain(completions()).collect::<Vec<_>>();
    let streamed = json!({"stream": true, "stream_options": {"include_usage": true}});
    let streamed: Vec<_> = whole.iter().map(|(path, body)| (*path, with(body, &streamed))).collect();
    let tokens = [
        ("/tokenize", json!({"model": MODEL, "prompt": SHARED})),
        ("/tokenize", json!({"messages": [{"role": "user", "content": SHARED}], "return_token_strs": true})),
        ("/detokenize", json!({"tokens": [1, 2, 3, 300]})),
    ];
    whole.iter().chain(&streamed).chain(&tokens).map(|(path, body)| post(path, body)).collect()
}

/// A request whose stream is longer than what systems usually keep of one for a client that does not read.
pub fn long() -> Question {
    let messages = json!([{"role": "user", "content": "Say all you know."}]);
    let body = json!({"messages": messages, "n": 5, "temperature": 0.7, "seed": 3, "ignore_eos": true, "max_tokens": 460,
        "logprobs": true, "top_logprobs": 20, "stream": true, "stream_options": {"include_usage": true}});
    post("/v1/chat/completions", &body)
}

fn chats() -> impl Iterator<Item = (&'static str, Value)> {
    let schema = json!({"type": "object", "properties": {"ship": {"enum": ["Ida", "Olga"]}, "day": {"type": "integer",
        "minimum": 1, "maximum": 31}}, "required": ["ship", "day"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "call", "strict": true, "schema": schema}});
    let ways = [
        json!({}),
        json!({"max_tokens": 1}),
        json!({"max_tokens": 90, "ignore_eos": true}),
        json!({"max_tokens": 60, "ignore_eos": true, "n": 3, "temperature": 0.9, "seed": 7}),
        json!({"logprobs": true, "top_logprobs": 3}),
        json!({"stop": ["e", "an"], "max_tokens": 40}),
        json!({"temperature": 1.0, "seed": 11, "top_p": 0.9, "frequency_penalty": 0.5}),
        json!({"response_format": format, "max_tokens": 60, "temperature": 1.0, "seed": 5}),
        json!({"guided_regex": "[a-f]{4}-[0-9]{3}", "max_tokens": 30}),
        json!({"cache_salt": "another", "max_tokens": 24}),
    ];
    ways.into_iter().enumerate().map(|(number, way)| {
        let question = format!("When does ship number {number} leave?");
        let messages = json!([{"role": "system", "content": SHARED}, {"role": "user", "content": question}]);
        let base = json!({"model": MODEL, "messages": messages, "max_tokens": 20, "temperature": 0});
        ("/v1/chat/completions", with(&base, &way))
    })
}

fn completions() -> impl Iterator<Item = (&'static str, Value)> {
    let ways = [
        json!({"prompt": "Once upon a time"}),
        json!({"prompt": ["A first text", "and a second"], "max_tokens": 30, "ignore_eos": true}),
        json!({"prompt": SHARED, "max_tokens": 80, "ignore_eos": true}),
        json!({"prompt": SHARED, "max_tokens": 8, "echo": true, "logprobs": 2}),
        json!({"prompt": [9, 8, 7, 6, 5, 4, 3, 2, 1], "max_tokens": 50, "ignore_eos": true, "temperature": 0.8, "seed": 1}),
        json!({"prompt": "a", "max_tokens": 300, "ignore_eos": true}),
    ];
    ways.into_iter()
        .map(|way| ("/v1/completions", with(&json!({"model": MODEL, "max_tokens": 16, "temperature": 0}), &way)))
}

/// A request that must be refused, and the status.
fn bad(random: &mut Random) -> (Question, u16) {
    const CHAT: &str = "/v1/chat/completions";
    let base = json!({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4});
    let raw = |body: &[u8]| Question { method: "POST", path: CHAT, body: body.to_vec() };
    let field = |more: Value| post(CHAT, &with(&base, &more));
    let text = base.to_string();
    let question = match random.below(24) {
        0 => raw(&text.as_bytes()[..1 + random.below(text.len() - 1)]),
        1 => raw(b""),
        2 => raw(&[b"{\"model\": \"", &[0xff, 0xfe, 0xc0][..], b"\"}"].concat()),
        3 => raw("[".repeat(20_000).as_bytes()),
        4 => raw(format!("{text} {{").as_bytes()),
        5 => field(json!({"messages": "Hello"})),
        6 => field(json!({"max_tokens": "four"})),
        7 => field(json!({"temperature": [0]})),
        8 => field(json!({"unknown_field": 1, "stream": true})),
        9 => field(json!({"n": 4_000_000_000_u64})),
        10 => field(json!({"n": -1})),
        11 => field(json!({"messages": [{"role": "user", "content": "word ".repeat(4_000)}], "stream": true})),
        12 => field(json!({"max_tokens": u64::MAX})),
        13 => field(json!({"guided_json": {"type": "no such type"}, "stream": true})),
        14 => field(json!({"guided_json": (0..100).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}))})),
        15 => field(json!({"guided_regex": "(a"})),
        16 => field(json!({"guided_grammar": "start: missing"})),
        17 => field(json!({"stop": vec!["x"; 17]})),
        18 => field(json!({"logit_bias": {"999999": 1}})),
        19 => post("/v1/completions", &json!({"prompt": [0, 4_000_000_000_u64]})),
        20 => post("/v1/embeddings", &json!({"input": "This artifact gives no hidden states."})),
        21 => post("/tokenize", &json!({"prompt": 5})),
        22 => return (field(json!({"model": "none"})), 404),
        _ => return (Question { method: "POST", path: "/v1/nothing", body: text.into_bytes() }, 404),
    };
    (question, 400)
}
