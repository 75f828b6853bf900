//! The one way from an endpoint to tokens and back to text.
//!
//! An endpoint makes a [`Plan`]; [`Generation::start`] hands it to the model's engine and [`Generation::next`] gives what
//! became certain of the answers, in order. Whoever drops a generation cancels it. Streamed and whole answers are built
//! from the same updates, so that they cannot differ.

use std::collections::VecDeque;

use futures_util::Stream;

use super::answer_text::{AnswerText, Piece};
use super::token_text::TokenLogprob;
use super::usage::{Timings, Usage};
use crate::kv::salt::CacheSalt;
use crate::sample::SamplingParams;
use crate::server::error::ApiError;
use crate::server::models::{AnswerStream, ModelHandle};
use crate::serving::{CachedTokens, Event, FinishReason, Output, Request, RequestTimings, TokenConstraint};
use crate::text::tools::{AnswerParser, ParsedAnswer};
use crate::text::{DecodeStream, StopConditions};

/// How tokens become text.
pub(crate) enum Reading {
    /// All text is content; special tokens are left out or not.
    Plain {
        /// Whether they are left out.
        skip_special: bool,
    },
    /// As the model's answer format says: reasoning and tool calls are told apart from content.
    Chat(Box<AnswerParser>),
}

/// Everything a request for answers to one prompt needs.
pub(crate) struct Plan {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Stop strings.
    pub stop: StopConditions,
    /// Tokens that end an answer.
    pub stop_ids: Vec<u32>,
    /// Most tokens of an answer.
    pub max_tokens: u64,
    /// Answers.
    pub answers: u32,
    /// Log-probabilities of the chosen tokens and of so many of the likeliest.
    pub logprobs: Option<usize>,
    /// Those of the prompt too.
    pub prompt_logprobs: bool,
    /// Restricts the answers.
    pub constraint: Option<Box<dyn TokenConstraint>>,
    /// Smaller goes first.
    pub priority: i32,
    /// Whose cached prefixes it may use.
    pub salt: CacheSalt,
    /// How tokens become text.
    pub reading: Reading,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The model ended it.
    Stop,
    /// A stop string was met.
    StopString(String),
    /// The most tokens were generated.
    Length,
}

/// What became known of the answers.
#[derive(Debug, PartialEq)]
pub(crate) enum Update {
    /// Log-probabilities of the prompt's tokens from the second on.
    Prompt(Vec<TokenLogprob>),
    /// More of an answer.
    Piece {
        /// Which one.
        answer: u32,
        /// What there is more of.
        piece: Piece,
    },
    /// An answer is complete.
    End {
        /// Which one.
        answer: u32,
        /// Why.
        reason: EndReason,
        /// Tool calls in it.
        calls: usize,
    },
}

/// An item of a generation as a stream.
#[derive(Debug)]
pub(crate) enum Told {
    /// What became known, and the usage so far.
    Update(Update, Usage),
    /// Every answer is complete.
    Done(Usage, Timings),
}

/// Answers being generated.
pub(crate) struct Generation {
    model: ModelHandle,
    events: AnswerStream,
    stop: StopConditions,
    answers: Vec<AnswerText>,
    unfinished: usize,
    updates: VecDeque<Update>,
    prompt_tokens: u64,
    cached: CachedTokens,
    times: RequestTimings,
}

impl Generation {
    /// Hands a plan to the model's engine.
    pub fn start(model: &ModelHandle, plan: Plan) -> Result<Generation, ApiError> {
        let answers = (0..plan.answers).map(|_| answer_text(model, &plan)).collect::<Result<Vec<_>, _>>()?;
        let prompt_tokens = plan.prompt.len() as u64;
        let events = model.submit(Request {
            prompt: plan.prompt,
            sampling: plan.sampling,
            stop_ids: plan.stop_ids,
            max_tokens: plan.max_tokens,
            answers: plan.answers,
            logprobs: plan.logprobs,
            prompt_logprobs: plan.prompt_logprobs,
            constraint: plan.constraint,
            priority: plan.priority,
            salt: plan.salt,
            output: Output::Tokens,
        })?;
        Ok(Generation {
            model: model.clone(),
            events,
            stop: plan.stop,
            unfinished: answers.len(),
            answers,
            updates: VecDeque::new(),
            prompt_tokens,
            cached: CachedTokens::default(),
            times: RequestTimings::default(),
        })
    }

    /// What became known next; `None` once every answer is complete.
    pub async fn next(&mut self) -> Result<Option<Update>, ApiError> {
        loop {
            if let Some(update) = self.updates.pop_front() {
                return Ok(Some(update));
            }
            if self.unfinished == 0 {
                return Ok(None);
            }
            match self.events.next().await {
                Some(event) => self.take(event)?,
                None => return Err(ApiError::internal("the engine stopped before the answer was complete")),
            }
        }
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        let count = |sum: (u64, u64), answer: &AnswerText| (sum.0 + answer.tokens().0, sum.1 + answer.tokens().1);
        let (completion, reasoning) = self.answers.iter().fold((0, 0), count);
        Usage::new(self.prompt_tokens, self.cached.total(), completion, reasoning)
    }

