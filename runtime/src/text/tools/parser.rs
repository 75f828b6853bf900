//! Content, reasoning and calls, out of the text of an answer.

use std::collections::VecDeque;
use std::sync::Arc;

use super::call::{NamedReader, ObjectReader, Step};
use super::format::{AnswerFormat, Mark, Opening, Syntax};
use super::harmony::Harmony;
use super::json::is_space;
use super::text::{Found, Held, IdStyle, Output, char_text};
use super::{AnswerDelta, Dialect, ToolSet};

/// Longest beginning of a call that is held back before its name and arguments are known.
const LONGEST_BEGINNING: usize = 16 << 10;

/// Parses one answer as it is generated.
#[derive(Clone, Debug)]
pub struct AnswerParser {
    format: AnswerFormat,
    /// Names of the tools, and whether there may be but one call.
    tools: Option<(Arc<[String]>, bool)>,
    state: State,
    spot: Spot,
    held: Held,
    /// White space that is told only if text follows.
    space: String,
    /// Characters to be looked at again.
    again: VecDeque<char>,
    out: Output,
}

#[derive(Clone, Debug)]
enum State {
    Content,
    Reasoning,
    Section(Section),
    Harmony(Harmony),
    Done,
}

/// What came before, as far as it decides how white space and braces are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    Start,
    AfterReasoning,
    Text,
    AfterCall,
}

/// Text after the opening of calls.
#[derive(Clone, Debug)]
struct Section {
    opening: Opening,
    /// What was read since it was opened, or since its last call.
    raw: String,
    in_list: bool,
    phase: Phase,
    /// A call has begun and not ended.
    begun: bool,
}

#[derive(Clone, Debug)]
enum Phase {
    Before,
    Object(ObjectReader),
    Named(NamedReader),
    Between,
}

impl AnswerParser {
    pub(super) fn new(format: AnswerFormat, prompt: &str, tools: Option<&ToolSet>) -> Self {
        let tools = tools.map(|t| (t.names().map(str::to_owned).collect(), !t.parallel()));
        let ids = if format.dialect() == Dialect::Mistral { IdStyle::Nine } else { IdStyle::Long };
        let state = match format.dialect() {
            Dialect::Harmony => State::Harmony(Harmony::new(tools.is_some())),
            _ if format.is_reasoning_open(prompt) => State::Reasoning,
            _ => State::Content,
        };
        let (held, space, again, out) = (Held::default(), String::new(), VecDeque::new(), Output::new(ids));
        Self { format, tools, state, spot: Spot::Start, held, space, again, out }
    }

    /// The pieces that more text makes certain.
    pub fn push(&mut self, text: &str) -> Vec<AnswerDelta> {
        for c in text.chars() {
            self.again.push_back(c);
            while let Some(c) = self.again.pop_front() {
                self.character(c);
            }
        }
        self.out.take()
    }

    /// Ends the answer: what was held back is told as the text it is.
    pub fn finish(&mut self) -> Vec<AnswerDelta> {
        let held = self.held.take();
        match std::mem::replace(&mut self.state, State::Done) {
            State::Reasoning => {
                if !held.is_empty() && self.spot != Spot::Start {
                    self.out.reasoning(&std::mem::take(&mut self.space));
                }
                self.out.reasoning(&held);
            }
            State::Content if self.spot == Spot::Start || !held.is_empty() => self.content(&held),
            State::Section(section) if !section.begun => self.content(&section.raw),
            State::Harmony(mut harmony) => harmony.finish(&mut self.out),
            State::Content | State::Section(_) | State::Done => {}
        }
        self.out.take()
    }

    /// Calls that have begun.
    pub fn calls(&self) -> usize {
        self.out.calls()
    }

