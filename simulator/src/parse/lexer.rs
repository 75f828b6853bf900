//! Tokens of PTX with their place in the text. Dotted words (`ld.global.v4.u32`, `%tid.x`, `L2::128B`) are one token, because PTX
//! never puts a space inside them; the parser splits them where it must.

use crate::error::ParseError;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// Identifier, dotted opcode, register, label name or directive (with its leading dot).
    Word(&'a str),
    /// Integer constant, as the 64 bits it stands for.
    Integer(u64),
    /// `0f…`: bits of an f32.
    Single(u32),
    /// `0d…` or a decimal fraction: bits of an f64.
    Double(u64),
    /// A quoted string without its quotes.
    Text(&'a str),
    /// One character of punctuation.
    Punct(u8),
    /// End of the text.
    End,
}

/// A token and where it starts; both count from 1.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<'a> {
    pub token: Token<'a>,
    pub line: u32,
    pub column: u32,
}

pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    line_start: usize,
    file: &'a str,
}

fn starts_word(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn continues_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'.')
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str, file: &'a str) -> Self {
        Lexer { text, at: 0, line: 1, line_start: 0, file }
    }

    /// All tokens up to and with `End`.
    pub fn tokens(mut self) -> Result<Vec<Spanned<'a>>, ParseError> {
        let mut tokens = Vec::with_capacity(self.text.len() / 4);
        loop {
            self.skip_blank()?;
            let (line, column) = (self.line, (self.at - self.line_start + 1) as u32);
            let token = self.next()?;
            let end = token == Token::End;
            tokens.push(Spanned { token, line, column });
            if end {
                return Ok(tokens);
            }
        }
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        let column = (self.at - self.line_start + 1) as u32;
        ParseError { file: self.file.into(), line: self.line, column, message: message.into() }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_blank(&mut self) -> Result<(), ParseError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'\n', _) => {
                    self.at += 1;
                    self.line += 1;
                    self.line_start = self.at;
                }
                (b' ' | b'\t' | b'\r', _) => self.at += 1,
                (b'/', b'/') => self.at = self.text[self.at..].find('\n').map_or(self.text.len(), |n| self.at + n),
                (b'/', b'*') => {
                    let rest = &self.text[self.at..];
                    let length = rest.find("*/").ok_or_else(|| self.error("a comment is not closed"))? + 2;
                    self.line += rest[..length].matches('\n').count() as u32;
                    if let Some(last) = rest[..length].rfind('\n') {
                        self.line_start = self.at + last + 1;
                    }
                    self.at += length;
                }
                _ => return Ok(()),
            }
        }
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let first = self.peek(0);
        if self.at >= self.text.len() {
            return Ok(Token::End);
        }
        // NVRTC ends its text with a NUL byte.
        if first == 0 {
            self.at = self.text.len();
            return Ok(Token::End);
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        if starts_word(first) {
            return Ok(self.word());
        }
        if first == b'"' {
            let body = &self.text[self.at + 1..];
            let length = body.find('"').ok_or_else(|| self.error("a string is not closed"))?;
            self.at += length + 2;
            return Ok(Token::Text(&body[..length]));
        }
        if !first.is_ascii() {
            return Err(self.error("a character outside ASCII"));
        }
        self.at += 1;
        Ok(Token::Punct(first))
    }

    fn word(&mut self) -> Token<'a> {
        let start = self.at;
        // Directives may be written without a space between: `.reg.b32 x;`.
        let directive = self.peek(0) == b'.';
        self.at += 1;
        loop {
            let c = self.peek(0);
            if directive && c == b'.' {
                return Token::Word(&self.text[start..self.at]);
            }
            if continues_word(c) {
                self.at += 1;
            } else if c == b':' && self.peek(1) == b':' && continues_word(self.peek(2)) {
                self.at += 2;
            } else {
                return Token::Word(&self.text[start..self.at]);
            }
        }
    }

    fn number(&mut self) -> Result<Token<'a>, ParseError> {
        let start = self.at;
        while self.peek(0).is_ascii_alphanumeric() || (self.peek(0) == b'.' && self.peek(1).is_ascii_digit()) {
            self.at += 1;
        }
        let word = &self.text[start..self.at];
        let bad = |_| ParseError {
            file: self.file.into(),
            line: self.line,
            column: (start - self.line_start + 1) as u32,
            message: format!("`{word}` is no number"),
        };
        let lower = word.trim_end_matches(['u', 'U']);
        let prefix = lower.get(..2).unwrap_or("");
        if let ("0f" | "0F", Some(digits)) = (prefix, lower.get(2..)) {
            return u32::from_str_radix(digits, 16).map(Token::Single).map_err(bad);
        }
        if let ("0d" | "0D", Some(digits)) = (prefix, lower.get(2..)) {
            return u64::from_str_radix(digits, 16).map(Token::Double).map_err(bad);
        }
        if let ("0x" | "0X", Some(digits)) = (prefix, lower.get(2..)) {
            return u64::from_str_radix(digits, 16).map(Token::Integer).map_err(bad);
        }
        if let ("0b" | "0B", Some(digits)) = (prefix, lower.get(2..)) {
            return u64::from_str_radix(digits, 2).map(Token::Integer).map_err(bad);
        }
        if lower.contains('.') {
            let value: f64 = lower.parse().map_err(|_| self.error(format!("`{word}` is no number")))?;
            return Ok(Token::Double(value.to_bits()));
        }
        if lower.len() > 1 && lower.starts_with('0') {
            return u64::from_str_radix(&lower[1..], 8).map(Token::Integer).map_err(bad);
        }
        lower.parse().map(Token::Integer).map_err(bad)
    }
}
