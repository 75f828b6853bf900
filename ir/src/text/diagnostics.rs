//! What is wrong with a text, line by line.

use std::fmt;

use super::ParseError;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1, where the text itself cannot be read.
    pub column: Option<usize>,
    /// The node, launch, buffer, symbol or output; empty where the line belongs to none.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl Diagnostic {
    /// An error of reading, at the thing that was being read.
    pub(super) fn unread(error: ParseError, place: String) -> Diagnostic {
        Diagnostic { line: error.line, column: Some(error.column), place, message: error.message }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        let separator = if self.place.is_empty() { "" } else { ": " };
        write!(f, "{separator}{}: {}", self.place, self.message)
    }
}

/// Everything that is wrong with a text, in the order of its lines; one diagnostic a line when displayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostics {
    /// `value` if nothing is wrong, else everything that is, sorted.
    pub(super) fn or<T>(mut found: Vec<Diagnostic>, value: T) -> Result<T, Diagnostics> {
        if found.is_empty() {
            return Ok(value);
        }
        found.sort_by_key(|d| (d.line, d.column));
        Err(Diagnostics(found))
    }
}
