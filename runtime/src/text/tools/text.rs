//! Markers in text that comes character by character, and the pieces that are told.

use super::AnswerDelta;

/// Holds back what may still become a marker.
///
/// No marker of a dialect stands within another, so that the first one to be complete is the one that began first.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(String);

/// What a character made of the text held back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// It is a marker.
    Marker(T),
    /// It may become one.
    Nothing,
    /// Its first character is none; ask again.
    Text(char),
}

impl Held {
    pub(super) fn push(&mut self, c: char) {
        self.0.push(c);
    }

    /// Looks at what is held; to be asked until it says [`Found::Nothing`].
    pub(super) fn find<T: Copy>(&mut self, markers: &[(&str, T)]) -> Found<T> {
        if let Some((_, marker)) = markers.iter().find(|(text, _)| *text == self.0) {
            self.0.clear();
            return Found::Marker(*marker);
        }
        if self.0.is_empty() || markers.iter().any(|(text, _)| text.starts_with(&self.0)) {
            return Found::Nothing;
        }
        Found::Text(self.0.remove(0))
    }

    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

/// How ids of calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdStyle {
    /// As OpenAI's.
    Long,
    /// Nine letters and digits: Mistral's templates refuse any other.
    Nine,
}

impl IdStyle {
    fn fresh(self) -> String {
        let random = uuid::Uuid::new_v4().simple().to_string();
        match self {
            IdStyle::Long => format!("call_{}", &random[..24]),
            IdStyle::Nine => random[..9].to_owned(),
        }
    }
}

/// The pieces of one push, neighbours of a kind joined.
#[derive(Clone, Debug)]
pub(super) struct Output {
    deltas: Vec<AnswerDelta>,
    calls: usize,
    ids: IdStyle,
}

impl Output {
    pub(super) fn new(ids: IdStyle) -> Self {
        Self { deltas: Vec::new(), calls: 0, ids }
    }

    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    pub(super) fn take(&mut self) -> Vec<AnswerDelta> {
        std::mem::take(&mut self.deltas)
    }

    pub(super) fn content(&mut self, text: &str) {
        match self.deltas.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerDelta::Content(last)) => last.push_str(text),
            _ => self.deltas.push(AnswerDelta::Content(text.to_owned())),
        }
    }

    pub(super) fn reasoning(&mut self, text: &str) {
        match self.deltas.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerDelta::Reasoning(last)) => last.push_str(text),
            _ => self.deltas.push(AnswerDelta::Reasoning(text.to_owned())),
        }
    }

    pub(super) fn begin(&mut self, name: String) {
        self.deltas.push(AnswerDelta::CallBegin { index: self.calls, id: self.ids.fresh(), name });
        self.calls += 1;
    }

    /// More arguments of the last call that began.
    pub(super) fn arguments(&mut self, text: &str) {
        let index = self.calls.saturating_sub(1);
        match self.deltas.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerDelta::CallArguments { json, .. }) => json.push_str(text),
            _ => self.deltas.push(AnswerDelta::CallArguments { index, json: text.to_owned() }),
        }
    }
}

pub(super) fn char_text(c: char, buffer: &mut [u8; 4]) -> &str {
    c.encode_utf8(buffer)
}
