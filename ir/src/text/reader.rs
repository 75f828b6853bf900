//! Reading text that a person wrote: everything that is wrong with it at once, each with its line.
//!
//! An item that cannot be read is noted and reading goes on at the line after the one it begins in, since items are lines. A node
//! that cannot be read keeps its number, and the type it declares where that can be read, so that one mistake is not reported
//! again at every use. What could be read is then verified, and each violation is given the line of its node.

use std::collections::{HashMap, HashSet};

use super::diagnostics::{Diagnostic, Diagnostics};
use super::graph::parse_definition;
use super::lexer::{Lexer, Token};
use super::program::parse_item;
use super::{ParseError, parse_symbol, parse_types};
use crate::graph::{Graph, Node, NodeKind, ValueId};
use crate::program::{Buffer, Program};
use crate::types::{DType, Symbol, TensorType};
use crate::verify::{Place, Violation, verify_graph, verify_program};

/// Parses and verifies a graph.
///
/// # Errors
/// Everything that is wrong with the text or the graph, line by line.
pub fn read_graph(text: &str) -> Result<Graph, Diagnostics> {
    let mut reader = GraphReader::new(text);
    let Some(name) = reader.items.header("graph") else { return Err(Diagnostics(reader.items.found)) };
    reader.graph.name = name;
    reader.read();
    let GraphReader { graph, items, unchecked, .. } = reader;
    let violations = verify_graph(&graph).err().map(|invalid| invalid.0).unwrap_or_default();
    let checked = |v: &Violation| !matches!(v.place, Place::Node { value, .. } if unchecked.contains(&value));
    Diagnostics::or(items.with_violations(violations.into_iter().filter(checked)), graph)
}

/// Parses a program and, if every line of it can be read, checks it with `verify`, for example [`verify_program`].
///
/// # Errors
/// Everything that is wrong with the text or the program, line by line.
pub fn read_program(
    text: &str,
    verify: impl FnOnce(&Program) -> Result<(), crate::verify::Invalid>,
) -> Result<Program, Diagnostics> {
    let mut items = Items::new(text);
    let Some(name) = items.header("program") else { return Err(Diagnostics(items.found)) };
    let mut program = Program { name, ..Program::default() };
    while let Some(start) = items.next() {
        let line = items.line_of(start);
        let (launches, symbols) = (program.launches.len(), program.symbols.len());
        let buffers = program.buffers.len();
        if let Err(error) = parse_item(&mut items.lexer, &mut program) {
            if items.rest_of_line(start).starts_with("buffer") {
                program.buffers.push(Buffer { ty: TensorType::new(DType::F32, []), offset: 0 });
            }
            items.fail(start, error, String::new());
            continue;
        }
        if program.launches.len() > launches {
            items.lines.launches.push(line);
        } else if program.buffers.len() > buffers {
            items.lines.buffers.push(line);
        } else if let Some(symbol) = program.symbols.get(symbols) {
            items.lines.note_symbol(symbol, line);
        } else {
            items.lines.note_named(&program, line);
        }
    }
    let violations = if items.found.is_empty() { verify(&program).err() } else { None };
    Diagnostics::or(items.with_violations(violations.into_iter().flat_map(|invalid| invalid.0)), program)
}

/// As [`read_program`] with [`verify_program`].
///
/// # Errors
/// As [`read_program`].
pub fn read_planned_program(text: &str) -> Result<Program, Diagnostics> {
    read_program(text, verify_program)
}

/// The line of everything that a violation can name.
#[derive(Default)]
struct Lines {
    nodes: Vec<usize>,
    launches: Vec<usize>,
    buffers: Vec<usize>,
    symbols: HashMap<String, usize>,
    outputs: HashMap<String, usize>,
    bindings: HashMap<(&'static str, String), usize>,
}

impl Lines {
    /// A name that is taken is reported where it is taken again.
    fn note_symbol(&mut self, symbol: &Symbol, line: usize) {
        self.symbols.insert(symbol.name.clone(), line);
    }

    /// Outputs and bindings, by the last of each: the one just read is among them, the others have their line already.
    fn note_named(&mut self, program: &Program, line: usize) {
        if let Some((name, _)) = program.outputs.last() {
            self.outputs.entry(name.clone()).or_insert(line);
        }
        let kinds = [("input", &program.inputs), ("weight", &program.weights), ("state", &program.states)];
        for (kind, bindings) in kinds {
            if let Some(binding) = bindings.last() {
                self.bindings.entry((kind, binding.name.clone())).or_insert(line);
            }
        }
    }

