//! What a model's chat template and special tokens say about how it writes calls and thoughts.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Naming, SEPARATOR};
use super::{AnswerParser, ToolSet, harmony};
use crate::text::{ChatRequest, ChatTemplate, DecodeStream, Tokenizer};

/// How a family of models writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen, SmolLM 3, Granite 4, and models that are told how.
    Hermes,
    /// `{"name": …, "parameters": {…}}`, perhaps after `<|python_tag|>`.
    Llama3,
    /// `[TOOL_CALLS]` and a list, or names each before its arguments.
    Mistral,
    /// `<|tool_call|>` and a list.
    Granite,
    /// `<|tool_call|>` with a list and an end, or `functools` and a list.
    Phi,
    /// Messages in channels: gpt-oss.
    Harmony,
    /// `<｜tool▁calls▁begin｜>` and calls between marks.
    DeepSeek,
    /// An object with a name and arguments or parameters, from a template that knows tools and none of the marks above.
    Json,
}

/// What follows an opening mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    /// An object or a list of objects.
    Objects,
    /// The same, of known tools and with arguments only.
    Strict,
    /// A name and its arguments.
    Named(Naming),
    /// Any of these.
    Either(Naming),
}

/// A mark that opens calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub marker: &'static str,
    pub syntax: Syntax,
}

/// What a marker in content means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Thoughts begin.
    Reasoning,
    /// Calls begin.
    Calls(Opening),
    /// It only closes or groups calls.
    Ignored,
}

/// How tools reach the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prompting {
    /// The template writes them; the arguments of earlier calls as objects, or as the text they are.
    Template { arguments_as_text: bool },
    /// A system message describes them.
    SystemMessage,
}

