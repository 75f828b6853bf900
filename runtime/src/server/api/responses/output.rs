//! What a response consists of: items, and the events that tell of them while they are written.
//!
//! [`Output`] takes the pieces of an answer and gives the events; a response that is not streamed is built by the same
//! steps, its events unread.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::request::ItemStatus;
use crate::server::api::answer_text::Piece;
use crate::server::api::identity;
use crate::server::api::token_text::TokenLogprob;
use crate::text::tools::AnswerDelta;

/// An item of a response.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum OutputItem {
    /// What the model thought.
    Reasoning {
        /// Its name.
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// Always empty: the reasoning itself is given.
        summary: Vec<ReasoningText>,
        /// The reasoning.
        content: Vec<ReasoningText>,
    },
    /// What the model said.
    Message {
        /// Its name.
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// `assistant`.
        role: &'static str,
        /// The text.
        content: Vec<OutputText>,
    },
    /// A function the model calls.
    FunctionCall {
        /// Its name.
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// Names the call; its result bears the same.
        call_id: String,
        /// The function.
        name: String,
        /// JSON.
        arguments: String,
    },
}

/// Text of the answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct OutputText {
    /// `output_text`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The text.
    pub text: String,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    pub annotations: Vec<Value>,
    /// Log-probabilities of its tokens, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// Text of the reasoning.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ReasoningText {
    /// `reasoning_text`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The text.
    pub text: String,
}