    fn of(&self, place: &Place) -> usize {
        let line = match place {
            Place::Node { value, .. } => self.nodes.get(value.index()),
            Place::Launch { index, .. } => self.launches.get(*index),
            Place::Buffer(id) => self.buffers.get(id.0 as usize),
            Place::Symbol(name) => self.symbols.get(name),
            Place::Output(name) => self.outputs.get(name),
            Place::Binding { kind, name } => self.bindings.get(&(*kind, name.clone())),
        };
        line.copied().unwrap_or(1)
    }
}

/// The items between the braces of a graph or program, with recovery at the next line.
struct Items<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    /// A byte and its line: the last one asked for, from which the next is counted.
    counted: (usize, usize),
    lines: Lines,
    found: Vec<Diagnostic>,
}

impl<'a> Items<'a> {
    fn new(text: &'a str) -> Items<'a> {
        Items { text, lexer: Lexer::new(text), counted: (0, 1), lines: Lines::default(), found: Vec::new() }
    }

    /// `KEYWORD "NAME" {`; gives the name, or nothing where another word shows that the text is something else.
    fn header(&mut self, keyword: &str) -> Option<String> {
        let start = self.lexer.position();
        if let Err(error) = self.lexer.keyword(keyword) {
            self.fail(start, error, String::new());
            return None;
        }
        let name = self.lexer.string();
        let read = name.and_then(|name| self.lexer.punctuation("{").map(|()| name));
        Some(read.unwrap_or_else(|error| {
            self.fail(start, error, String::new());
            String::new()
        }))
    }

    /// Where the next item begins; `None` at the end, whose closing brace is then checked.
    fn next(&mut self) -> Option<usize> {
        let start = self.lexer.position();
        match self.lexer.peek() {
            Ok(Token::End) => {
                let error = self.lexer.error_here("the closing brace is missing");
                self.found.push(Diagnostic::unread(error, String::new()));
                None
            }
            Ok(Token::Punctuation("}")) => {
                let _ = self.lexer.next();
                if !matches!(self.lexer.peek(), Ok(Token::End)) {
                    let error = self.lexer.error_here("text after the closing brace");
                    self.found.push(Diagnostic::unread(error, String::new()));
                }
                None
            }
            _ => Some(start),
        }
    }

    /// Notes an error of the item that begins at `start`, and goes on at the next line.
    fn fail(&mut self, start: usize, error: ParseError, place: String) {
        self.found.push(Diagnostic::unread(error, place));
        self.lexer.resume_after_line(start);
    }

    fn line_of(&mut self, at: usize) -> usize {
        let (from, line) = if at < self.counted.0 { (0, 1) } else { self.counted };
        self.counted = (at, line + self.text[from..at].matches('\n').count());
        self.counted.1
    }

    fn rest_of_line(&self, start: usize) -> &'a str {
        self.text[start..].lines().next().unwrap_or("")
    }

    /// What was found, with what the verifier found.
    fn with_violations(mut self, violations: impl Iterator<Item = Violation>) -> Vec<Diagnostic> {
        let lines = &self.lines;
        self.found.extend(violations.map(|v| Diagnostic {
            line: lines.of(&v.place),
            column: None,
            place: v.place.to_string(),
            message: v.message,
        }));
        self.found
    }
}

/// A use of a number that no node before it has.
struct Dangling {
    user: ValueId,
    number: u32,
}

struct GraphReader<'a> {
    items: Items<'a>,
    graph: Graph,
    /// The value that each number of the text stands for.
    numbers: HashMap<u32, ValueId>,
    /// The number the next node should have.
    next_number: u32,
    dangling: Vec<Dangling>,
    /// Nodes that the verifier cannot judge, since they or an operand could not be read.
    unchecked: HashSet<ValueId>,
}

