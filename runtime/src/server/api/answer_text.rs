//! From the tokens of one answer to its text: decoding, stop strings, reasoning and tool calls.
//!
//! Text that may still become a stop string is held back, and the log-probabilities of its tokens with it, so that both arrive
//! together and neither is given for text behind a stop string.

use std::collections::VecDeque;

use super::token_text::TokenLogprob;
use crate::text::tools::{AnswerDelta, AnswerParser};
use crate::text::{DecodeStream, StopMatcher, TextError};

/// What a token added to its answer.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Piece {
    /// Text, reasoning and tool calls that became certain.
    pub deltas: Vec<AnswerDelta>,
    /// Log-probabilities of the tokens whose text did, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

impl Piece {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.deltas.is_empty() && self.logprobs.is_empty()
    }
}

/// A token whose text is not wholly certain yet.
struct Held {
    /// Where its text begins and ends among the bytes of the decoded text.
    start: usize,
    end: usize,
    logprob: TokenLogprob,
}

/// The text of one answer.
pub(crate) struct AnswerText {
    decode: Option<DecodeStream>,
    stop: Option<StopMatcher>,
    parser: Option<AnswerParser>,
    /// Bytes that came out of the decoder.
    decoded: usize,
    /// Bytes that are certain, stop strings left out.
    certain: usize,
    /// Characters that came out of the decoder.
    characters: usize,
    held: VecDeque<Held>,
    matched: Option<usize>,
    tokens: u64,
    reasoning_tokens: u64,
}

impl AnswerText {
    /// An empty answer. Without a parser all text is content.
    pub fn new(decode: DecodeStream, stop: StopMatcher, parser: Option<AnswerParser>) -> AnswerText {
        AnswerText {
            decode: Some(decode),
            stop: Some(stop),
            parser,
            decoded: 0,
            certain: 0,
            characters: 0,
            held: VecDeque::new(),
            matched: None,
            tokens: 0,
            reasoning_tokens: 0,
        }
    }

    /// The stop string that ended the answer, as index.
    pub fn matched(&self) -> Option<usize> {
        self.matched
    }

    /// Tokens so far, and of those the ones that gave reasoning.
    pub fn tokens(&self) -> (u64, u64) {
        (self.tokens, self.reasoning_tokens)
    }

    /// Tool calls begun so far.
    pub fn calls(&self) -> usize {
        self.parser.as_ref().map_or(0, AnswerParser::calls)
    }

    /// Takes a token. After a stop string nothing is taken any more.
    pub fn push(&mut self, token: u32, logprob: Option<TokenLogprob>) -> Result<Piece, TextError> {
        let (Some(decode), None) = (&mut self.decode, self.matched) else { return Ok(Piece::default()) };
        let text = decode.push(token)?.to_owned();
        self.tokens += 1;
        let start = self.decoded;
        if let Some(mut logprob) = logprob {
            logprob.offset = self.characters;
            self.held.push_back(Held { start, end: start + text.len(), logprob });
        }
        let deltas = self.take_text(&text);
        self.reasoning_tokens += u64::from(deltas.iter().any(|d| matches!(d, AnswerDelta::Reasoning(_))));
        Ok(Piece { deltas, logprobs: self.release() })
    }

    /// Ends the answer: everything held back becomes certain.
    pub fn finish(&mut self) -> Piece {
        let tail = self.decode.take().map(DecodeStream::finish).unwrap_or_default();
        let mut deltas = if self.matched.is_none() { self.take_text(&tail) } else { Vec::new() };
        let kept = self.stop.take().filter(|_| self.matched.is_none()).map(StopMatcher::finish).unwrap_or_default();
        self.certain += kept.len();
        deltas.extend(self.parse(kept));
        deltas.extend(self.parser.as_mut().map(AnswerParser::finish).unwrap_or_default());
        let logprobs = self.release();
        let rest = std::mem::take(&mut self.held);
        let rest = rest.into_iter().filter(|held| self.matched.is_none() || held.start < self.certain);
        Piece { deltas: merged(deltas), logprobs: logprobs.into_iter().chain(rest.map(|held| held.logprob)).collect() }
    }

