//! OpenAI's harmony format: an answer is a row of messages, each with a channel and perhaps a recipient.
//!
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>`; a call is a message
//! `to=functions.NAME` whose body is its arguments.

use super::text::{Found, Held, Output, char_text};

/// Its special tokens.
pub(super) const TOKENS: [&str; 7] =
    ["<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|constrain|>"];
const LONGEST_HEADER: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Channel,
    Message,
    /// Of any kind.
    End,
    Start,
    Constrain,
}

const MARKERS: [(&str, Token); 7] = [
    ("<|channel|>", Token::Channel),
    ("<|message|>", Token::Message),
    ("<|end|>", Token::End),
    ("<|call|>", Token::End),
    ("<|return|>", Token::End),
    ("<|start|>", Token::Start),
    ("<|constrain|>", Token::Constrain),
];

/// Where the text is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Between the role and what follows it; the prompt ends there.
    AfterRole(String),
    /// In a message's header.
    Header(String),
    Analysis,
    Final,
    Call,
    Between,
}

/// The parser of an answer.
#[derive(Clone, Debug)]
pub(super) struct Harmony {
    held: Held,
    place: Place,
    /// Whether messages to functions are calls.
    tools: bool,
}

impl Harmony {
    pub(super) fn new(tools: bool) -> Self {
        Self { held: Held::default(), place: Place::AfterRole(String::new()), tools }
    }

    /// Takes a character; true where it ended a call.
    pub(super) fn push(&mut self, c: char, out: &mut Output) -> bool {
        let mut ended = false;
        self.held.push(c);
        loop {
            match self.held.find(&MARKERS) {
                Found::Nothing => return ended,
                Found::Text(c) => self.text(c, out),
                Found::Marker(token) => {
                    ended |= self.place == Place::Call && token != Token::Constrain;
                    self.marker(token, out);
                }
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut Output) {
        for c in self.held.take().chars() {
            self.text(c, out);
        }
        if let Place::AfterRole(text) = &self.place {
            out.content(text);
        }
    }

    fn marker(&mut self, token: Token, out: &mut Output) {
        let place = std::mem::replace(&mut self.place, Place::Between);
        self.place = match (token, place) {
            (Token::End, _) => Place::Between,
            (Token::Start, _) => Place::Header(String::new()),
            (Token::Message, Place::Header(header)) => self.body(&header, out),
            (Token::Channel | Token::Constrain, Place::Header(header) | Place::AfterRole(header)) => {
                Place::Header(header + " ")
            }
            (Token::Channel, _) => Place::Header(String::new()),
            (Token::Message | Token::Constrain, Place::AfterRole(_) | Place::Between) => Place::Final,
            (Token::Message | Token::Constrain, place) => place,
        };
    }

    fn text(&mut self, c: char, out: &mut Output) {
        let buffer = &mut [0; 4];
        match &mut self.place {
            Place::Analysis => out.reasoning(char_text(c, buffer)),
            Place::Final => out.content(char_text(c, buffer)),
            Place::Call => out.arguments(char_text(c, buffer)),
            Place::Between if c.is_whitespace() => {}
            Place::Between => {
                self.place = Place::Final;
                out.content(char_text(c, buffer));
            }
            Place::Header(header) => {
                header.push(c);
                if header.len() > LONGEST_HEADER {
                    out.content(header);
                    self.place = Place::Final;
                }
            }
            Place::AfterRole(text) => {
                text.push(c);
                let start = text.trim_start();
                // Only a recipient may stand there; anything else is an answer without the format.
                if !("to=".starts_with(start) || start.starts_with("to=")) || text.len() > LONGEST_HEADER {
                    out.content(text);
                    self.place = Place::Final;
                }
            }
        }
    }

    /// The place after a header; begins a call where it says so.
    fn body(&self, header: &str, out: &mut Output) -> Place {
        let mut words = header.split_whitespace();
        let recipient = words.clone().find_map(|w| w.strip_prefix("to="));
        match recipient.and_then(|r| r.strip_prefix("functions.")) {
            Some(name) if self.tools => {
                out.begin(name.to_owned());
                Place::Call
            }
            Some(_) => Place::Final,
            None if recipient.is_some() || words.any(|w| w == "analysis") => Place::Analysis,
            None => Place::Final,
        }
    }
}
