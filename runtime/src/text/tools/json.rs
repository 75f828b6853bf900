//! One JSON value, found in text that comes character by character.

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 256;

/// What a character is to the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// Part of it.
    Inside,
    /// Its last character.
    Last,
    /// The first after it: numbers and words have no end of their own.
    After,
    /// It cannot be JSON.
    Malformed,
}

/// Follows a value to its end. Strings and brackets are matched; what stands between them is checked by its characters only.
#[derive(Clone, Debug, Default)]
pub(super) struct Scanner {
    /// Closing brackets that are due.
    open: Vec<char>,
    in_string: bool,
    escaped: bool,
    in_word: bool,
}

impl Scanner {
    /// Takes the next character; the first must not be white space.
    pub(super) fn push(&mut self, c: char) -> Scan {
        if self.in_string {
            return self.in_string(c);
        }
        match c {
            '"' if self.in_word => return Scan::Malformed,
            '"' => self.in_string = true,
            '{' | '[' if self.in_word || self.open.len() == MAX_DEPTH => return Scan::Malformed,
            '{' => self.open.push('}'),
            '[' => self.open.push(']'),
            '}' | ']' => return self.close(c),
            ',' | ' ' | '\t' | '\n' | '\r' if self.open.is_empty() => {
                return if self.in_word { Scan::After } else { Scan::Malformed };
            }
            ',' | ':' | ' ' | '\t' | '\n' | '\r' => {}
            _ if c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.') => self.in_word = self.open.is_empty(),
            _ => return Scan::Malformed,
        }
        Scan::Inside
    }

    fn in_string(&mut self, c: char) -> Scan {
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' => self.escaped = true,
            '"' => {
                self.in_string = false;
                if self.open.is_empty() {
                    return Scan::Last;
                }
            }
            _ => {}
        }
        Scan::Inside
    }

    fn close(&mut self, c: char) -> Scan {
        match self.open.pop() {
            Some(due) if due == c && self.open.is_empty() => Scan::Last,
            Some(due) if due == c => Scan::Inside,
            None if self.in_word => Scan::After,
            _ => Scan::Malformed,
        }
    }
}

pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}
