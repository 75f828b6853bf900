//! The bodies of answers to completion requests, whole and streamed: both have the same shape.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::server::api::chat::{finish_reason, stop_string};
use crate::server::api::generation::{Collected, EndReason};
use crate::server::api::token_text::{TokenLogprob, TopLogprob};
use crate::server::api::usage::{Timings, Usage};
use crate::text::Tokenizer;

/// Answers to a completion request, or pieces of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion {
    /// Its name.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// When it was asked for, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The artifact that answered: the same fingerprint, seed and request give the same answer.
    pub system_fingerprint: String,
    /// The answers: all those to the first prompt, then those to the next.
    pub choices: Vec<CompletionChoice>,
    /// What they took; in a stream, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// How long it took, where there was one prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// One answer, or a piece of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    /// Its place.
    pub index: u32,
    /// The text.
    pub text: String,
    /// Log-probabilities, where they were asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended: `stop` or `length`; null in a piece that is not the last.
    pub finish_reason: Option<&'static str>,
    /// The stop string that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
}

/// Log-probabilities, one entry of each list a token.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    /// Where its text begins, in characters.
    pub text_offset: Vec<usize>,
    /// Natural logarithm of its probability; null for a prompt's first token.
    pub token_logprobs: Vec<Option<f32>>,
    /// Its text.
    pub tokens: Vec<String>,
    /// The likeliest tokens and the one itself; null for a prompt's first token.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
}

/// What is the same in every part of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub id: String,
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
    /// Answers to each prompt.
    pub answers: u32,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
}

/// A prompt that is repeated in front of its answers; empty where it is not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Echo {
    /// Its text.
    pub text: String,
    /// The text of its first token, which has no probability.
    first: Option<String>,
    /// Where the text of each token begins, in characters.
    offsets: Vec<usize>,
}

impl Echo {
    /// Of a prompt's text and tokens. Tokens in front that are no part of the text, added to begin it, have no width.
    pub fn new(text: String, tokens: &[u32], tokenizer: &Tokenizer) -> Echo {
        let mut decode = tokenizer.decode_stream(false);
        let mut characters = 0;
        let offset = |token: &u32| {
            let offset = characters;
            // An id without a token has no text either.
            characters += decode.push(*token).map_or(0, |text| text.chars().count());
            offset
        };
        let mut offsets: Vec<usize> = tokens.iter().map(offset).collect();
        let added = (characters + decode.finish().chars().count()).saturating_sub(text.chars().count());
        offsets.iter_mut().for_each(|offset| *offset = offset.saturating_sub(added));
        Echo { text, first: tokens.first().map(|token| TopLogprob::text(tokenizer, *token)), offsets }
    }

    /// Characters of its text.
    pub fn characters(&self) -> usize {
        self.text.chars().count()
    }

    /// The log-probabilities of its tokens, the first without.
    pub fn logprobs(&self, rest: &[TokenLogprob]) -> CompletionLogprobs {
        let mut all = CompletionLogprobs::default();
        let Some(first) = &self.first else { return all };
        all.push(0, first.clone(), None, None);
        for (logprob, offset) in rest.iter().zip(self.offsets.iter().skip(1)) {
            all.push_token(*offset, logprob);
        }
        all
    }
}

impl CompletionLogprobs {
    fn push(&mut self, offset: usize, token: String, logprob: Option<f32>, top: Option<BTreeMap<String, f32>>) {
        self.text_offset.push(offset);
        self.tokens.push(token);
        self.token_logprobs.push(logprob);
        self.top_logprobs.push(top);
    }

    fn push_token(&mut self, offset: usize, logprob: &TokenLogprob) {
        let mut top: BTreeMap<String, f32> = BTreeMap::new();
        for entry in &logprob.top_logprobs {
            // Different tokens may have the same text; the likelier one comes first.
            top.entry(entry.token.clone()).or_insert(entry.logprob);
        }
        top.entry(logprob.token.clone()).or_insert(logprob.logprob);
        self.push(offset, logprob.token.clone(), Some(logprob.logprob), Some(top));
    }

    /// More tokens of an answer whose text begins behind so many characters.
    pub fn extend(&mut self, behind: usize, logprobs: &[TokenLogprob]) {
        for logprob in logprobs {
            self.push_token(behind + logprob.offset, logprob);
        }
    }
}

impl Completion {
    /// A part of an answer, without choices.
    pub fn part(head: &Head) -> Completion {
        Completion {
            id: head.id.clone(),
            object: "text_completion",
            created: head.created,
            model: head.model.clone(),
            system_fingerprint: head.system_fingerprint.clone(),
            choices: Vec::new(),
            usage: None,
            timings: None,
        }
    }

    /// From complete answers, prompt by prompt.
    pub fn new(head: &Head, echoes: Vec<Echo>, collected: Vec<Collected>) -> Completion {
        let mut completion = Completion::part(head);
        completion.usage = Some(collected.iter().fold(Usage::default(), |sum, c| sum.plus(c.usage)));
        completion.timings = match collected.as_slice() {
            [only] => Some(only.timings),
            _ => None,
        };
        for (echo, collected) in echoes.iter().zip(collected) {
            append(&mut completion.choices, head, echo, collected);
        }
        completion
    }
}

fn append(choices: &mut Vec<CompletionChoice>, head: &Head, echo: &Echo, collected: Collected) {
    for answer in collected.answers {
        let logprobs = head.logprobs.then(|| {
            let mut logprobs = echo.logprobs(&collected.prompt);
            logprobs.extend(echo.characters(), &answer.logprobs);
            logprobs
        });
        let reason = answer.reason.unwrap_or(EndReason::Stop);
        choices.push(CompletionChoice {
            index: choices.len() as u32,
            text: format!("{}{}", echo.text, answer.parsed.content),
            logprobs,
            finish_reason: Some(finish_reason(&reason, 0)),
            stop_reason: stop_string(reason),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, logprob: f32, offset: usize) -> TokenLogprob {
        let top = |token: &str, logprob| TopLogprob { token: token.into(), logprob, bytes: Vec::new() };
        TokenLogprob {
            token: text.into(),
            logprob,
            bytes: text.into(),
            top_logprobs: vec![top("best", -0.5), top("best", -0.7)],
            offset,
        }
    }

    #[test]
    fn echoed_logprobs_begin_with_a_token_without_one() {
        let echo = Echo { text: "aébc".into(), first: Some("aé".into()), offsets: vec![0, 2, 3] };
        let mut logprobs = echo.logprobs(&[token("b", -1.0, 0), token("c", -2.0, 0)]);
        logprobs.extend(echo.characters(), &[token("d", -3.0, 0), token("e", -4.0, 1)]);
        assert_eq!(logprobs.text_offset, [0, 2, 3, 4, 5]);
        assert_eq!(logprobs.tokens.concat(), "aébcde");
        assert_eq!(logprobs.token_logprobs, [None, Some(-1.0), Some(-2.0), Some(-3.0), Some(-4.0)]);
        assert_eq!(logprobs.top_logprobs[0], None);
        let top = BTreeMap::from([("best".to_owned(), -0.5), ("d".to_owned(), -3.0)]);
        assert_eq!(logprobs.top_logprobs[3], Some(top));
    }

    #[test]
    fn nothing_is_echoed_where_it_was_not_asked_for() {
        assert_eq!(Echo::default().logprobs(&[]), CompletionLogprobs::default());
    }
}