    /// Whether nothing more is wanted: there may be but one call, and it is complete.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn character(&mut self, c: char) {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Content => {
                self.state = State::Content;
                self.held.push(c);
                self.look_for_marks();
            }
            State::Reasoning => {
                self.state = State::Reasoning;
                self.held.push(c);
                self.look_for_end_of_reasoning();
            }
            State::Section(section) => self.in_section(section, c),
            State::Harmony(mut harmony) => {
                let ended = harmony.push(c, &mut self.out);
                if !(ended && self.is_single()) {
                    self.state = State::Harmony(harmony);
                }
            }
            State::Done => {}
        }
    }

    fn look_for_marks(&mut self) {
        let format = self.format.clone();
        let marks = format.marks(self.spot == Spot::Start, self.tools.is_some(), self.spot == Spot::AfterCall);
        loop {
            match self.held.find(&marks) {
                Found::Nothing => return,
                Found::Text(c) => {
                    let spot = self.spot;
                    self.content_character(c);
                    // Other marks count from here on.
                    if self.spot != spot || !matches!(self.state, State::Content) {
                        self.look_again_at_held();
                        return;
                    }
                }
                Found::Marker(mark) => {
                    self.mark(mark);
                    return;
                }
            }
        }
    }

    fn look_again_at_held(&mut self) {
        for c in self.held.take().chars().rev() {
            self.again.push_front(c);
        }
    }

    fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::Reasoning => {
                self.space.clear();
                self.state = State::Reasoning;
            }
            Mark::Ignored => self.space.clear(),
            Mark::Calls(opening) => {
                let raw = opening.marker.to_owned();
                let section = Section { opening, raw, in_list: false, phase: Phase::Before, begun: false };
                self.state = State::Section(section);
                if opening.marker.ends_with('[') {
                    // The bracket belongs to the marker and to the list.
                    self.again.push_front('[');
                    if let State::Section(section) = &mut self.state {
                        section.raw.pop();
                    }
                }
            }
        }
    }

    fn content_character(&mut self, c: char) {
        let buffer = &mut [0; 4];
        match self.spot {
            Spot::Text => self.out.content(char_text(c, buffer)),
            Spot::AfterReasoning if c.is_whitespace() => {}
            _ if c.is_whitespace() => self.space.push(c),
            Spot::AfterCall if c == ';' && self.unmarked().is_some() => {}
            _ => match self.unmarked() {
                Some(opening) if c == '{' || c == '[' => {
                    let raw = String::new();
                    let section = Section { opening, raw, in_list: false, phase: Phase::Before, begun: false };
                    self.state = State::Section(section);
                    self.again.push_front(c);
                }
                _ => self.content(char_text(c, buffer)),
            },
        }
    }

    /// How calls without a marker are read, where the dialect has such.
    fn unmarked(&self) -> Option<Opening> {
        self.tools.as_ref().and_then(|_| self.format.unmarked())
    }

    /// Text, with the white space before it.
    fn content(&mut self, text: &str) {
        let space = std::mem::take(&mut self.space);
        self.out.content(&space);
        self.out.content(text);
        self.spot = Spot::Text;
    }

    fn look_for_end_of_reasoning(&mut self) {
        let Some(close) = self.format.reasoning_close() else { return };
        loop {
            match self.held.find(&[(close, ())]) {
                Found::Nothing => return,
                Found::Text(c) if c.is_whitespace() => self.space.push(c),
                Found::Text(c) => {
                    // White space around the thoughts is not part of them.
                    let space = std::mem::take(&mut self.space);
                    let space = if self.spot == Spot::Start { "" } else { space.as_str() };
                    self.out.reasoning(space);
                    self.out.reasoning(char_text(c, &mut [0; 4]));
                    self.spot = Spot::AfterReasoning;
                }
                Found::Marker(()) => {
                    self.space.clear();
                    (self.state, self.spot) = (State::Content, Spot::AfterReasoning);
                    return;
                }
            }
        }
    }

    fn in_section(&mut self, mut section: Section, c: char) {
        section.raw.push(c);
        if !section.begun && section.raw.len() > LONGEST_BEGINNING {
            return self.release(section);
        }
        match &mut section.phase {
            Phase::Before if is_space(c) => self.state = State::Section(section),
            Phase::Before => self.first_of_call(section, c),
            Phase::Between => match c {
                ',' => {
                    section.phase = Phase::Before;
                    self.state = State::Section(section);
                }
                ']' => self.leave(),
                _ if is_space(c) => self.state = State::Section(section),
                _ => self.release(section),
            },
            Phase::Object(reader) => {
                let step = reader.push(c);
                self.step(section, step, c);
            }
            Phase::Named(reader) => {
                let step = reader.push(c);
                self.step(section, step, c);
            }
        }
    }

    fn first_of_call(&mut self, mut section: Section, c: char) {
        let syntax = section.opening.syntax;
        let step = match (c, syntax) {
            ('[', Syntax::Objects | Syntax::Strict | Syntax::Either(_)) if !section.in_list => {
                section.in_list = true;
                Step::More
            }
            ('{', Syntax::Objects | Syntax::Strict | Syntax::Either(_)) => {
                let mut reader =
                    if syntax == Syntax::Strict { ObjectReader::strict() } else { ObjectReader::default() };
                let step = reader.push(c);
                section.phase = Phase::Object(reader);
                step
            }
            (_, Syntax::Named(naming) | Syntax::Either(naming)) if !section.in_list => {
                let mut reader = NamedReader::new(naming);
                let step = reader.push(c);
                section.phase = Phase::Named(reader);
                step
            }
            _ => Step::Malformed,
        };
        self.step(section, step, c);
    }

    fn step(&mut self, mut section: Section, step: Step, c: char) {
        match step {
            Step::More => self.state = State::Section(section),
            Step::Begin(name) | Step::Whole(name, _) if !self.is_taken(&section, &name) => self.release(section),
            Step::Begin(name) => {
                self.begin(&mut section, name);
                self.out.arguments(char_text(c, &mut [0; 4]));
                self.state = State::Section(section);
            }
            Step::Argument => {
                self.out.arguments(char_text(c, &mut [0; 4]));
                self.state = State::Section(section);
            }
            Step::LastArgument => {
                self.out.arguments(char_text(c, &mut [0; 4]));
                self.end_of_call(section);
            }
            Step::Whole(name, json) => {
                self.begin(&mut section, name);
                self.out.arguments(&json);
                self.end_of_call(section);
            }
            Step::End => self.end_of_call(section),
            Step::Malformed if section.begun => {
                self.leave();
                self.again.push_front(c);
            }
            Step::Malformed => self.release(section),
        }
    }

    /// Without a marker, only the names of tools make an object a call.
    fn is_taken(&self, section: &Section, name: &str) -> bool {
        let known = || self.tools.as_ref().is_some_and(|(names, _)| names.iter().any(|n| n == name));
        section.opening.syntax != Syntax::Strict || known()
    }

    fn begin(&mut self, section: &mut Section, name: String) {
        self.space.clear();
        self.out.begin(name);
        section.begun = true;
    }

    fn end_of_call(&mut self, mut section: Section) {
        section.raw.clear();
        section.begun = false;
        if section.in_list && !self.is_single() {
            section.phase = Phase::Between;
            self.state = State::Section(section);
        } else {
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.spot = Spot::AfterCall;
        self.state = if self.is_single() && self.calls() > 0 { State::Done } else { State::Content };
    }

    fn is_single(&self) -> bool {
        self.tools.as_ref().is_some_and(|(_, single)| *single)
    }

    /// Takes back that a call was opened: its first character is text, the others are looked at again.
    fn release(&mut self, section: Section) {
        self.state = State::Content;
        let mut characters = section.raw.chars();
        if let Some(first) = characters.next() {
            self.content(char_text(first, &mut [0; 4]));
        }
        for c in characters.rev() {
            self.again.push_front(c);
        }
    }
}
