//! A request on its way: its answers, and what has happened to it so far.

use std::ops::Range;
use std::time::Duration;

use crate::engine::Rows;
use crate::kv::pages::SequenceId;
use crate::sample::{SamplingParams, TokenLogProbs};
use crate::serving::{
    Event, EventSender, FinishReason, Output, Request, RequestError, RequestTimings, TokenConstraint,
};

/// Whom answers go to. The scheduler looks before it lets a sequence go on, so that nothing is sent where there is no room.
pub trait Reader {
    /// Events that can be sent now.
    fn room(&self) -> usize;

    /// Whether nobody reads any more: the request is dropped.
    fn is_closed(&self) -> bool;

    /// Whether no more is wanted of an answer.
    fn is_ended(&self, answer: u32) -> bool;

    /// Takes an event; false if it could not.
    fn send(&mut self, event: Event) -> bool;

    /// Whether tokens must come with their logits. The host then chooses them; the same for as long as the reader lives.
    fn needs_logits(&self) -> bool {
        false
    }

    /// Takes a token of an answer with the logits, `[vocabulary]`, that it was chosen from; empty where the device chose it.
    fn send_token(&mut self, answer: u32, token: u32, logprobs: Option<TokenLogProbs>, _logits: &[f32]) {
        self.send(Event::Token { answer, token, logprobs });
    }
}

impl Reader for EventSender {
    fn room(&self) -> usize {
        EventSender::room(self)
    }

    fn is_closed(&self) -> bool {
        EventSender::is_closed(self)
    }

    fn is_ended(&self, answer: u32) -> bool {
        EventSender::is_ended(self, answer)
    }

    fn send(&mut self, event: Event) -> bool {
        EventSender::send(self, event)
    }
}

/// Most events that a step may send for a request, with room for its failure: `Started`, `Prompt`, `Failed`, and for each
/// answer a token and its end. That is room for two steps of a request whose tokens the device chooses: two tokens, one end, a failure.
pub fn events_in_a_step(answers: u32) -> usize {
    3 + 2 * answers as usize
}

/// Which sequence; smaller ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The request's, or the least for one that waited longest.
    pub priority: i32,
    /// Requests are numbered as they come.
    pub task: u64,
    /// Index among the request's answers.
    pub answer: u32,
}

/// Tokens of a sequence to be computed in a step.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub key: Key,
    /// What is computed for one that is gone is dropped.
    pub sequence: SequenceId,
    /// Of [`Answer::tokens`]; just past them where a step under way chooses the token.
    pub tokens: Range<usize>,
    pub rows: Rows,
}

/// One answer to a request.
pub(super) struct Answer {
    /// Prompt and generated tokens: all a preempted sequence needs to be computed again.
    pub tokens: Vec<u32>,
    /// With the seed of this answer.
    pub sampling: SamplingParams,
    pub constraint: Option<Box<dyn TokenConstraint>>,
    /// Its pages, unless it waits or has ended.
    pub sequence: Option<SequenceId>,
    pub finish: Option<FinishReason>,
    /// A step it was part of failed: it must run alone, so that the one to blame is found.
    pub suspect: bool,
    /// When its pages were taken away, until its tokens are computed again.
    pub preempted: Option<Duration>,
    pub last_token: Option<Duration>,
}

impl Answer {
    fn new(tokens: Vec<u32>, sampling: SamplingParams, constraint: Option<Box<dyn TokenConstraint>>) -> Answer {
        Answer {
            tokens,
            sampling,
            constraint,
            sequence: None,
            finish: None,
            suspect: false,
            preempted: None,
            last_token: None,
        }
    }

    /// Whether it could run but has no pages.
    pub fn waits(&self) -> bool {
        self.sequence.is_none() && self.finish.is_none()
    }
}

/// Whether a device can choose the tokens of a request: of one answer, from its logits alone, which nobody wants to see.
fn suits_devices(request: &Request) -> bool {
    let is_plain = request.constraint.is_none() && request.sampling.suit_devices() && request.answers == 1;
    is_plain && request.logprobs.is_none() && !request.prompt_logprobs && request.output == Output::Tokens
}