#[derive(Debug)]
pub(super) struct Shape {
    pub dialect: Dialect,
    pub prompting: Prompting,
    /// The marks around thoughts.
    pub reasoning: Option<(&'static str, &'static str)>,
    /// Marks that are special tokens.
    pub special: Vec<(&'static str, u32)>,
    /// Whether names stand before arguments, in dialects with several ways.
    pub names_first: bool,
    shown: Arc<[u32]>,
}

/// How a model writes calls and thoughts. Clones are cheap.
#[derive(Clone, Debug)]
pub struct AnswerFormat {
    pub(super) shape: Arc<Shape>,
}

const fn opening(marker: &'static str, syntax: Syntax) -> Opening {
    Opening { marker, syntax }
}

/// The marks that open calls, those that only close or group them, and those of the latter that count anywhere.
type Marks = (&'static [Opening], &'static [&'static str], &'static [&'static str]);

const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
const CALLS_END: &str = "<｜tool▁calls▁end｜>";
pub(super) const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
pub(super) const CALL_END: &str = "<｜tool▁call▁end｜>";

impl Dialect {
    fn marks(self) -> Marks {
        const TAG: Opening = opening("<tool_call>", Syntax::Objects);
        const BARS: Opening = opening("<|tool_call|>", Syntax::Objects);
        const PYTHON: Opening = opening("<|python_tag|>", Syntax::Objects);
        const LIST: Opening = opening("functools[", Syntax::Objects);
        const MISTRAL: Opening = opening("[TOOL_CALLS]", Syntax::Either(Naming::Brackets));
        const DEEP_SEEK: Opening = opening(CALL_BEGIN, Syntax::Named(Naming::Separator));
        match self {
            Dialect::Hermes | Dialect::Json => (&[TAG], &["</tool_call>"], &[]),
            Dialect::Llama3 => (&[TAG, PYTHON], &["</tool_call>", "<|eom_id|>"], &[]),
            Dialect::Mistral => (&[MISTRAL], &[], &[]),
            Dialect::Granite => (&[TAG, BARS], &["</tool_call>"], &[]),
            Dialect::Phi => (&[BARS, LIST], &["<|/tool_call|>"], &[]),
            Dialect::Harmony => (&[], &[], &[]),
            Dialect::DeepSeek => (&[DEEP_SEEK], &["```", CALL_END, CALLS_END], &[CALLS_BEGIN]),
        }
    }

    /// Every text that may be a special token of the dialect.
    fn tokens(self) -> Vec<&'static str> {
        let (open, close, group) = self.marks();
        let mut tokens: Vec<&'static str> = open.iter().map(|o| o.marker).collect();
        tokens.extend(close.iter().chain(group));
        match self {
            Dialect::Harmony => tokens.extend(harmony::TOKENS),
            Dialect::DeepSeek => tokens.push(SEPARATOR),
            Dialect::Mistral => tokens.extend(["[ARGS]", "[CALL_ID]"]),
            _ => {}
        }
        tokens
    }
}

const REASONING: [(&str, &str); 2] = [("<think>", "</think>"), ("[THINK]", "[/THINK]")];

impl AnswerFormat {
    /// The format of a model, from what its template writes and its tokenizer knows.
    pub fn detect(template: &ChatTemplate, tokenizer: &Tokenizer) -> AnswerFormat {
        let (source, tokens) = (template.source(), |t: &str| tokenizer.token_to_id(t).is_some());
        let knows_tools = renders_tools(template);
        let dialect = if knows_tools || source.contains("<|channel|>") {
            dialect_of(source, &tokens)
        } else {
            // The system message says how.
            Dialect::Hermes
        };
        let prompting = match knows_tools {
            true => Prompting::Template { arguments_as_text: wants_text_arguments(template) },
            false => Prompting::SystemMessage,
        };
        let reasoning = REASONING.into_iter().find(|(open, close)| {
            dialect != Dialect::Harmony && (source.contains(close) || tokens(open) && tokens(close))
        });
        let names_first = match dialect {
            Dialect::Mistral => source.contains("[ARGS]") || tokens("[ARGS]"),
            // The newer of DeepSeek's syntaxes; the older one writes the type, the name and a fenced block.
            _ => !source.contains("```json"),
        };
        let marks = dialect.tokens().into_iter().chain(reasoning.into_iter().flat_map(|(open, close)| [open, close]));
        let ids = marks.filter_map(|mark| Some((mark, tokenizer.token_to_id(mark)?)));
        let special: Vec<(&str, u32)> = ids.filter(|(_, id)| tokenizer.is_special(*id)).collect();
        let shown = special.iter().map(|(_, id)| *id).collect();
        let shape = Shape { dialect, prompting, reasoning, special, names_first, shown };
        AnswerFormat { shape: Arc::new(shape) }
    }

    /// How calls are written.
    pub fn dialect(&self) -> Dialect {
        self.shape.dialect
    }

    /// Decoding of an answer that leaves out special tokens, but for those that [`AnswerParser`] has to see.
    pub fn decode_stream(&self, tokenizer: &Tokenizer) -> DecodeStream {
        tokenizer.decode_stream_showing(self.shape.shown.clone())
    }

    /// The parser of an answer to `prompt`. Without `tools`, calls are content like any text.
    pub fn parser(&self, prompt: &str, tools: Option<&ToolSet>) -> AnswerParser {
        AnswerParser::new(self.clone(), prompt, tools)
    }

    /// Whether the answer to `prompt` begins within thoughts.
    pub(super) fn is_reasoning_open(&self, prompt: &str) -> bool {
        self.shape.reasoning.is_some_and(|(open, _)| prompt.trim_end().ends_with(open))
    }

    /// Whether the prompt has closed the thoughts of the answer already.
    pub(super) fn is_reasoning_over(&self, prompt: &str) -> bool {
        self.shape.reasoning.is_some_and(|(_, close)| prompt.trim_end().ends_with(close))
    }

    pub(super) fn reasoning_close(&self) -> Option<&'static str> {
        self.shape.reasoning.map(|(_, close)| close)
    }

    /// The marks to look for in content: at its start thoughts, with tools calls, after a call what closes calls.
    pub(super) fn marks(&self, at_start: bool, with_tools: bool, after_call: bool) -> Vec<(&'static str, Mark)> {
        let mut marks = Vec::with_capacity(6);
        if let Some((open, _)) = self.shape.reasoning.filter(|_| at_start) {
            marks.push((open, Mark::Reasoning));
        }
        if with_tools {
            let (open, close, group) = self.dialect().marks();
            marks.extend(open.iter().map(|o| (o.marker, Mark::Calls(*o))));
            marks.extend(group.iter().map(|g| (*g, Mark::Ignored)));
            if after_call {
                marks.extend(close.iter().map(|c| (*c, Mark::Ignored)));
            }
        }
        marks
    }

    /// How an answer that is nothing but calls is read, in dialects that write no mark.
    pub(super) fn unmarked(&self) -> Option<Opening> {
        matches!(self.dialect(), Dialect::Llama3 | Dialect::Json).then_some(opening("", Syntax::Strict))
    }
}

fn dialect_of(source: &str, is_token: &dyn Fn(&str) -> bool) -> Dialect {
    let has = |text: &str| source.contains(text);
    match () {
        () if has("<|channel|>") && has("<|message|>") => Dialect::Harmony,
        () if has("tool▁calls▁begin") || is_token(CALLS_BEGIN) => Dialect::DeepSeek,
        () if has("[TOOL_CALLS]") || is_token("[TOOL_CALLS]") && has("[AVAILABLE_TOOLS]") => Dialect::Mistral,
        () if has("<|tool|>") || has("functools") => Dialect::Phi,
        () if has("<|tool_call|>") => Dialect::Granite,
        () if has("<tool_call>") => Dialect::Hermes,
        () if has("<|python_tag|>") || has("ipython") && is_token("<|python_tag|>") => Dialect::Llama3,
        () if is_token("<tool_call>") => Dialect::Hermes,
        () => Dialect::Json,
    }
}

const PROBE: &str = "probe_6f1c";

/// Whether the template writes the tools it is given.
fn renders_tools(template: &ChatTemplate) -> bool {
    let parameters =
        json!({"type": "object", "properties": {"x": {"type": "string", "description": "x"}}, "required": ["x"]});
    let tools =
        [json!({"type": "function", "function": {"name": PROBE, "description": "p", "parameters": parameters}})];
    let messages = [json!({"role": "user", "content": "hi"})];
    let request = ChatRequest { tools: Some(&tools), ..ChatRequest::new(&messages) };
    template.render(&request).is_ok_and(|prompt| prompt.contains(PROBE))
}

/// Whether the template takes the arguments of earlier calls as JSON text rather than as objects.
fn wants_text_arguments(template: &ChatTemplate) -> bool {
    let render = |arguments: Value| {
        let call = json!({"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}});
        let messages = [
            json!({"role": "user", "content": "hi"}),
            json!({"role": "assistant", "content": "", "tool_calls": [call]}),
            json!({"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": "1"}),
        ];
        template.render(&ChatRequest::new(&messages)).is_ok_and(|p| p.contains(&format!("\"{PROBE}\"")))
    };
    !render(json!({PROBE: 1})) && render(json!({PROBE: 1}).to_string().into())
}