    /// Times so far.
    pub fn timings(&self) -> Timings {
        Timings::new(self.prompt_tokens, self.cached, self.usage().completion_tokens, self.times)
    }

    /// As a stream: every update with the usage so far, and what it took in the end.
    pub fn told(mut self) -> impl Stream<Item = Result<Told, ApiError>> + Send {
        async_stream::try_stream! {
            while let Some(update) = self.next().await? {
                yield Told::Update(update, self.usage());
            }
            yield Told::Done(self.usage(), self.timings());
        }
    }

    /// All answers, once complete.
    pub async fn collect(mut self) -> Result<Collected, ApiError> {
        let mut collected = Collected {
            answers: self.answers.iter().map(|_| WholeAnswer::default()).collect(),
            prompt: Vec::new(),
            usage: Usage::default(),
            timings: Timings::default(),
        };
        while let Some(update) = self.next().await? {
            match update {
                Update::Prompt(logprobs) => collected.prompt.extend(logprobs),
                Update::Piece { answer, piece } => {
                    let whole = &mut collected.answers[answer as usize];
                    whole.parsed.extend(piece.deltas);
                    whole.logprobs.extend(piece.logprobs);
                }
                Update::End { answer, reason, .. } => collected.answers[answer as usize].reason = Some(reason),
            }
        }
        (collected.usage, collected.timings) = (self.usage(), self.timings());
        Ok(collected)
    }

    fn take(&mut self, event: Event) -> Result<(), ApiError> {
        match event {
            Event::Started { cached, queued } => (self.cached, self.times.queued) = (cached, queued),
            Event::Prompt(logprobs) => {
                let tokenizer = &self.model.tokenizer;
                let logprobs = logprobs.iter().map(|l| TokenLogprob::new(tokenizer, l)).collect();
                self.updates.push_back(Update::Prompt(logprobs));
            }
            Event::Token { answer, token, logprobs } => {
                let logprob = logprobs.map(|l| TokenLogprob::new(&self.model.tokenizer, &l));
                let Some(text) = self.answers.get_mut(answer as usize) else { return Ok(()) };
                let was_running = text.matched().is_none();
                let piece = text.push(token, logprob)?;
                if was_running && text.matched().is_some() {
                    self.events.end_answer(answer);
                }
                self.tell(answer, piece);
            }
            Event::Finished { answer, reason, timings } => self.finish(answer, reason, timings),
            Event::Failed(error) => return Err(error.into()),
            // Only sent where hidden states were asked for.
            Event::Hidden(_) => {}
        }
        Ok(())
    }

    fn finish(&mut self, answer: u32, reason: FinishReason, timings: RequestTimings) {
        self.times = timings;
        let Some(text) = self.answers.get_mut(answer as usize) else { return };
        let piece = text.finish();
        let matched = text.matched().and_then(|index| self.stop.strings().get(index));
        let reason = match (matched, reason) {
            (Some(string), _) => EndReason::StopString(string.clone()),
            (None, FinishReason::Length) => EndReason::Length,
            (None, FinishReason::Stop | FinishReason::Cancelled) => EndReason::Stop,
        };
        let calls = text.calls();
        self.tell(answer, piece);
        self.updates.push_back(Update::End { answer, reason, calls });
        self.unfinished = self.unfinished.saturating_sub(1);
    }

    fn tell(&mut self, answer: u32, piece: Piece) {
        if !piece.is_empty() {
            self.updates.push_back(Update::Piece { answer, piece });
        }
    }
}

fn answer_text(model: &ModelHandle, plan: &Plan) -> Result<AnswerText, ApiError> {
    let (decode, parser): (DecodeStream, _) = match &plan.reading {
        Reading::Plain { skip_special } => (model.tokenizer.decode_stream(*skip_special), None),
        Reading::Chat(parser) => (model.format()?.decode_stream(&model.tokenizer), Some(parser.as_ref().clone())),
    };
    Ok(AnswerText::new(decode, plan.stop.matcher(), parser))
}

/// A complete answer.
#[derive(Debug, Default)]
pub(crate) struct WholeAnswer {
    /// Content, reasoning, tool calls.
    pub parsed: ParsedAnswer,
    /// Log-probabilities of its tokens, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Why it ended; always there once complete.
    pub reason: Option<EndReason>,
}

/// Complete answers and what they took.
#[derive(Debug)]
pub(crate) struct Collected {
    /// The answers, in order.
    pub answers: Vec<WholeAnswer>,
    /// Log-probabilities of the prompt's tokens, from the second on, where they were asked for.
    pub prompt: Vec<TokenLogprob>,
    /// Tokens.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
}
