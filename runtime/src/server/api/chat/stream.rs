//! A chat answer as server-sent events: role, pieces, the end of each answer, usage if asked for, `[DONE]`.

use axum::response::Response;
use axum::response::sse::Event;
use futures_util::Stream;

use super::request::ToolCallKind;
use super::response::{
    ChatCompletionChunk, ChatDelta, ChatLogprobs, ChunkChoice, FunctionDelta, Head, ToolCallDelta, finish_reason,
    stop_string,
};
use crate::server::api::answer_text::Piece;
use crate::server::api::generation::{Generation, Update};
use crate::server::api::sse;
use crate::server::api::usage::Usage;
use crate::text::tools::AnswerDelta;

/// What is sent besides the answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras {
    /// A chunk with the usage at the end.
    pub usage_at_end: bool,
    /// The usage so far in every chunk.
    pub usage_in_all: bool,
}

/// The response that streams `generation`.
pub(crate) fn respond(head: Head, answers: u32, extras: Extras, generation: Generation) -> Response {
    sse::response(events(head, answers, extras, generation))
}

fn events(head: Head, answers: u32, extras: Extras, mut generation: Generation) -> impl Stream<Item = Event> + Send {
    async_stream::stream! {
        for index in 0..answers {
            let delta = ChatDelta { role: Some("assistant"), content: Some(String::new()), ..ChatDelta::default() };
            yield chunk(&head, ChunkChoice::new(index, delta), extras, generation.usage());
        }
        loop {
            match generation.next().await {
                Ok(Some(update)) => {
                    for event in update_events(&head, update, extras, &generation) {
                        yield event;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    yield sse::data(&error.body());
                    return;
                }
            }
        }
        if extras.usage_at_end {
            let mut last = ChatCompletionChunk::new(&head, None);
            (last.usage, last.timings) = (Some(generation.usage()), Some(generation.timings()));
            yield sse::data(&last);
        }
        yield sse::done();
    }
}

fn update_events(head: &Head, update: Update, extras: Extras, generation: &Generation) -> Vec<Event> {
    match update {
        // Chat requests cannot ask for the prompt's log-probabilities.
        Update::Prompt(_) => Vec::new(),
        Update::Piece { answer, piece } => {
            let choices = choices(head, answer, piece).into_iter();
            choices.map(|choice| chunk(head, choice, extras, generation.usage())).collect()
        }
        Update::End { answer, reason, calls } => {
            let mut choice = ChunkChoice::new(answer, ChatDelta::default());
            choice.finish_reason = Some(finish_reason(&reason, calls));
            choice.stop_reason = stop_string(reason);
            let mut last = ChatCompletionChunk::new(head, Some(choice));
            last.timings = Some(generation.timings());
            last.usage = extras.usage_in_all.then(|| generation.usage());
            vec![sse::data(&last)]
        }
    }
}

fn chunk(head: &Head, choice: ChunkChoice, extras: Extras, usage: Usage) -> Event {
    let mut chunk = ChatCompletionChunk::new(head, Some(choice));
    chunk.usage = extras.usage_in_all.then_some(usage);
    sse::data(&chunk)
}

/// A choice for each kind of delta; the log-probabilities go with the first.
fn choices(head: &Head, answer: u32, piece: Piece) -> Vec<ChunkChoice> {
    let Piece { deltas, logprobs } = piece;
    let mut choices: Vec<ChunkChoice> = deltas.into_iter().map(|d| ChunkChoice::new(answer, chat_delta(d))).collect();
    if head.logprobs && !logprobs.is_empty() {
        if choices.is_empty() {
            choices.push(ChunkChoice::new(answer, ChatDelta::default()));
        }
        choices[0].logprobs = Some(ChatLogprobs::new(logprobs));
    }
    choices
}

fn chat_delta(delta: AnswerDelta) -> ChatDelta {
    let call = |index, id, kind, name, arguments| {
        let function = FunctionDelta { name, arguments };
        ChatDelta { tool_calls: Some(vec![ToolCallDelta { index, id, kind, function }]), ..ChatDelta::default() }
    };
    match delta {
        AnswerDelta::Content(text) => ChatDelta { content: Some(text), ..ChatDelta::default() },
        AnswerDelta::Reasoning(text) => ChatDelta { reasoning_content: Some(text), ..ChatDelta::default() },
        AnswerDelta::CallBegin { index, id, name } => {
            call(index, Some(id), Some(ToolCallKind::Function), Some(name), String::new())
        }
        AnswerDelta::CallArguments { index, json } => call(index, None, None, None, json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn deltas_have_the_fields_of_their_kind_only() {
        let cases = [
            (AnswerDelta::Content("a".into()), json!({"content": "a"})),
            (AnswerDelta::Reasoning("a".into()), json!({"reasoning_content": "a"})),
            (
                AnswerDelta::CallBegin { index: 1, id: "c".into(), name: "f".into() },
                json!({"tool_calls": [{"index": 1, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
            ),
            (
                AnswerDelta::CallArguments { index: 1, json: "{".into() },
                json!({"tool_calls": [{"index": 1, "function": {"arguments": "{"}}]}),
            ),
        ];
        for (delta, expected) in cases {
            assert_eq!(serde_json::to_value(chat_delta(delta)).expect("JSON"), expected);
        }
    }
}