    fn take_text(&mut self, text: &str) -> Vec<AnswerDelta> {
        self.decoded += text.len();
        self.characters += text.chars().count();
        let Some(stop) = &mut self.stop else { return Vec::new() };
        let step = stop.push(text);
        self.matched = step.matched;
        self.certain += step.text.len();
        self.parse(step.text)
    }

    fn parse(&mut self, text: String) -> Vec<AnswerDelta> {
        match &mut self.parser {
            _ if text.is_empty() => Vec::new(),
            Some(parser) => parser.push(&text),
            None => vec![AnswerDelta::Content(text)],
        }
    }

    /// The log-probabilities of the tokens whose text is certain to its end.
    fn release(&mut self) -> Vec<TokenLogprob> {
        let count = self.held.iter().take_while(|held| held.end <= self.certain).count();
        self.held.drain(..count).map(|held| held.logprob).collect()
    }
}

/// Neighbouring pieces of the same kind as one.
fn merged(deltas: Vec<AnswerDelta>) -> Vec<AnswerDelta> {
    let mut all: Vec<AnswerDelta> = Vec::with_capacity(deltas.len());
    for delta in deltas {
        match (all.last_mut(), &delta) {
            (Some(AnswerDelta::Content(text)), AnswerDelta::Content(more))
            | (Some(AnswerDelta::Reasoning(text)), AnswerDelta::Reasoning(more)) => text.push_str(more),
            _ => all.push(delta),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{StopConditions, golden};

    fn content(pieces: &[Piece]) -> String {
        let deltas = pieces.iter().flat_map(|piece| &piece.deltas);
        let text = |delta: &AnswerDelta| match delta {
            AnswerDelta::Content(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        deltas.map(text).collect()
    }

    fn run(text: &str, stop: &[&str]) -> (Vec<Piece>, AnswerText) {
        let tokenizer = golden::tokenizer("qwen3");
        let strings = stop.iter().map(|s| (*s).to_owned()).collect();
        let conditions = StopConditions::new(strings, Vec::new(), false).expect("stop strings");
        let mut answer = AnswerText::new(tokenizer.decode_stream(true), conditions.matcher(), None);
        let mut pieces = Vec::new();
        for id in tokenizer.encode(text, false).expect("encodes") {
            pieces.push(answer.push(id, Some(TokenLogprob::of_text(&tokenizer, id))).expect("known"));
        }
        pieces.push(answer.finish());
        (pieces, answer)
    }

    #[test]
    fn a_stop_string_across_tokens_cuts_text_and_logprobs() {
        for stop in ["quick brown", "ick b", "k", "wn fox j"] {
            let whole = "The quick brown fox jumps";
            let (pieces, answer) = run(whole, &["never", stop]);
            let expected = &whole[..whole.find(stop).expect("there")];
            assert_eq!((content(&pieces).as_str(), answer.matched()), (expected, Some(1)), "{stop}");
            let tokens: String =
                pieces.iter().flat_map(|p| &p.logprobs).map(|l| l.token.as_str()).collect::<Vec<_>>().concat();
            // The token in which the stop string begins is given if text of it is.
            assert!(tokens.starts_with(expected) && whole.starts_with(&tokens), "{stop}: {tokens}");
        }
    }

    #[test]
    fn text_that_only_begins_a_stop_string_is_given_at_the_end() {
        let (pieces, answer) = run("The quick brown fo", &["fox"]);
        assert_eq!((content(&pieces).as_str(), answer.matched()), ("The quick brown fo", None));
        let offsets: Vec<usize> = pieces.iter().flat_map(|p| &p.logprobs).map(|l| l.offset).collect();
        assert_eq!((offsets.len() as u64, offsets[0]), (answer.tokens().0, 0));
        assert!(offsets.is_sorted());
    }

    #[test]
    fn characters_of_several_tokens_are_whole() {
        let (pieces, _) = run("日本 😀é", &[]);
        assert_eq!(content(&pieces), "日本 😀é");
        assert!(pieces.iter().flat_map(|p| &p.deltas).all(|d| !format!("{d:?}").contains('\u{FFFD}')));
    }
}
