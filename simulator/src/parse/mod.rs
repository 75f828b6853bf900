//! PTX text → [`Module`]. Hand-written, because PTX's grammar is small (a module takes under 2 ms) and errors must name a place.

mod ast;
mod body;
mod lexer;
mod operand;
mod scope;
mod variable;

pub(crate) use ast::*;

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::decode::{Code, decode};
use crate::error::ParseError;
use lexer::{Lexer, Spanned, Token};

/// A parsed PTX module: kernels, device functions, variables and the source files that `.loc` names.
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) file: String,
    pub(crate) target: String,
    pub(crate) sources: Vec<String>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) functions: Vec<Function>,
    /// Kernels ready to run.
    codes: Vec<Code>,
    /// The same for equal texts: module variables belong to it.
    pub(crate) identity: u64,
}

impl Module {
    /// Parses PTX `text`; `file` names it in errors. Instructions are decoded too, so that one that is not simulated is an error here.
    pub fn parse(text: &str, file: &str) -> Result<Module, ParseError> {
        let tokens = Lexer::new(text, file).tokens()?;
        let mut module = Parser { tokens, at: 0, file }.module()?;
        let codes: Result<Vec<Code>, ParseError> = module.kernels().map(|kernel| decode(&module, kernel)).collect();
        module.codes = codes?;
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        module.identity = hasher.finish();
        Ok(module)
    }

    /// Names of the kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().filter(|f| f.kernel && f.defined).map(|f| f.name.as_str())
    }

    /// The `.target` of the module, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Bytes of the parameter block of `kernel`, `None` if there is no such kernel.
    pub fn param_bytes(&self, kernel: &str) -> Option<usize> {
        self.function(kernel).map(|f| crate::decode::param_layout(f).1)
    }

    pub(crate) fn code(&self, kernel: &str) -> Option<&Code> {
        self.codes.iter().find(|c| c.kernel == kernel)
    }

    pub(crate) fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == name && f.defined)
    }

    /// `file:line` of a source line, or `?` where `.loc` said nothing.
    pub(crate) fn source_name(&self, at: SourceLine) -> String {
        if at.line == 0 {
            return "?".into();
        }
        let path = self.sources.get(at.file as usize).map_or("?", String::as_str);
        format!("{}:{}", path.rsplit('/').next().unwrap_or(path), at.line)
    }
}

/// Tokens and a place among them; the grammar stands in the other files of this folder.
struct Parser<'a> {
    tokens: Vec<Spanned<'a>>,
    at: usize,
    file: &'a str,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &Token<'a> {
        &self.tokens[self.at].token
    }

    fn peek_word(&self) -> &'a str {
        if let Token::Word(w) = self.tokens[self.at].token { w } else { "" }
    }

    fn advance(&mut self) -> Token<'a> {
        let token = self.tokens[self.at].token.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        let here = &self.tokens[self.at];
        ParseError { file: self.file.into(), line: here.line, column: here.column, message: message.into() }
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T, ParseError> {
        let got = match self.peek() {
            Token::Word(w) => format!("`{w}`"),
            Token::Punct(c) => format!("`{}`", *c as char),
            Token::End => "the end of the text".into(),
            other => format!("{other:?}"),
        };
        Err(self.error(format!("expected {wanted}, found {got}")))
    }

    fn accept(&mut self, punct: u8) -> bool {
        let found = *self.peek() == Token::Punct(punct);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, punct: u8) -> Result<(), ParseError> {
        if self.accept(punct) { Ok(()) } else { self.unexpected(&format!("`{}`", punct as char)) }
    }

    fn word(&mut self, what: &str) -> Result<&'a str, ParseError> {
        match *self.peek() {
            Token::Word(w) => {
                self.advance();
                Ok(w)
            }
            _ => self.unexpected(what),
        }
    }

    fn integer(&mut self) -> Result<i64, ParseError> {
        let negative = self.accept(b'-');
        match *self.peek() {
            Token::Integer(value) => {
                self.advance();
                Ok(if negative { (value as i64).wrapping_neg() } else { value as i64 })
            }
            _ => self.unexpected("an integer"),
        }
    }

    fn module(mut self) -> Result<Module, ParseError> {
        let mut module = Module {
            file: self.file.into(),
            target: String::new(),
            sources: Vec::new(),
            variables: Vec::new(),
            functions: Vec::new(),
            codes: Vec::new(),
            identity: 0,
        };
        loop {
            match self.peek().clone() {
                Token::End => return self.finish(module),
                Token::Word(".version") => self.skip_line(),
                Token::Word(".target") => {
                    self.advance();
                    module.target = self.word("a target")?.into();
                    while self.accept(b',') {
                        self.advance();
                    }
                }
                Token::Word(".address_size") => {
                    self.advance();
                    if self.integer()? != 64 {
                        return Err(self.error("only 64-bit addresses are simulated"));
                    }
                }
                Token::Word(".file") => self.source_file(&mut module)?,
                Token::Word(".section") => self.skip_section()?,
                Token::Punct(b';') => {
                    self.advance();
                }
                Token::Word(_) => self.definition(&mut module)?,
                _ => return self.unexpected("a directive"),
            }
        }
    }

    /// `.func` without a body is a declaration; the definition may follow, and replaces it.
    fn finish(self, mut module: Module) -> Result<Module, ParseError> {
        let defined: Vec<String> = module.functions.iter().filter(|f| f.defined).map(|f| f.name.clone()).collect();
        module.functions.retain(|f| f.defined || !defined.contains(&f.name));
        Ok(module)
    }

    fn skip_line(&mut self) {
        let line = self.tokens[self.at].line;
        while self.tokens[self.at].line == line && *self.peek() != Token::End {
            self.advance();
        }
    }

    fn source_file(&mut self, module: &mut Module) -> Result<(), ParseError> {
        self.advance();
        let index = self.integer()?;
        let Token::Text(path) = self.advance() else { return self.unexpected("a file name in quotes") };
        while self.accept(b',') {
            self.integer()?;
        }
        let index = usize::try_from(index).ok().filter(|&i| i < 1 << 16);
        let Some(index) = index else { return Err(self.error("a file number beyond 65,535")) };
        if module.sources.len() <= index {
            module.sources.resize(index + 1, String::new());
        }
        module.sources[index] = path.into();
        Ok(())
    }

    /// DWARF sections say nothing that execution needs.
    fn skip_section(&mut self) -> Result<(), ParseError> {
        while *self.peek() != Token::Punct(b'{') {
            if *self.peek() == Token::End {
                return self.unexpected("`{`");
            }
            self.advance();
        }
        while !self.accept(b'}') {
            if *self.peek() == Token::End {
                return self.unexpected("`}`");
            }
            self.advance();
        }
        Ok(())
    }

    fn definition(&mut self, module: &mut Module) -> Result<(), ParseError> {
        let mut external = false;
        loop {
            match self.peek_word() {
                ".extern" => external = true,
                ".visible" | ".weak" | ".common" => {}
                _ => break,
            }
            self.advance();
        }
        match self.peek_word() {
            ".entry" | ".func" => {
                let function = self.function()?;
                module.functions.push(function);
                Ok(())
            }
            ".alias" | ".pragma" => {
                while !self.accept(b';') {
                    if *self.peek() == Token::End {
                        return self.unexpected("`;`");
                    }
                    self.advance();
                }
                Ok(())
            }
            _ => {
                let variables = self.variables(external)?;
                module.variables.extend(variables);
                self.expect(b';')
            }
        }
    }
}
