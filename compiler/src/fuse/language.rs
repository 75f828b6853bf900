//! The language of the e-graph: an op with its operands and attributes as children, so that patterns bind either.
//!
//! Every op has all the operands of its table row, `_` for one left out, then all its attributes. A node that has several
//! results or updates a state is a *bundle*: it is no value itself, its first result is `(part b 0)`, the others `(part b i)`,
//! and the state it has updated is `(after kv b)`. Whatever chooses one of these chooses the bundle.

use std::fmt;

use egg::{FromOp, FromOpError, Id, Language};
use ir::op::{ACTIVATIONS, Attr, CAST_TYPES, EMISSIONS, GRANULARITIES, NORM_KINDS, Op, SCORINGS};

/// What a term is, its children aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Head {
    /// An op.
    Op(Op),
    /// An op that a user's own lowering carries out: no rule takes it for the op, so that it stays.
    Own(Op),
    /// An input, weight or state, or a value of an earlier body: its index in [`super::bodies::Body::leaves`].
    Leaf(u32),
    /// Numbers known to the compiler: their index in [`super::typing::Typing::constants`].
    Constant(u32),
    /// An integer attribute.
    Int(i64),
    /// A float attribute, by its bits.
    Float(u64),
    /// A flag attribute.
    Flag(bool),
    /// A word attribute.
    Word(&'static str),
    /// An operand left out.
    Absent,
}

/// A node of the e-graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term {
    /// What it is.
    pub head: Head,
    /// Operands, then attributes.
    pub children: Box<[Id]>,
}

impl Term {
    /// A term without children.
    pub fn leaf(head: Head) -> Term {
        Term { head, children: Box::default() }
    }

    /// An op; `children` are all its operands and attributes.
    pub fn op(op: Op, children: impl Into<Box<[Id]>>) -> Term {
        Term { head: Head::Op(op), children: children.into() }
    }

    /// The op, if it is one.
    pub fn as_op(&self) -> Option<Op> {
        match self.head {
            Head::Op(op) | Head::Own(op) => Some(op),
            _ => None,
        }
    }

    /// The operands, if it is an op.
    pub fn operands(&self) -> &[Id] {
        self.as_op().map_or(&[], |op| &self.children[..op.def().operands.len()])
    }

    /// The attributes, if it is an op.
    pub fn attributes(&self) -> &[Id] {
        self.as_op().map_or(&[], |op| &self.children[op.def().operands.len()..])
    }
}

impl Language for Term {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        self.head
    }

    fn matches(&self, other: &Term) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.head {
            Head::Op(op) => f.write_str(op.name()),
            Head::Own(op) => write!(f, "own:{}", op.name()),
            Head::Leaf(i) => write!(f, "%{i}"),
            Head::Constant(i) => write!(f, "constant{i}"),
            Head::Int(v) => write!(f, "{v}"),
            Head::Float(bits) => write!(f, "{:?}", f64::from_bits(bits)),
            Head::Flag(v) => write!(f, "{v}"),
            Head::Word(word) => f.write_str(word),
            Head::Absent => f.write_str("_"),
        }
    }
}

/// Every word that is an attribute's value somewhere.
const WORDS: [&[&str]; 6] = [ACTIVATIONS, SCORINGS, GRANULARITIES, NORM_KINDS, EMISSIONS, CAST_TYPES];

/// The word itself, living as long as the program.
fn word(text: &str) -> Option<&'static str> {
    WORDS.iter().copied().flatten().copied().find(|w| *w == text)
}

impl FromOp for Term {
    type Error = FromOpError;

    /// Names with children are ops; without, they are attributes as the text form of a graph writes them.
    fn from_op(name: &str, children: Vec<Id>) -> Result<Term, FromOpError> {
        let parsed = match Op::from_name(name).filter(|_| !children.is_empty()) {
            Some(op) => (children.len() == arity(op)).then_some(Head::Op(op)),
            None if children.is_empty() => attribute(name),
            None => None,
        };
        match parsed {
            Some(head) => Ok(Term { head, children: children.into() }),
            None => Err(FromOpError::new(name, children)),
        }
    }
}

/// Children of a term of that op.
pub fn arity(op: Op) -> usize {
    op.def().operands.len() + op.def().attributes.len()
}

fn attribute(text: &str) -> Option<Head> {
    match text {
        "_" => return Some(Head::Absent),
        "true" => return Some(Head::Flag(true)),
        "false" => return Some(Head::Flag(false)),
        _ => {}
    }
    let int = || text.parse().ok().map(Head::Int);
    let float = || text.parse::<f64>().ok().map(|v| Head::Float(v.to_bits()));
    int().or_else(float).or_else(|| word(text).map(Head::Word))
}

/// An attribute's value as a term's head; `None` for a word that no op knows.
pub fn head_of(attr: &Attr) -> Option<Head> {
    Some(match attr {
        Attr::Int(v) => Head::Int(*v),
        Attr::Float(v) => Head::Float(v.to_bits()),
        Attr::Bool(v) => Head::Flag(*v),
        Attr::Str(text) => Head::Word(word(text)?),
    })
}

/// The attribute that a head stands for, if it is one.
pub fn attr_of(head: Head) -> Option<Attr> {
    Some(match head {
        Head::Int(v) => Attr::Int(v),
        Head::Float(bits) => Attr::Float(f64::from_bits(bits)),
        Head::Flag(v) => Attr::Bool(v),
        Head::Word(text) => Attr::Str(text.into()),
        _ => return None,
    })
}
