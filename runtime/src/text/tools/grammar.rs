//! Grammars of answers: calls that must be made, and constrained answers of models that think first.

use serde_json::Value;

use super::call::SEPARATOR;
use super::format::{CALL_BEGIN, CALL_END, Shape};
use super::{AnswerFormat, Dialect, ToolChoice, ToolSet};
use crate::constrain::{Composed, Grammar, GrammarError, check, lark_string, schema_with_options};

impl AnswerFormat {
    /// The grammar of an answer to `prompt` that must call tools, in the model's own syntax, thoughts first where it thinks;
    /// `None` where it need not call. Schemas of tools that are not `strict` are followed as far as they can be enforced.
    ///
    /// # Errors
    /// The schema of a tool's arguments is too large; the message names the tool.
    pub fn call_grammar(&self, prompt: &str, tools: &ToolSet) -> Result<Option<Grammar>, GrammarError> {
        if *tools.choice() == ToolChoice::Auto {
            return Ok(None);
        }
        let mut rules = String::new();
        let mut calls = Vec::new();
        for (i, (name, schema, strict)) in tools.chosen().enumerate() {
            check(&Grammar::JsonSchema(schema.clone()))
                .map_err(|e| GrammarError::Invalid(format!("parameters of {name:?}: {e}")))?;
            rules += &format!("args{i}: %json {}\n", schema_with_options(schema, !strict));
            rules += &format!("call{i}: {}\n", self.shape.call(name, &format!("args{i}")));
            calls.push(format!("call{i}"));
        }
        let several = tools.parallel() && *tools.choice() == ToolChoice::Required;
        let (before, after) = self.shape.around_calls();
        let body = match self.shape.between_calls().filter(|_| several) {
            Some(between) => format!("{before} call ({between} call)* {after}"),
            None => format!("{before} call {after}"),
        };
        rules += &format!("call: {}\n", calls.join(" | "));
        Ok(Some(self.whole(prompt, &body, &rules)))
    }

    /// `grammar` for the answer to `prompt` of a model that may think first, or writes its answer into a channel.
    ///
    /// # Errors
    /// `grammar` is too large or malformed.
    pub fn answer_grammar(&self, prompt: &str, grammar: Grammar) -> Result<Grammar, GrammarError> {
        check(&grammar)?;
        if self.prelude(prompt).is_none() && self.dialect() != Dialect::Harmony {
            return Ok(grammar);
        }
        let rule = match &grammar {
            Grammar::JsonObject => "%json {\"type\": \"object\"}".to_owned(),
            Grammar::JsonSchema(schema) => format!("%json {}", schema_with_options(schema, false)),
            Grammar::Choice(choices) => choices.iter().map(|c| lark_string(c)).collect::<Vec<_>>().join(" | "),
            Grammar::Regex(regex) => format!("/{}/", llguidance::regex_to_lark(regex, "")),
            Grammar::Lark(lark) | Grammar::Composed(Composed(lark)) => format!("%lark {{\n{lark}\n}}"),
        };
        let before = match self.dialect() {
            Dialect::Harmony => self.shape.texts(&["<|channel|>", "final", "<|message|>"]),
            _ => String::new(),
        };
        Ok(self.whole(prompt, &format!("{before} answer"), &format!("answer: {rule}\n")))
    }

    fn whole(&self, prompt: &str, body: &str, rules: &str) -> Grammar {
        let (start, prelude) = match self.prelude(prompt) {
            Some((reference, rules)) => (format!("start: {reference} {body}\n"), rules),
            None => (format!("start: {body}\n"), String::new()),
        };
        Grammar::Composed(Composed(start + rules + &prelude))
    }

    /// What may or must come before the answer proper: a reference and its rules.
    fn prelude(&self, prompt: &str) -> Option<(&'static str, String)> {
        let shape = &self.shape;
        if self.dialect() == Dialect::Harmony {
            let (open, close) = (
                shape.texts(&["<|channel|>", "analysis", "<|message|>"]),
                shape.texts(&["<|end|>", "<|start|>", "assistant"]),
            );
            return Some(("thoughts?", format!("thoughts: {open} /(.|\\n)*/ {close}\n")));
        }
        let (open, close) = shape.reasoning.filter(|_| !self.is_reasoning_over(prompt))?;
        let rest = match shape.special_id(close) {
            Some(_) => format!("thinking: /(.|\\n)*/ {}\n", shape.text(close)),
            // The shortest text that ends so.
            None => format!("thinking[lazy]: /(.|\\n)*{}/\n", llguidance::regex_to_lark(&escaped(close), "")),
        };
        let space = "/[ \\n]{0,4}/";
        Some(match self.is_reasoning_open(prompt) {
            true => ("thoughts", format!("thoughts: thinking {space}\n{rest}")),
            false => ("thoughts?", format!("thoughts: {} thinking {space}\n{rest}", shape.text(open))),
        })
    }
}

