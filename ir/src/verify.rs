//! The verifier: says of a graph or program everything that is wrong with it, naming the place.
//!
//! It collects all violations instead of stopping at the first, so that a pass's author sees the whole picture. Between
//! passes in tests it always runs; for artifacts read from disk it is what stands between bytes and memory accesses.

use std::collections::HashSet;
use std::fmt;

use crate::graph::{Graph, Node, NodeKind, ValueId};
use crate::program::{ALIGNMENT, Access, Arg, Binding, BufferId, Program};
use crate::quant;
use crate::types::{DType, Dim, Symbol, TensorType};

/// Where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A symbol, by name.
    Symbol(String),
    /// A node of a graph.
    Node {
        /// Its value.
        value: ValueId,
        /// Its op, if it is one, and its name or label, as far as it has them.
        description: String,
    },
    /// A named result.
    Output(String),
    /// An input, weight or state of a program.
    Binding {
        /// Which of these.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A buffer of a program.
    Buffer(BufferId),
    /// A launch of a program.
    Launch {
        /// Its place in the list.
        index: usize,
        /// Kernel and label.
        description: String,
    },
}

impl Place {
    /// The place of a node that has this number.
    pub fn of_node(value: ValueId, node: &Node) -> Place {
        let op = node.op().map_or("", |o| o.name());
        let parts = [op, &node.name].into_iter().filter(|s| !s.is_empty());
        Place::Node { value, description: parts.collect::<Vec<_>>().join(" ") }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Symbol(name) => write!(f, "symbol {name}"),
            Place::Node { value, description } if description.is_empty() => write!(f, "node {value}"),
            Place::Node { value, description } => write!(f, "node {value} ({description})"),
            Place::Output(name) => write!(f, "output {name:?}"),
            Place::Binding { kind, name } => write!(f, "{kind} {name:?}"),
            Place::Buffer(id) => write!(f, "buffer %{}", id.0),
            Place::Launch { index, description } => write!(f, "launch {index} ({description})"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where.
    pub place: Place,
    /// What.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A graph or program that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Invalid(pub Vec<Violation>);

#[derive(Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, place: &Place, message: impl Into<String>) {
        self.0.push(Violation { place: place.clone(), message: message.into() });
    }

    fn into_result(self) -> Result<(), Invalid> {
        if self.0.is_empty() { Ok(()) } else { Err(Invalid(self.0)) }
    }
}

/// Checks a graph: definitions before uses, op signatures, declared types, unique names, symbols, outputs.
pub fn verify_graph(graph: &Graph) -> Result<(), Invalid> {
    let mut found = Findings::default();
    check_symbols(&graph.symbols, &mut found);
    let mut names = HashSet::new();
    for (value, node) in graph.values() {
        let place = &Place::of_node(value, node);
        check_type(&node.ty, &graph.symbols, place, || readers(graph, value), &mut found);
        if let NodeKind::Op { op, operands, attributes } = &node.kind {
            if let Some(late) = node.given().find(|o| o.0 >= value.0) {
                found.add(place, format!("operand {late} is not defined before its use"));
                continue;
            }
            let nodes = graph.operand_nodes(operands).unwrap_or_default();
            match op.def().result_types(&nodes, attributes) {
                Err(message) => found.add(place, message),
                Ok((ty, more)) if ty != node.ty || more != node.more => {
                    found.add(place, "the declared type is not what the op gives")
                }
                Ok(_) => {}
            }
            continue;
        }
        if !names.insert((std::mem::discriminant(&node.kind), &node.name)) {
            found.add(place, "the name is taken");
        }
        if let NodeKind::Constant(values) = &node.kind {
            check_constant(values, &node.ty, place, &mut found);
        }
    }
    let mut outputs = HashSet::new();
    for (name, value) in &graph.outputs {
        if value.index() >= graph.nodes.len() {
            found.add(&Place::Output(name.clone()), format!("{value} is not defined"));
        }
        if !outputs.insert(name) {
            found.add(&Place::Output(name.clone()), "the name is taken");
        }
    }
    found.into_result()
}

fn check_symbols(symbols: &[Symbol], found: &mut Findings) {
    let mut names = HashSet::new();
    for s in symbols {
        let place = Place::Symbol(s.name.clone());
        if s.min > s.max {
            found.add(&place, format!("the range {}..={} is empty", s.min, s.max));
        }
        if !names.insert(&s.name) {
            found.add(&place, "the name is taken");
        }
        if !is_symbol_name(&s.name) {
            found.add(&place, "a symbol's name is a letter, then letters, digits or _, and no word of the text form");
        }
    }
}

/// Whether the text form can tell a symbol of this name from everything else.
fn is_symbol_name(name: &str) -> bool {
    let words = ["input", "weight", "null", "float", "read", "write", "update"];
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !words.contains(&name)
}

/// Checks that there can be a tensor of this type; `readers` says for a message what reads it.
fn check_type(
    ty: &TensorType,
    symbols: &[Symbol],
    place: &Place,
    readers: impl FnOnce() -> String,
    found: &mut Findings,
) {
    if ty.shape.iter().any(|d| matches!(d, Dim::Sym(id) if id.0 as usize >= symbols.len())) {
        return found.add(place, "the shape has an undeclared symbol");
    }
    let bounds: Vec<u64> = symbols.iter().map(|s| s.max).collect();
    if ty.bytes(&bounds).is_none() {
        found.add(
            place,
            broken_blocks(ty, &bounds, readers)
                .unwrap_or_else(|| format!("a {} tensor of this shape overflows", ty.dtype)),
        );
    }
}

/// What is wrong with rows that a format's blocks do not divide, by numbers, and the way out; `None` if they do.
fn broken_blocks(ty: &TensorType, symbols: &[u64], readers: impl FnOnce() -> String) -> Option<String> {
    let dtype = ty.dtype;
    let Some(cols) = ty.shape.last() else {
        return Some(format!("a {dtype} tensor needs rows, which a scalar has not"));
    };
    let (cols, block) = (cols.value(symbols)?, quant::format(dtype).map_or(1, |format| format.block_len() as u64));
    if block < 2 || cols % block == 0 {
        return None;
    }
    Some(format!(
        "rows of {cols} columns are no whole blocks of {dtype}, which have {block}{}: take a multiple of {block} columns, or a format without blocks, as f16",
        readers()
    ))
}

/// The nodes that read a value, as a clause: kernels take whole blocks alone.
fn readers(graph: &Graph, of: ValueId) -> String {
    let reading = graph.values().filter(|(_, node)| node.given().any(|operand| operand == of));
    let named: Vec<String> = reading.map(|(value, node)| Place::of_node(value, node).to_string()).collect();
    match named.as_slice() {
        [] => String::new(),
        [first] => format!("; its reader, {first}, has a kernel for whole blocks alone"),
        [first, rest @ ..] => {
            format!("; its readers, {first} and {} more, have kernels for whole blocks alone", rest.len())
        }
    }
}

fn check_constant(values: &[f32], ty: &TensorType, place: &Place, found: &mut Findings) {
    let elements = ty.bytes(&[]).map(|bytes| bytes / 4);
    if ty.dtype != DType::F32 || !matches!(ty.shape.len(), 1 | 2) || elements != Some(values.len() as u64) {
        found.add(place, "a constant is an f32 vector or matrix of as many elements as its list");
    }
    if values.iter().any(|v| !v.is_finite()) {
        found.add(place, "a constant must be finite");
    }
}

/// Checks a program: references, alignment and bounds of the plan, reads after writes, no two live buffers on the same
/// bytes.
pub fn verify_program(program: &Program) -> Result<(), Invalid> {
    let mut found = Findings::default();
    check_symbols(&program.symbols, &mut found);
    for (kind, bindings) in [("input", &program.inputs), ("weight", &program.weights), ("state", &program.states)] {
        check_bindings(kind, bindings, &program.symbols, &mut found);
    }
    check_buffers(program, &mut found);
    check_launches(program, &mut found);
    for (name, id) in &program.outputs {
        if id.0 as usize >= program.buffers.len() {
            found.add(&Place::Output(name.clone()), format!("buffer %{} is not declared", id.0));
        }
    }
    check_overlaps(program, &mut found);
    found.into_result()
}

fn check_bindings(kind: &'static str, bindings: &[Binding], symbols: &[Symbol], found: &mut Findings) {
    let mut names = HashSet::new();
    for b in bindings {
        let place = &Place::Binding { kind, name: b.name.clone() };
        check_type(&b.ty, symbols, place, String::new, found);
        if !names.insert(&b.name) {
            found.add(place, "the name is taken");
        }
    }
}

fn check_buffers(program: &Program, found: &mut Findings) {
    let bounds = program.upper_bounds();
    for (i, buffer) in program.buffers.iter().enumerate() {
        let place = Place::Buffer(BufferId(i as u32));
        check_type(&buffer.ty, &program.symbols, &place, String::new, found);
        if buffer.offset % ALIGNMENT != 0 {
            found.add(&place, format!("offset {} is no multiple of {ALIGNMENT}", buffer.offset));
        }
        let end = buffer.ty.bytes(&bounds).and_then(|b| buffer.offset.checked_add(b));
        if end.is_none_or(|e| e > program.arena_bytes) {
            found.add(&place, format!("it ends past the arena of {} bytes", program.arena_bytes));
        }
    }
}

fn check_launches(program: &Program, found: &mut Findings) {
    let mut written = HashSet::new();
    for (at, launch) in program.launches.iter().enumerate() {
        let parts = [launch.kernel.as_str(), &launch.label].into_iter().filter(|s| !s.is_empty());
        let place = Place::Launch { index: at, description: parts.collect::<Vec<_>>().join(" ") };
        let mut fields = HashSet::new();
        for (field, arg) in &launch.args {
            if !fields.insert(field) {
                found.add(&place, format!("field {field} is given twice"));
            }
            if let Some(message) = check_arg(program, arg, &written) {
                found.add(&place, format!("field {field}: {message}"));
            }
        }
        written.extend(launch.args.iter().filter_map(|(_, a)| match a {
            Arg::Buffer(id, Access::Write | Access::Update) => Some(*id),
            _ => None,
        }));
    }
    for (name, id) in &program.outputs {
        if !written.contains(id) {
            found.add(&Place::Output(name.clone()), format!("buffer %{} is never written", id.0));
        }
    }
}

fn check_arg(program: &Program, arg: &Arg, written: &HashSet<BufferId>) -> Option<String> {
    let undeclared =
        |i: u32, count: usize, kind: &str| (i as usize >= count).then(|| format!("{kind} {i} is not declared"));
    match arg {
        Arg::Buffer(id, _) if id.0 as usize >= program.buffers.len() => {
            Some(format!("buffer %{} is not declared", id.0))
        }
        Arg::Buffer(id, Access::Read | Access::Update) if !written.contains(id) => {
            Some(format!("buffer %{} is read before it is written", id.0))
        }
        Arg::Input(i) => undeclared(*i, program.inputs.len(), "input"),
        Arg::Weight(i) => undeclared(*i, program.weights.len(), "weight"),
        Arg::State(i, _) => undeclared(*i, program.states.len(), "state"),
        Arg::Size(dims) if dims.is_empty() => Some("an empty product".into()),
        Arg::Size(dims) => {
            let bounds = program.upper_bounds();
            let product = dims.iter().try_fold(1u64, |a, d| a.checked_mul(d.value(&bounds)?));
            product.is_none().then(|| "the count overflows or has an undeclared symbol".into())
        }
        Arg::Float(v) if !v.is_finite() => Some("a float must be finite".into()),
        _ => None,
    }
}

/// Of the buffers, no two may be live at once on the same bytes. A result written over its operand is one buffer for both.
fn check_overlaps(program: &Program, found: &mut Findings) {
    let bounds = program.upper_bounds();
    let ranges = program.live_ranges();
    let spans: Vec<_> = program
        .buffers
        .iter()
        .zip(&ranges)
        .enumerate()
        .filter_map(|(i, (b, r))| Some((i, (*r)?, b.offset, b.offset.checked_add(b.ty.bytes(&bounds)?)?)))
        .collect();
    for (n, &(i, (first, last), start, end)) in spans.iter().enumerate() {
        for &(j, (other_first, other_last), other_start, other_end) in &spans[n + 1..] {
            let together = first <= other_last && other_first <= last;
            if together && start < other_end && other_start < end {
                found.add(&Place::Buffer(BufferId(i as u32)), format!("overlaps buffer %{j} while both are live"));
            }
        }
    }
}