/// A request on its way.
pub(super) struct Task<R> {
    /// Its prompt and constraint have moved to the answers.
    pub request: Request,
    pub prompt_tokens: usize,
    pub reader: R,
    /// A device that can chooses its tokens, in whatever steps: so that they do not depend on other requests.
    pub suits_devices: bool,
    /// The first alone until the prompt is computed, then all.
    pub answers: Vec<Answer>,
    pub taken: Duration,
    pub started: Option<Duration>,
    /// When the prompt's last logits were there.
    pub prompt_done: Option<Duration>,
    /// Time that tokens were computed again after preemptions.
    pub recomputing: Duration,
    pub preemptions: u32,
    /// Since when its reader has left no room.
    pub resting: Option<Duration>,
    /// It waited longest and goes before all others until it ends.
    pub favoured: bool,
    pub prompt_logprobs: Vec<TokenLogProbs>,
    /// Tokens whose hidden states were sent.
    pub hidden_states: usize,
    /// Why it must end.
    pub failure: Option<RequestError>,
}

impl<R: Reader> Task<R> {
    pub fn new(mut request: Request, reader: R, taken: Duration) -> Task<R> {
        let suits_devices = suits_devices(&request) && !reader.needs_logits();
        let tokens = std::mem::take(&mut request.prompt);
        let first = Answer::new(tokens, request.sampling.clone(), request.constraint.take());
        Task {
            prompt_tokens: first.tokens.len(),
            request,
            reader,
            suits_devices,
            answers: vec![first],
            taken,
            started: None,
            prompt_done: None,
            recomputing: Duration::ZERO,
            preemptions: 0,
            resting: None,
            favoured: false,
            prompt_logprobs: Vec::new(),
            hidden_states: 0,
            failure: None,
        }
    }

    /// The place of an answer in the order of sequences.
    pub fn key(&self, task: u64, answer: usize) -> Key {
        let priority = if self.favoured { i32::MIN } else { self.request.priority };
        Key { priority, task, answer: answer as u32 }
    }

    pub fn gives_hidden_states(&self) -> bool {
        self.request.output == Output::HiddenStates
    }

    /// Whether its prompt must be computed whole, whatever is cached.
    pub fn needs_whole_prompt(&self) -> bool {
        self.gives_hidden_states() || (self.wants_prompt_logprobs() && self.prompt_done.is_none())
    }

    pub fn wants_prompt_logprobs(&self) -> bool {
        self.request.prompt_logprobs && self.prompt_logprobs.len() + 1 < self.prompt_tokens
    }

    /// Whether every answer exists and has ended.
    pub fn is_done(&self) -> bool {
        self.answers.len() == self.request.answers as usize && self.answers.iter().all(|a| a.finish.is_some())
    }

    /// Makes the other answers once the prompt is computed.
    pub fn fork_answers(&mut self) {
        for index in self.answers.len() as u64..u64::from(self.request.answers) {
            let first = &self.answers[0];
            let mut sampling = first.sampling.clone();
            sampling.seed = sampling.seed.wrapping_add(index);
            let constraint = first.constraint.as_ref().map(|c| c.fork());
            let fork = Answer::new(first.tokens.clone(), sampling, constraint);
            self.answers.push(fork);
        }
    }

    /// Events it may need to send in its next step, and one for a failure.
    pub fn room_needed(&self) -> usize {
        let ended = self.answers.iter().filter(|a| a.finish.is_some()).count();
        events_in_a_step(self.request.answers - ended as u32)
    }

    /// What it has taken so far.
    pub fn timings(&self, now: Duration) -> RequestTimings {
        let started = self.started.unwrap_or(now);
        let prefill = self.prompt_done.unwrap_or(now).saturating_sub(started) + self.recomputing;
        RequestTimings {
            queued: started.saturating_sub(self.taken),
            prefill,
            decode: now.saturating_sub(started).saturating_sub(prefill),
            preemptions: self.preemptions,
        }
    }
}
