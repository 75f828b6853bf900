//! Completions as server-sent events: the pieces of all answers as they come, then usage if asked for, then `[DONE]`.

use axum::response::Response;
use axum::response::sse::Event;
use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt};

use super::response::{Completion, CompletionChoice, CompletionLogprobs, Echo, Head};
use crate::server::api::answer_text::Piece;
use crate::server::api::chat::{finish_reason, stop_string};
use crate::server::api::generation::{Generation, Told, Update};
use crate::server::api::sse;
use crate::server::api::token_text::TokenLogprob;
use crate::server::api::usage::{Timings, Usage};
use crate::text::tools::AnswerDelta;

/// The response that streams the answers to several prompts. `usage`: whether it is sent at the end, and in every chunk.
pub(crate) fn respond(head: Head, echoes: Vec<Echo>, usage: (bool, bool), generations: Vec<Generation>) -> Response {
    let prompts = generations.len();
    let state = Progress { head, echoes, usage, usages: vec![Usage::default(); prompts], timings: None };
    sse::response(events(state, generations))
}

/// What has been sent, and how the rest is to be.
struct Progress {
    head: Head,
    echoes: Vec<Echo>,
    usage: (bool, bool),
    /// Of each prompt, so far.
    usages: Vec<Usage>,
    timings: Option<Timings>,
}

fn events(mut state: Progress, generations: Vec<Generation>) -> impl Stream<Item = Event> + Send {
    async_stream::stream! {
        for event in state.begin() {
            yield event;
        }
        let streams = generations.into_iter().enumerate().map(|(prompt, g)| g.told().map(move |told| (prompt, told)).boxed());
        let mut all = select_all(streams);
        while let Some((prompt, told)) = all.next().await {
            match told {
                Ok(Told::Update(update, usage)) => {
                    state.usages[prompt] = usage;
                    for event in state.update(prompt, update) {
                        yield event;
                    }
                }
                Ok(Told::Done(usage, timings)) => (state.usages[prompt], state.timings) = (usage, Some(timings)),
                Err(error) => {
                    yield sse::data(&error.body());
                    return;
                }
            }
        }
        if state.usage.0 {
            yield sse::data(&state.end());
        }
        yield sse::done();
    }
}

impl Progress {
    /// Prompts that are repeated without log-probabilities are there at once.
    fn begin(&self) -> Vec<Event> {
        match self.head.logprobs {
            true => Vec::new(),
            false => (0..self.echoes.len()).flat_map(|prompt| self.echo(prompt, None)).collect(),
        }
    }

    fn update(&self, prompt: usize, update: Update) -> Vec<Event> {
        match update {
            Update::Prompt(rest) => self.echo(prompt, Some(&rest)),
            Update::Piece { answer, piece } => vec![self.piece(prompt, answer, piece)],
            Update::End { answer, reason, .. } => {
                let mut choice = self.choice(prompt, answer, String::new());
                choice.finish_reason = Some(finish_reason(&reason, 0));
                choice.stop_reason = stop_string(reason);
                vec![self.chunk(choice)]
            }
        }
    }

    /// The prompt in front of each of its answers.
    fn echo(&self, prompt: usize, rest: Option<&[TokenLogprob]>) -> Vec<Event> {
        let echo = &self.echoes[prompt];
        if echo.text.is_empty() {
            return Vec::new();
        }
        let chunk = |answer| {
            let mut choice = self.choice(prompt, answer, echo.text.clone());
            choice.logprobs = rest.map(|rest| echo.logprobs(rest));
            self.chunk(choice)
        };
        (0..self.head.answers).map(chunk).collect()
    }

    fn piece(&self, prompt: usize, answer: u32, piece: Piece) -> Event {
        let text = piece.deltas.into_iter().map(|delta| match delta {
            AnswerDelta::Content(text) => text,
            // Without a parser all text is content.
            AnswerDelta::Reasoning(_) | AnswerDelta::CallBegin { .. } | AnswerDelta::CallArguments { .. } => {
                String::new()
            }
        });
        let mut choice = self.choice(prompt, answer, text.collect());
        choice.logprobs = self.head.logprobs.then(|| {
            let mut logprobs = CompletionLogprobs::default();
            logprobs.extend(self.echoes[prompt].characters(), &piece.logprobs);
            logprobs
        });
        self.chunk(choice)
    }

    fn choice(&self, prompt: usize, answer: u32, text: String) -> CompletionChoice {
        let index = prompt as u32 * self.head.answers + answer;
        CompletionChoice { index, text, logprobs: None, finish_reason: None, stop_reason: None }
    }

    fn chunk(&self, choice: CompletionChoice) -> Event {
        let mut part = Completion::part(&self.head);
        part.choices.push(choice);
        part.usage = self.usage.1.then(|| self.total());
        sse::data(&part)
    }

    fn end(&self) -> Completion {
        let mut part = Completion::part(&self.head);
        part.usage = Some(self.total());
        part.timings = self.timings.filter(|_| self.echoes.len() == 1);
        part
    }

    fn total(&self) -> Usage {
        self.usages.iter().fold(Usage::default(), |sum, usage| sum.plus(*usage))
    }
}
