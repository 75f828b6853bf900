//! The text form of graphs and programs. Printing and parsing are inverse: `parse(print(x)) == x`.
//!
//! The form is the test form and the artifact's form, so it is strict: one spelling for each thing, errors with line and
//! column. A comment is from `;` to the end of its line. A parsed graph or program is well-formed as text only; [`crate::verify`] says
//! whether it makes sense. [`read_graph`] and [`read_program`] do both and say everything that is wrong at once.

mod diagnostics;
mod graph;
mod lexer;
mod program;
mod reader;

pub use diagnostics::{Diagnostic, Diagnostics};
pub use graph::{parse_graph, print_graph, print_node};
pub use program::{parse_program, print_program};
pub use reader::{read_graph, read_planned_program, read_program};

use crate::types::{DType, Dim, Symbol, SymbolId, TensorType};
use lexer::{Lexer, Token};

/// Where and why text could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was expected and found.
    pub message: String,
}

fn print_type(ty: &TensorType, symbols: &[Symbol]) -> String {
    let dims: Vec<String> = ty.shape.iter().map(|d| print_dim(*d, symbols)).collect();
    format!("{}[{}]", ty.dtype, dims.join(", "))
}

fn print_dim(dim: Dim, symbols: &[Symbol]) -> String {
    match dim {
        Dim::Const(n) => n.to_string(),
        Dim::Sym(id) => symbols.get(id.0 as usize).map_or_else(|| format!("?{}", id.0), |s| s.name.clone()),
    }
}

fn print_symbols(symbols: &[Symbol], out: &mut String) {
    for s in symbols {
        out.push_str(&format!("  sym {} in {}..={}\n", s.name, s.min, s.max));
    }
}

/// A string literal: quotes, backslashes and control characters are escaped.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `sym NAME in MIN..=MAX`, after the keyword.
fn parse_symbol(lexer: &mut Lexer) -> Result<Symbol, ParseError> {
    let name = lexer.word()?;
    lexer.keyword("in")?;
    let min = lexer.unsigned()?;
    lexer.punctuation("..=")?;
    Ok(Symbol { name, min, max: lexer.unsigned()? })
}

fn parse_dim(lexer: &mut Lexer, symbols: &[Symbol]) -> Result<Dim, ParseError> {
    if matches!(lexer.peek()?, Token::Number(_)) {
        return Ok(Dim::Const(lexer.unsigned()?));
    }
    let name = lexer.word()?;
    match symbols.iter().position(|s| s.name == name) {
        Some(i) => Ok(Dim::Sym(SymbolId(i as u32))),
        None => Err(lexer.error_before(format!("the symbol {name} is not declared"))),
    }
}

/// `DTYPE[DIM, …]`
fn parse_type(lexer: &mut Lexer, symbols: &[Symbol]) -> Result<TensorType, ParseError> {
    let name = lexer.word()?;
    let dtype = DType::from_name(&name).ok_or_else(|| {
        let known: Vec<_> = DType::ALL.iter().map(|d| d.name()).collect();
        lexer.error_before(format!("unknown element type {name}; known: {}", known.join(", ")))
    })?;
    let mut shape = Vec::new();
    lexer.list("[", "]", |l| {
        shape.push(parse_dim(l, symbols)?);
        Ok(())
    })?;
    Ok(TensorType { dtype, shape })
}

/// `TYPE, …`, at least one.
fn parse_types(lexer: &mut Lexer, symbols: &[Symbol]) -> Result<Vec<TensorType>, ParseError> {
    let mut types = vec![parse_type(lexer, symbols)?];
    while lexer.accept(",")? {
        types.push(parse_type(lexer, symbols)?);
    }
    Ok(types)
}