/// An event of a stream: its name and fields.
pub(super) type StreamEvent = (&'static str, Value);

/// The items so far.
#[derive(Debug, Default)]
pub(super) struct Output {
    items: Vec<OutputItem>,
    /// Whether the last item is still being written.
    is_open: bool,
}

impl Output {
    /// The items.
    pub fn items(&self) -> &[OutputItem] {
        &self.items
    }

    /// Takes more of the answer.
    pub fn push(&mut self, piece: Piece) -> Vec<StreamEvent> {
        let mut events = Vec::new();
        let mut logprobs = Some(piece.logprobs);
        for delta in piece.deltas {
            match delta {
                AnswerDelta::Content(text) => {
                    self.say(&mut events, &text, logprobs.take().unwrap_or_default());
                }
                AnswerDelta::Reasoning(text) => self.reason(&mut events, &text),
                AnswerDelta::CallBegin { id, name, .. } => self.begin_call(&mut events, id, name),
                AnswerDelta::CallArguments { json, .. } => self.continue_call(&mut events, &json),
            }
        }
        // Tokens without text of their own belong to the text that is being written.
        if let Some(OutputItem::Message { content, .. }) = self.items.last_mut().filter(|_| self.is_open) {
            content[0].logprobs.extend(logprobs.unwrap_or_default());
        }
        events
    }

    /// Ends the item being written.
    pub fn close(&mut self, end: ItemStatus) -> Vec<StreamEvent> {
        let mut events = Vec::new();
        if !std::mem::replace(&mut self.is_open, false) {
            return events;
        }
        let index = self.items.len() - 1;
        let Some(item) = self.items.last_mut() else { return events };
        match item {
            OutputItem::Message { id, status, content, .. } => {
                *status = end;
                let (place, part) = (json!({"item_id": id, "output_index": index, "content_index": 0}), &content[0]);
                events.push((
                    "response.output_text.done",
                    with(&place, [("text", json!(part.text)), ("logprobs", json!(part.logprobs))]),
                ));
                events.push(("response.content_part.done", with(&place, [("part", json!(part))])));
            }
            OutputItem::Reasoning { id, status, content, .. } => {
                *status = end;
                let (place, part) = (json!({"item_id": id, "output_index": index, "content_index": 0}), &content[0]);
                events.push(("response.reasoning_text.done", with(&place, [("text", json!(part.text))])));
                events.push(("response.content_part.done", with(&place, [("part", json!(part))])));
            }
            OutputItem::FunctionCall { id, status, name, arguments, .. } => {
                *status = end;
                let done = json!({"item_id": id, "output_index": index, "name": name, "arguments": arguments});
                events.push(("response.function_call_arguments.done", done));
            }
        }
        events.push(("response.output_item.done", json!({"output_index": index, "item": item})));
        events
    }

    fn say(&mut self, events: &mut Vec<StreamEvent>, text: &str, logprobs: Vec<TokenLogprob>) {
        if !self.is_open || !matches!(self.items.last(), Some(OutputItem::Message { .. })) {
            let (id, status) = (identity::fresh("msg_"), ItemStatus::InProgress);
            self.open(events, OutputItem::Message { id, status, role: "assistant", content: Vec::new() });
        }
        let index = self.items.len() - 1;
        let Some(OutputItem::Message { id, content, .. }) = self.items.last_mut() else { return };
        let place = json!({"item_id": id, "output_index": index, "content_index": 0});
        if content.is_empty() {
            content.push(OutputText {
                kind: "output_text",
                text: String::new(),
                annotations: vec![],
                logprobs: vec![],
            });
            events.push(("response.content_part.added", with(&place, [("part", json!(content[0]))])));
        }
        let fields = [("delta", json!(text)), ("logprobs", json!(logprobs))];
        events.push(("response.output_text.delta", with(&place, fields)));
        content[0].text.push_str(text);
        content[0].logprobs.extend(logprobs);
    }

    fn reason(&mut self, events: &mut Vec<StreamEvent>, text: &str) {
        if !self.is_open || !matches!(self.items.last(), Some(OutputItem::Reasoning { .. })) {
            let (id, status) = (identity::fresh("rs_"), ItemStatus::InProgress);
            self.open(events, OutputItem::Reasoning { id, status, summary: Vec::new(), content: Vec::new() });
        }
        let index = self.items.len() - 1;
        let Some(OutputItem::Reasoning { id, content, .. }) = self.items.last_mut() else { return };
        let place = json!({"item_id": id, "output_index": index, "content_index": 0});
        if content.is_empty() {
            content.push(ReasoningText { kind: "reasoning_text", text: String::new() });
            events.push(("response.content_part.added", with(&place, [("part", json!(content[0]))])));
        }
        events.push(("response.reasoning_text.delta", with(&place, [("delta", json!(text))])));
        content[0].text.push_str(text);
    }

    fn begin_call(&mut self, events: &mut Vec<StreamEvent>, call_id: String, name: String) {
        let (id, status) = (identity::fresh("fc_"), ItemStatus::InProgress);
        self.open(events, OutputItem::FunctionCall { id, status, call_id, name, arguments: String::new() });
    }

    fn continue_call(&mut self, events: &mut Vec<StreamEvent>, json: &str) {
        let index = self.items.len().saturating_sub(1);
        if let Some(OutputItem::FunctionCall { id, arguments, .. }) = self.items.last_mut() {
            arguments.push_str(json);
            let delta = json!({"item_id": id, "output_index": index, "delta": json});
            events.push(("response.function_call_arguments.delta", delta));
        }
    }

    /// Begins an item; the one before is whole.
    fn open(&mut self, events: &mut Vec<StreamEvent>, item: OutputItem) {
        events.extend(self.close(ItemStatus::Completed));
        events.push(("response.output_item.added", json!({"output_index": self.items.len(), "item": item})));
        self.items.push(item);
        self.is_open = true;
    }
}

fn with<const N: usize>(place: &Value, fields: [(&str, Value); N]) -> Value {
    let mut all = place.clone();
    for (name, value) in fields {
        all[name] = value;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces() -> Vec<AnswerDelta> {
        vec![
            AnswerDelta::Reasoning("h".into()),
            AnswerDelta::Reasoning("m".into()),
            AnswerDelta::Content("a".into()),
            AnswerDelta::Content("b".into()),
            AnswerDelta::CallBegin { index: 0, id: "c0".into(), name: "f".into() },
            AnswerDelta::CallArguments { index: 0, json: "{}".into() },
            AnswerDelta::CallBegin { index: 1, id: "c1".into(), name: "g".into() },
            AnswerDelta::CallArguments { index: 1, json: "{".into() },
        ]
    }

    #[test]
    fn items_open_and_close_in_order() {
        let mut output = Output::default();
        let mut events: Vec<StreamEvent> = Vec::new();
        for delta in pieces() {
            events.extend(output.push(Piece { deltas: vec![delta], logprobs: vec![] }));
        }
        events.extend(output.close(ItemStatus::Incomplete));
        let names: Vec<&str> = events.iter().map(|(name, _)| name.trim_start_matches("response.")).collect();
        let expected = "output_item.added content_part.added reasoning_text.delta reasoning_text.delta reasoning_text.done \
            content_part.done output_item.done output_item.added content_part.added output_text.delta output_text.delta \
            output_text.done content_part.done output_item.done output_item.added function_call_arguments.delta \
            function_call_arguments.done output_item.done output_item.added function_call_arguments.delta \
            function_call_arguments.done output_item.done";
        assert_eq!(names.join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
        let items = json!(output.items());
        assert_eq!(items[1]["content"][0]["text"], "ab");
        assert_eq!((&items[2]["status"], &items[3]["status"]), (&json!("completed"), &json!("incomplete")));
        assert_eq!((&items[3]["call_id"], &items[3]["arguments"]), (&json!("c1"), &json!("{")));
        // What an event says of a finished item is what the response has.
        let done: Vec<&Value> =
            events.iter().filter(|e| e.0 == "response.output_item.done").map(|e| &e.1["item"]).collect();
        assert_eq!(done, items.as_array().expect("items").iter().collect::<Vec<_>>());
    }
}
