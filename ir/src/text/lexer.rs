//! Tokens of the text form, with one token of look-ahead and positions for messages.

use super::ParseError;

/// A token. Numbers keep their spelling, so that integers and floats of any width are read exactly.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A keyword, op, symbol or type name.
    Word(String),
    /// `%N`.
    Value(u32),
    /// A quoted string, unescaped.
    Text(String),
    /// An integer or float, as written.
    Number(String),
    /// One of `( ) { } [ ] : , = *` and `..=`.
    Punctuation(&'static str),
    /// Nothing is left.
    End,
}

const PUNCTUATION: &[&str] = &["..=", "(", ")", "{", "}", "[", "]", ":", ",", "=", "*"];

impl Token {
    fn describe(&self) -> String {
        match self {
            Token::Word(w) | Token::Number(w) => format!("`{w}`"),
            Token::Value(v) => format!("`%{v}`"),
            Token::Text(_) => "a string".into(),
            Token::Punctuation(p) => format!("`{p}`"),
            Token::End => "the end".into(),
        }
    }
}

/// Reads tokens off a text.
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
    ahead: Option<(Token, usize)>,
    last: usize,
}

impl<'a> Lexer<'a> {
    /// A lexer at the start of `text`.
    pub fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0, ahead: None, last: 0 }
    }

    /// The next token, left in place.
    pub fn peek(&mut self) -> Result<&Token, ParseError> {
        if self.ahead.is_none() {
            self.ahead = Some(self.scan()?);
        }
        match &self.ahead {
            Some((token, _)) => Ok(token),
            None => Err(self.error_at(self.at, "nothing to read".into())),
        }
    }

    /// Takes the next token.
    pub fn next(&mut self) -> Result<Token, ParseError> {
        let (token, start) = match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.scan()?,
        };
        self.last = start;
        Ok(token)
    }

    /// Byte where the next token begins.
    pub fn position(&mut self) -> usize {
        if let Some((_, start)) = self.ahead {
            return start;
        }
        self.skip_blanks();
        self.at
    }

    /// Goes on after the line that the byte `at` stands in.
    pub fn resume_after_line(&mut self, at: usize) {
        self.ahead = None;
        self.at = self.text[at..].find('\n').map_or(self.text.len(), |length| at + length + 1);
        self.last = self.at;
    }

    /// An error at the next token.
    pub fn error_here(&mut self, message: &str) -> ParseError {
        let at = self.position();
        self.error_at(at, message.into())
    }

    /// An error at the token taken last.
    pub fn error_before(&self, message: String) -> ParseError {
        self.error_at(self.last, message)
    }

    /// Takes a word.
    pub fn word(&mut self) -> Result<String, ParseError> {
        match self.next()? {
            Token::Word(w) => Ok(w),
            other => Err(self.error_before(format!("expected a name, found {}", other.describe()))),
        }
    }

    /// Takes a quoted string.
    pub fn string(&mut self) -> Result<String, ParseError> {
        match self.next()? {
            Token::Text(t) => Ok(t),
            other => Err(self.error_before(format!("expected a quoted string, found {}", other.describe()))),
        }
    }

    /// Takes `%N`.
    pub fn value(&mut self) -> Result<u32, ParseError> {
        match self.next()? {
            Token::Value(v) => Ok(v),
            other => Err(self.error_before(format!("expected a value, found {}", other.describe()))),
        }
    }

    /// Takes a number of any type that parses from its spelling.
    pub fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, ParseError> {
        match self.next()? {
            Token::Number(n) => n.parse().map_err(|_| self.error_before(format!("expected {what}, found `{n}`"))),
            other => Err(self.error_before(format!("expected {what}, found {}", other.describe()))),
        }
    }

    /// Takes an unsigned integer.
    pub fn unsigned(&mut self) -> Result<u64, ParseError> {
        self.number("an unsigned integer")
    }

    /// Takes a given word.
    pub fn keyword(&mut self, word: &str) -> Result<(), ParseError> {
        match self.next()? {
            Token::Word(w) if w == word => Ok(()),
            other => Err(self.error_before(format!("expected `{word}`, found {}", other.describe()))),
        }
    }

    /// Takes given punctuation.
    pub fn punctuation(&mut self, mark: &str) -> Result<(), ParseError> {
        match self.next()? {
            Token::Punctuation(p) if p == mark => Ok(()),
            other => Err(self.error_before(format!("expected `{mark}`, found {}", other.describe()))),
        }
    }

    /// Takes given punctuation if it is next.
    pub fn accept(&mut self, mark: &str) -> Result<bool, ParseError> {
        let found = matches!(self.peek()?, Token::Punctuation(p) if *p == mark);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    /// Takes `open`, items separated by commas, `close`.
    pub fn list(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<(), ParseError>,
    ) -> Result<(), ParseError> {
        self.punctuation(open)?;
        if self.accept(close)? {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.accept(close)? {
                return Ok(());
            }
            self.punctuation(",")?;
        }
    }

    fn error_at(&self, at: usize, message: String) -> ParseError {
        let before = &self.text[..at.min(self.text.len())];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        ParseError { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1, message }
    }

    fn scan(&mut self) -> Result<(Token, usize), ParseError> {
        self.skip_blanks();
        let start = self.at;
        let rest = &self.text[start..];
        let Some(first) = rest.chars().next() else { return Ok((Token::End, start)) };
        let token = if first == '"' {
            self.scan_string()?
        } else if let Some(mark) = PUNCTUATION.iter().find(|p| rest.starts_with(**p)) {
            self.at += mark.len();
            Token::Punctuation(mark)
        } else if first == '%' {
            self.at += 1;
            let digits = self.take_while(|c| c.is_ascii_digit());
            Token::Value(digits.parse().map_err(|_| self.error_at(start, format!("`%{digits}` is no value")))?)
        } else if first.is_ascii_digit() || first == '-' {
            self.scan_number()
        } else if first.is_ascii_alphabetic() || first == '_' {
            Token::Word(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_').into())
        } else {
            return Err(self.error_at(start, format!("unexpected character {first:?}")));
        };
        Ok((token, start))
    }

    /// Blanks and comments, from `;` to the end of the line.
    fn skip_blanks(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if !self.text[self.at..].starts_with(';') {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let length = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Digits, at most one dot that is no range, an exponent.
    fn scan_number(&mut self) -> Token {
        let start = self.at;
        self.at += usize::from(self.text[start..].starts_with('-'));
        self.take_while(|c| c.is_ascii_digit());
        if self.text[self.at..].starts_with('.') && !self.text[self.at..].starts_with("..") {
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        if self.text[self.at..].starts_with(['e', 'E']) {
            self.at += 1;
            self.at += usize::from(self.text[self.at..].starts_with(['-', '+']));
            self.take_while(|c| c.is_ascii_digit());
        }
        Token::Number(self.text[start..self.at].into())
    }

    fn scan_string(&mut self) -> Result<Token, ParseError> {
        let start = self.at;
        let mut out = String::new();
        let mut chars = self.text[start + 1..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = start + 1 + i + 1;
                    return Ok(Token::Text(out));
                }
                '\n' => break,
                '\\' => match unescape(&mut chars) {
                    Some(c) => out.push(c),
                    None => return Err(self.error_at(start + 1 + i, "unknown escape in a string".into())),
                },
                c => out.push(c),
            }
        }
        Err(self.error_at(start, "a string without its closing quote".into()))
    }
}

/// The character after a backslash: a quote, a backslash, or `u{HEX}`.
fn unescape(chars: &mut std::str::CharIndices) -> Option<char> {
    match chars.next()?.1 {
        c @ ('"' | '\\') => Some(c),
        'u' => {
            if chars.next()?.1 != '{' {
                return None;
            }
            let digits: String = chars.by_ref().map(|(_, c)| c).take_while(|c| *c != '}').take(7).collect();
            char::from_u32(u32::from_str_radix(&digits, 16).ok()?)
        }
        _ => None,
    }
}