impl<'a> GraphReader<'a> {
    fn new(text: &'a str) -> GraphReader<'a> {
        GraphReader {
            items: Items::new(text),
            graph: Graph::default(),
            numbers: HashMap::new(),
            next_number: 0,
            dangling: Vec::new(),
            unchecked: HashSet::new(),
        }
    }

    fn read(&mut self) {
        let mut outputs = Vec::new();
        while let Some(start) = self.items.next() {
            let line = self.items.line_of(start);
            match self.items.lexer.peek() {
                Ok(Token::Value(_)) => self.read_node(start, line),
                _ => {
                    if let Err(error) = self.read_other(start, line, &mut outputs) {
                        self.items.fail(start, error, String::new());
                    }
                }
            }
        }
        self.report_dangling();
        for (name, number, line) in outputs {
            let value = self.numbers.get(&number).copied();
            if value.is_none() {
                let message = format!("%{number} is not defined");
                self.find(line, Place::Output(name.clone()).to_string(), message);
            }
            self.graph.outputs.extend(value.map(|v| (name, v)));
        }
    }

    /// A symbol or an output.
    fn read_other(
        &mut self,
        start: usize,
        line: usize,
        outputs: &mut Vec<(String, u32, usize)>,
    ) -> Result<(), ParseError> {
        let lexer = &mut self.items.lexer;
        match lexer.word()?.as_str() {
            "sym" => {
                let symbol = parse_symbol(lexer).inspect_err(|_| {
                    // Its name alone keeps the shapes that use it readable.
                    let name = self.items.rest_of_line(start).split_whitespace().nth(1).unwrap_or("").to_string();
                    self.graph.symbols.push(Symbol { name, min: 1, max: 1 });
                })?;
                self.items.lines.note_symbol(&symbol, line);
                self.graph.symbols.push(symbol);
            }
            "output" => {
                let name = lexer.string()?;
                outputs.push((name.clone(), lexer.value()?, line));
                self.items.lines.outputs.insert(name, line);
            }
            other => return Err(lexer.error_before(format!("expected sym, output or %N, found `{other}`"))),
        }
        Ok(())
    }

    fn read_node(&mut self, start: usize, line: usize) {
        let value = ValueId(self.graph.nodes.len() as u32);
        self.items.lines.nodes.push(line);
        let number = self.items.lexer.value().unwrap_or(self.next_number);
        let mut node = match self.read_definition() {
            Ok(node) => node,
            Err(error) => {
                let written = self.items.rest_of_line(start);
                let place = written_place(number, written);
                self.unchecked.insert(value);
                self.items.fail(start, error, place);
                self.stand_in(written, line, value)
            }
        };
        let place = Place::of_node(ValueId(number), &node).to_string();
        self.resolve_operands(&mut node, value);
        if self.numbers.contains_key(&number) {
            self.find(line, place, format!("the number %{number} is taken"));
        } else if number != self.next_number {
            self.find(line, place, format!("values are numbered in order: expected %{}", self.next_number));
        }
        self.numbers.entry(number).or_insert(value);
        self.next_number = number.saturating_add(1);
        self.graph.nodes.push(node);
    }

    fn read_definition(&mut self) -> Result<Node, ParseError> {
        self.items.lexer.punctuation("=")?;
        parse_definition(&mut self.items.lexer, &self.graph.symbols)
    }

    /// A node of the type that an unreadable one declares. Where that cannot be read either, its users are not checked.
    fn stand_in(&mut self, written: &str, line: usize, value: ValueId) -> Node {
        let declared = written.rfind(" : ").map(|at| &written[at + 3..]);
        let types = declared.and_then(|text| parse_types(&mut Lexer::new(text), &self.graph.symbols).ok());
        let mut types = types.unwrap_or_default().into_iter();
        let Some(ty) = types.next() else {
            let ty = TensorType::new(DType::F32, []);
            return Node { kind: NodeKind::Input, ty, more: Vec::new(), name: format!("unreadable at line {line}") };
        };
        self.unchecked.remove(&value);
        Node { kind: NodeKind::Input, ty, more: types.collect(), name: format!("unreadable at line {line}") }
    }

    /// From the numbers of the text to values.
    fn resolve_operands(&mut self, node: &mut Node, user: ValueId) {
        let NodeKind::Op { operands, .. } = &mut node.kind else { return };
        for operand in operands.iter_mut().filter(|o| **o != ValueId::ABSENT) {
            match self.numbers.get(&operand.0) {
                Some(value) => {
                    if self.unchecked.contains(value) {
                        self.unchecked.insert(user);
                    }
                    *operand = *value;
                }
                None => {
                    self.dangling.push(Dangling { user, number: operand.0 });
                    self.unchecked.insert(user);
                    *operand = ValueId::ABSENT;
                }
            }
        }
    }

    /// Says of each use of a number without a node before it whether one comes later.
    fn report_dangling(&mut self) {
        for Dangling { user, number } in std::mem::take(&mut self.dangling) {
            let message = match self.numbers.get(&number) {
                Some(later) if *later == user => format!("operand %{number} is the node itself: the graph has a cycle"),
                Some(_) => {
                    format!("operand %{number} is not defined before its use: the graph has a cycle or is out of order")
                }
                None => format!("operand %{number} is not defined"),
            };
            let number = self.numbers.iter().find(|(_, v)| **v == user).map_or(user.0, |(n, _)| *n);
            let place = Place::of_node(ValueId(number), self.graph.node(user)).to_string();
            self.find(self.items.lines.nodes[user.index()], place, message);
        }
    }

    fn find(&mut self, line: usize, place: String, message: String) {
        self.items.found.push(Diagnostic { line, column: None, place, message });
    }
}

/// The place of a node that cannot be read, as far as its line tells: number, op and label.
fn written_place(number: u32, written: &str) -> String {
    let word: String = written
        .split_once('=')
        .map_or("", |(_, rest)| rest.trim_start())
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect();
    let label =
        written.trim_end().strip_suffix('"').and_then(|rest| rest.rsplit_once('"')).map_or("", |(_, label)| label);
    let described = [word.as_str(), label].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" ");
    if described.is_empty() { format!("node %{number}") } else { format!("node %{number} ({described})") }
}
