//! What a message consists of: blocks, and the events that tell of them while they are written.
//!
//! [`Blocks`] takes the pieces of an answer and gives the events; a message that is not streamed is built by the same
//! steps, its events unread.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::server::api::answer_text::Piece;
use crate::server::api::generation::EndReason;
use crate::server::api::usage::{Timings, Usage};
use crate::text::tools::AnswerDelta;

/// A message of the model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct MessageObject {
    /// Its name.
    pub id: String,
    /// `message`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `assistant`.
    pub role: &'static str,
    /// The model's name.
    pub model: String,
    /// What the model thought, said and used.
    pub content: Vec<OutputBlock>,
    /// Why it ended: `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`; null while it is being written.
    pub stop_reason: Option<&'static str>,
    /// The stop sequence that ended it.
    pub stop_sequence: Option<String>,
    /// What it took.
    pub usage: MessageUsage,
    /// How long it took, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// The artifact that answered.
    pub system_fingerprint: String,
}

/// A block of a message.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum OutputBlock {
    /// What the model thought.
    Thinking {
        /// The text.
        thinking: String,
        /// Always empty: thoughts are not signed.
        signature: String,
    },
    /// What the model said.
    Text {
        /// The text.
        text: String,
        /// Always null.
        #[schema(value_type = Option<Vec<Object>>)]
        citations: Option<Vec<Value>>,
    },
    /// A tool the model uses.
    ToolUse {
        /// Names the use; its result bears the same.
        id: String,
        /// The tool.
        name: String,
        /// What it is given; empty where the answer was cut off before it was whole.
        #[schema(value_type = Object)]
        input: Map<String, Value>,
    },
}

/// Tokens of a message.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct MessageUsage {
    /// Tokens of the prompt that were computed.
    pub input_tokens: u64,
    /// Always 0: writing the cache costs nothing.
    pub cache_creation_input_tokens: u64,
    /// Tokens of the prompt found in the prefix cache.
    pub cache_read_input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
}

impl From<Usage> for MessageUsage {
    fn from(usage: Usage) -> Self {
        MessageUsage {
            input_tokens: usage.prompt_tokens.saturating_sub(usage.cached()),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: usage.cached(),
            output_tokens: usage.completion_tokens,
        }
    }
}

/// An event of a stream: its name is its type.
pub(super) type StreamEvent = (&'static str, Value);

/// Why a message ended, in Anthropic's words, and the stop sequence that ended it.
pub(super) fn stop(reason: EndReason, calls: usize) -> (&'static str, Option<String>) {
    match reason {
        EndReason::Length => ("max_tokens", None),
        EndReason::Stop if calls > 0 => ("tool_use", None),
        EndReason::Stop => ("end_turn", None),
        EndReason::StopString(string) => ("stop_sequence", Some(string)),
    }
}

/// The blocks so far.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    list: Vec<OutputBlock>,
    /// Whether the last block is still being written.
    is_open: bool,
    /// JSON of the tool's input being written.
    input: String,
}

impl Blocks {
    /// The blocks.
    pub fn list(&self) -> &[OutputBlock] {
        &self.list
    }

    /// Takes more of the answer.
    pub fn push(&mut self, piece: Piece) -> Vec<StreamEvent> {
        let mut events = Vec::new();
        for delta in piece.deltas {
            match delta {
                AnswerDelta::Content(text) => self.say(&mut events, &text),
                AnswerDelta::Reasoning(text) => self.think(&mut events, &text),
                AnswerDelta::CallBegin { id, name, .. } => {
                    self.open(&mut events, OutputBlock::ToolUse { id, name, input: Map::new() });
                }
                AnswerDelta::CallArguments { json, .. } => {
                    self.input.push_str(&json);
                    events.push(self.delta(json!({"type": "input_json_delta", "partial_json": json})));
                }
            }
        }
        events
    }

    /// Ends the block being written.
    pub fn close(&mut self) -> Vec<StreamEvent> {
        if !std::mem::replace(&mut self.is_open, false) {
            return Vec::new();
        }
        if let Some(OutputBlock::ToolUse { input, .. }) = self.list.last_mut() {
            *input = serde_json::from_str(&std::mem::take(&mut self.input)).unwrap_or_default();
        }
        vec![("content_block_stop", json!({"index": self.list.len() - 1}))]
    }

    fn say(&mut self, events: &mut Vec<StreamEvent>, more: &str) {
        if !self.is_open || !matches!(self.list.last(), Some(OutputBlock::Text { .. })) {
            self.open(events, OutputBlock::Text { text: String::new(), citations: None });
        }
        if let Some(OutputBlock::Text { text, .. }) = self.list.last_mut() {
            text.push_str(more);
        }
        events.push(self.delta(json!({"type": "text_delta", "text": more})));
    }

    fn think(&mut self, events: &mut Vec<StreamEvent>, more: &str) {
        if !self.is_open || !matches!(self.list.last(), Some(OutputBlock::Thinking { .. })) {
            self.open(events, OutputBlock::Thinking { thinking: String::new(), signature: String::new() });
        }
        if let Some(OutputBlock::Thinking { thinking, .. }) = self.list.last_mut() {
            thinking.push_str(more);
        }
        events.push(self.delta(json!({"type": "thinking_delta", "thinking": more})));
    }

    /// Begins a block; the one before is whole.
    fn open(&mut self, events: &mut Vec<StreamEvent>, block: OutputBlock) {
        events.extend(self.close());
        events.push(("content_block_start", json!({"index": self.list.len(), "content_block": block})));
        self.list.push(block);
        self.is_open = true;
    }

    fn delta(&self, delta: Value) -> StreamEvent {
        ("content_block_delta", json!({"index": self.list.len().saturating_sub(1), "delta": delta}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_open_and_close_in_order() {
        let deltas = vec![
            AnswerDelta::Reasoning("h".into()),
            AnswerDelta::Reasoning("m".into()),
            AnswerDelta::Content("a".into()),
            AnswerDelta::CallBegin { index: 0, id: "c0".into(), name: "f".into() },
            AnswerDelta::CallArguments { index: 0, json: "{\"x\":".into() },
            AnswerDelta::CallArguments { index: 0, json: "1}".into() },
            AnswerDelta::CallBegin { index: 1, id: "c1".into(), name: "g".into() },
            AnswerDelta::CallArguments { index: 1, json: "{\"cut".into() },
        ];
        let mut blocks = Blocks::default();
        let mut events = blocks.push(Piece { deltas, logprobs: vec![] });
        events.extend(blocks.close());
        let names: Vec<String> = events
            .iter()
            .map(|(name, fields)| format!("{} {}", name.trim_start_matches("content_block_"), fields["index"]))
            .collect();
        let expected = "start 0,delta 0,delta 0,stop 0,start 1,delta 1,stop 1,start 2,delta 2,delta 2,stop 2,start 3,delta 3,stop 3";
        assert_eq!(names.join(","), expected);
        let expected = json!([
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "a", "citations": null},
            {"type": "tool_use", "id": "c0", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "c1", "name": "g", "input": {}},
        ]);
        assert_eq!(json!(blocks.list()), expected);
    }

    #[test]
    fn ends_have_anthropics_words() {
        assert_eq!(stop(EndReason::Stop, 0).0, "end_turn");
        assert_eq!(stop(EndReason::Stop, 2).0, "tool_use");
        assert_eq!(stop(EndReason::Length, 2).0, "max_tokens");
        assert_eq!(stop(EndReason::StopString("x".into()), 0), ("stop_sequence", Some("x".into())));
    }
}
