//! Text form of graphs.
//!
//! ```text
//! graph "llama" {
//!   sym T in 1..=512
//!   %0 = input "ids" : i32[T]
//!   %1 = weight "token_embd.weight" : q8_0[49152, 576]
//!   %2 = embedding(%1, %0) : f32[T, 576] "embed"
//!   %3 = project(%2, %1, _, _, _, _) {…, emit = "squares"} : f32[T, 49152], f32[T, 3072]
//!   output "hidden" %2
//! }
//! ```

use super::lexer::{Lexer, Token};
use super::{ParseError, parse_symbol, parse_types, print_symbols, print_type, quote};
use crate::graph::{Graph, Node, NodeKind, ValueId};
use crate::op::{Attr, AttrKind, Op};
use crate::types::Symbol;

/// Prints a graph.
pub fn print_graph(graph: &Graph) -> String {
    let mut out = format!("graph {} {{\n", quote(&graph.name));
    print_symbols(&graph.symbols, &mut out);
    for (value, _) in graph.values() {
        out.push_str(&format!("  {}\n", print_node(graph, value)));
    }
    for (name, value) in &graph.outputs {
        out.push_str(&format!("  output {} {value}\n", quote(name)));
    }
    out.push_str("}\n");
    out
}

/// Prints the line of one node, without its indentation.
pub fn print_node(graph: &Graph, value: ValueId) -> String {
    let node = graph.node(value);
    let types: Vec<String> =
        [&node.ty].into_iter().chain(&node.more).map(|ty| print_type(ty, &graph.symbols)).collect();
    let mut line = format!("{value} = {} : {}", print_definition(node), types.join(", "));
    if node.op().is_some() && !node.name.is_empty() {
        line.push(' ');
        line.push_str(&quote(&node.name));
    }
    line
}

fn print_definition(node: &Node) -> String {
    match &node.kind {
        NodeKind::Input => format!("input {}", quote(&node.name)),
        NodeKind::Weight => format!("weight {}", quote(&node.name)),
        NodeKind::State => format!("state {}", quote(&node.name)),
        NodeKind::Constant(values) => {
            let values: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
            format!("constant {} [{}]", quote(&node.name), values.join(", "))
        }
        NodeKind::Op { op, operands, attributes } => {
            let operands: Vec<String> = operands.iter().map(ToString::to_string).collect();
            let mut text = format!("{}({})", op.name(), operands.join(", "));
            if !attributes.is_empty() {
                let names = op.def().attributes.iter().map(|d| d.name);
                let pairs: Vec<String> =
                    names.zip(attributes).map(|(n, a)| format!("{n} = {}", print_attr(a))).collect();
                text.push_str(&format!(" {{{}}}", pairs.join(", ")));
            }
            text
        }
    }
}

fn print_attr(attr: &Attr) -> String {
    match attr {
        Attr::Int(v) => v.to_string(),
        Attr::Float(v) => format!("{v:?}"),
        Attr::Bool(v) => v.to_string(),
        Attr::Str(v) => quote(v),
    }
}

/// Parses a graph.
pub fn parse_graph(text: &str) -> Result<Graph, ParseError> {
    let mut lexer = Lexer::new(text);
    lexer.keyword("graph")?;
    let mut graph = Graph::new(lexer.string()?);
    lexer.punctuation("{")?;
    while !lexer.accept("}")? {
        if matches!(lexer.peek()?, Token::Value(_)) {
            let node = parse_node(&mut lexer, &graph)?;
            graph.nodes.push(node);
            continue;
        }
        match lexer.word()?.as_str() {
            "sym" => graph.symbols.push(parse_symbol(&mut lexer)?),
            "output" => {
                let name = lexer.string()?;
                graph.outputs.push((name, ValueId(lexer.value()?)));
            }
            other => return Err(lexer.error_before(format!("expected sym, output or %N, found `{other}`"))),
        }
    }
    match lexer.next()? {
        Token::End => Ok(graph),
        _ => Err(lexer.error_before("text after the graph's closing brace".into())),
    }
}

fn parse_node(lexer: &mut Lexer, graph: &Graph) -> Result<Node, ParseError> {
    let value = lexer.value()?;
    if value as usize != graph.nodes.len() {
        return Err(lexer.error_before(format!("values are numbered in order: expected %{}", graph.nodes.len())));
    }
    lexer.punctuation("=")?;
    parse_definition(lexer, &graph.symbols)
}

/// What stands after `%N =`.
pub(super) fn parse_definition(lexer: &mut Lexer, symbols: &[Symbol]) -> Result<Node, ParseError> {
    let word = lexer.word()?;
    let (kind, mut name) = match word.as_str() {
        "input" => (NodeKind::Input, lexer.string()?),
        "weight" => (NodeKind::Weight, lexer.string()?),
        "state" => (NodeKind::State, lexer.string()?),
        "constant" => {
            let name = lexer.string()?;
            let mut values = Vec::new();
            lexer.list("[", "]", |l| {
                values.push(l.number("a float")?);
                Ok(())
            })?;
            (NodeKind::Constant(values), name)
        }
        _ => (parse_op(lexer, &word)?, String::new()),
    };
    lexer.punctuation(":")?;
    let mut types = parse_types(lexer, symbols)?;
    let more = types.split_off(1);
    let ty = types.remove(0);
    if matches!(kind, NodeKind::Op { .. }) && matches!(lexer.peek()?, Token::Text(_)) {
        name = lexer.string()?;
    }
    Ok(Node { kind, ty, more, name })
}

fn parse_op(lexer: &mut Lexer, name: &str) -> Result<NodeKind, ParseError> {
    let op = Op::from_name(name).ok_or_else(|| lexer.error_before(unknown_op(name)))?;
    let mut operands = Vec::new();
    lexer.list("(", ")", |l| {
        let absent = matches!(l.peek()?, Token::Word(word) if word == "_");
        operands.push(if absent { l.word().map(|_| ValueId::ABSENT)? } else { ValueId(l.value()?) });
        Ok(())
    })?;
    let mut attributes = Vec::new();
    let expected = op.def().attributes;
    if !expected.is_empty() {
        lexer.list("{", "}", |l| {
            let Some(def) = expected.get(attributes.len()) else {
                return Err(l.error_before(format!("{name} has only {} attributes", expected.len())));
            };
            l.keyword(def.name)?;
            l.punctuation("=")?;
            attributes.push(parse_attr(l, def.kind)?);
            Ok(())
        })?;
    }
    Ok(NodeKind::Op { op, operands, attributes })
}

/// Names the op that differs least, if it differs by few letters.
fn unknown_op(name: &str) -> String {
    let nearest = crate::op::OPS.iter().map(|d| (edit_distance(name, d.name), d.name)).min();
    match nearest {
        Some((distance, known)) if distance <= 1 + name.len() / 4 => {
            format!("unknown op {name}; did you mean {known}?")
        }
        _ => format!("unknown op {name}"),
    }
}

/// Letters to insert, drop or replace to make one word of the other (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

fn parse_attr(lexer: &mut Lexer, kind: AttrKind) -> Result<Attr, ParseError> {
    Ok(match kind {
        AttrKind::Int(..) => Attr::Int(lexer.number("an integer")?),
        AttrKind::Float => Attr::Float(lexer.number("a float")?),
        AttrKind::OneOf(_) => Attr::Str(lexer.string()?),
        AttrKind::Bool => match lexer.word()?.as_str() {
            "true" => Attr::Bool(true),
            "false" => Attr::Bool(false),
            other => return Err(lexer.error_before(format!("expected true or false, found `{other}`"))),
        },
    })
}