/// `text` as a regular expression that matches it.
fn escaped(text: &str) -> String {
    let mark = |c: char| if "\\.+*?()|[]{}^$/".contains(c) { format!("\\{c}") } else { c.to_string() };
    text.chars().map(mark).collect()
}

impl Shape {
    fn special_id(&self, text: &str) -> Option<u32> {
        self.special.iter().find(|(mark, _)| *mark == text).map(|(_, id)| *id)
    }

    /// `text` in a rule: a special token by its id, anything else by its characters.
    fn text(&self, text: &str) -> String {
        self.special_id(text).map_or_else(|| lark_string(text), |id| format!("<[{id}]>"))
    }

    fn texts(&self, parts: &[&str]) -> String {
        parts.iter().map(|part| self.text(part)).collect::<Vec<_>>().join(" ")
    }

    /// One call of `name` with arguments of the rule `args`.
    fn call(&self, name: &str, args: &str) -> String {
        let quoted = Value::from(name).to_string();
        let object = |key: &str| {
            let head = lark_string(&format!("{{\"name\": {quoted}, \"{key}\": "));
            format!("{head} {args} \"}}\"")
        };
        match self.dialect {
            Dialect::Hermes => {
                let (open, close) = (self.texts(&["<tool_call>", "\n"]), self.texts(&["\n", "</tool_call>"]));
                format!("{open} {} {close}", object("arguments"))
            }
            Dialect::Llama3 => object("parameters"),
            Dialect::Mistral if self.names_first => {
                format!("{} {args}", self.texts(&["[TOOL_CALLS]", name, "[ARGS]"]))
            }
            Dialect::Mistral | Dialect::Granite | Dialect::Phi | Dialect::Json => object("arguments"),
            Dialect::Harmony => {
                let to = format!("commentary to=functions.{name} ");
                let head = self.texts(&["<|channel|>", &to, "<|constrain|>", "json", "<|message|>"]);
                format!("{head} {args}")
            }
            Dialect::DeepSeek if self.names_first => {
                format!("{} {args} {}", self.texts(&[CALL_BEGIN, name, SEPARATOR]), self.text(CALL_END))
            }
            Dialect::DeepSeek => {
                let name = format!("{name}\n```json\n");
                let head = self.texts(&[CALL_BEGIN, "function", SEPARATOR, &name]);
                format!("{head} {args} {}", self.texts(&["\n```", CALL_END]))
            }
        }
    }

    /// What stands before the first call and after the last.
    fn around_calls(&self) -> (String, String) {
        match self.dialect {
            Dialect::Mistral if !self.names_first => (self.texts(&["[TOOL_CALLS]", "["]), self.text("]")),
            Dialect::Granite => (self.texts(&["<|tool_call|>", "["]), self.text("]")),
            Dialect::Phi => (self.texts(&["<|tool_call|>", "["]), self.texts(&["]", "<|/tool_call|>"])),
            Dialect::DeepSeek => (self.text("<｜tool▁calls▁begin｜>"), self.text("<｜tool▁calls▁end｜>")),
            _ => (String::new(), String::new()),
        }
    }

    /// What stands between two calls; `None` where the dialect has but one.
    fn between_calls(&self) -> Option<String> {
        match self.dialect {
            Dialect::Hermes => Some(self.text("\n")),
            Dialect::Mistral if self.names_first => Some(String::new()),
            Dialect::Mistral | Dialect::Granite | Dialect::Phi => Some(self.text(", ")),
            Dialect::DeepSeek if self.names_first => Some(String::new()),
            Dialect::DeepSeek => Some(self.text("\n")),
            Dialect::Llama3 | Dialect::Json | Dialect::Harmony => None,
        }
    }
}
