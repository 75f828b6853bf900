//! The cheapest form of a body in a bucket, by what its nodes cost there.

use std::collections::HashMap;

use egg::{Id, Language, RecExpr};
use ir::graph::{Graph, Node, NodeKind, ValueId};
use ir::op::{Attr, Op};
use ir::text::print_graph;
use ir::types::{Symbol, TensorType};

use super::extract::{Candidate, Problem, extract};
use super::language::{Head, Term};
use super::price::{Price, takes_launch};
use super::saturate::{Form, Saturated};
use super::typing::Body as Classes;

/// What a node costs that nothing carries out, in seconds: so much that it is taken only where there is nothing else, and lowering
/// then says what is missing.
const NO_LOWERING: f64 = 1e6;

/// What a part of a body that no launch stands for adds to the cost, so that of two equal choices the simpler is taken.
const EPSILON: f64 = 1e-15;

/// What has been chosen of a body's e-graph.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The term.
    pub term: RecExpr<Term>,
    /// Where the values read outside stand in it, in the order of the body's outputs.
    pub roots: Vec<Id>,
    /// For each node of the term the nodes of the body (indices) that have its value.
    pub origins: Vec<Vec<usize>>,
    /// The constants that the term names.
    pub constants: Vec<(TensorType, Vec<f32>)>,
    /// Seconds of a step.
    pub seconds: f64,
}

/// Prices of nodes in one bucket, each worked out once.
pub struct Prices<'a> {
    price: &'a dyn Price,
    symbols: &'a [Symbol],
    known: HashMap<String, f64>,
}

impl<'a> Prices<'a> {
    /// Prices for steps whose sizes are bounded by `symbols`.
    pub fn new(price: &'a dyn Price, symbols: &'a [Symbol]) -> Prices<'a> {
        Prices { price, symbols, known: HashMap::new() }
    }

    fn of(&mut self, graph: Graph) -> f64 {
        let (price, text) = (self.price, print_graph(&graph));
        *self.known.entry(text).or_insert_with(|| price.of(&graph).unwrap_or(NO_LOWERING))
    }
}

/// The cheapest choice; `roots` are the places of the body's outputs in the form's term.
pub fn choose(saturated: &Saturated, form: &Form, roots: &[Id], prices: &mut Prices) -> Chosen {
    let classes = &saturated.classes;
    let class_of = |place: Id| classes.find(saturated.ids[usize::from(place)]);
    let roots: Vec<Id> = roots.iter().map(|r| class_of(*r)).collect();
    let reached = Reached::from(classes, &roots);
    let problem = Problem {
        classes: reached.classes.iter().map(|class| candidates(classes, *class, &reached, prices)).collect(),
        roots: roots.iter().map(|r| reached.index[r]).collect(),
    };
    let choice = extract(&problem);
    let mut origins: HashMap<Id, Vec<usize>> = HashMap::new();
    for (node, place) in form.places.iter().enumerate() {
        if let Some(place) = place {
            origins.entry(class_of(*place)).or_default().push(node);
        }
    }
    let mut reader = Reader {
        classes,
        reached: &reached,
        taken: &choice.taken,
        origins: &origins,
        known: HashMap::new(),
        chosen: Chosen {
            term: RecExpr::default(),
            roots: Vec::new(),
            origins: Vec::new(),
            constants: classes.analysis.constants.clone(),
            seconds: choice.total,
        },
    };
    let places: Vec<Id> = roots.iter().map(|root| reader.read(*root)).collect();
    Chosen { roots: places, ..reader.chosen }
}

/// The classes that hold tensors and that the roots may need.
struct Reached {
    classes: Vec<Id>,
    index: HashMap<Id, usize>,
}

impl Reached {
    fn from(classes: &Classes, roots: &[Id]) -> Reached {
        let mut reached = Reached { classes: Vec::new(), index: HashMap::new() };
        roots.iter().for_each(|root| reached.add(*root));
        let mut next = 0;
        while let Some(class) = reached.classes.get(next).copied() {
            next += 1;
            for operand in classes[class].nodes.iter().flat_map(|t| t.operands()) {
                if classes[*operand].data.ty().is_some() {
                    reached.add(classes.find(*operand));
                }
            }
        }
        reached
    }

    fn add(&mut self, class: Id) {
        self.index.entry(class).or_insert_with(|| {
            self.classes.push(class);
            self.classes.len() - 1
        });
    }
}

/// The terms of a class as the extraction sees them, in the e-graph's order.
fn candidates(classes: &Classes, class: Id, reached: &Reached, prices: &mut Prices) -> Vec<Candidate> {
    let candidate = |term: &Term| Candidate {
        cost: cost(classes, term, prices),
        children: term.operands().iter().filter_map(|o| reached.index.get(&classes.find(*o)).copied()).collect(),
    };
    classes[class].nodes.iter().map(candidate).collect()
}

fn cost(classes: &Classes, term: &Term, prices: &mut Prices) -> f64 {
    let Some(op) = term.as_op() else { return 0.0 };
    if !takes_launch(op) {
        return EPSILON;
    }
    EPSILON + isolated(classes, term, prices.symbols).map_or(NO_LOWERING, |graph| prices.of(graph))
}

/// A node in a graph of its own: its operands are leaves, but for inline ones, which it carries out.
fn isolated(classes: &Classes, term: &Term, symbols: &[Symbol]) -> Option<Graph> {
    let mut graph = Graph { symbols: symbols.to_vec(), ..Graph::new("node") };
    isolate(classes, term, &mut graph)?;
    Some(graph)
}

fn isolate(classes: &Classes, term: &Term, graph: &mut Graph) -> Option<ValueId> {
    let op = term.as_op()?;
    let mut operands = Vec::new();
    for (i, operand) in term.operands().iter().enumerate() {
        let class = &classes[*operand];
        let Some(ty) = class.data.ty() else {
            operands.push(ValueId::ABSENT);
            continue;
        };
        let inline = class.nodes.iter().find(|t| t.as_op().is_some_and(Op::is_inline));
        operands.push(match inline {
            Some(inline) => isolate(classes, inline, graph)?,
            None => {
                let kind =
                    if op.def().operands[i] == "kv" { NodeKind::State } else { leaf_kind(classes, &class.nodes) };
                let name = format!("x{}", graph.nodes.len());
                graph.nodes.push(Node { kind, ty: ty.clone(), more: Vec::new(), name });
                ValueId(graph.nodes.len() as u32 - 1)
            }
        });
    }
    while operands.last() == Some(&ValueId::ABSENT) {
        operands.pop();
    }
    let attributes: Vec<Attr> = term.attributes().iter().filter_map(|a| classes[*a].data.attr().cloned()).collect();
    let named: Vec<(&str, Attr)> = op.def().attributes.iter().map(|a| a.name).zip(attributes).collect();
    graph.op(op, &operands, &named, "").ok()
}

/// A weight where the class is one, or a constant, which is stored as one; else an input.
fn leaf_kind(classes: &Classes, terms: &[Term]) -> NodeKind {
    let kind = terms.iter().find_map(|t| match t.head {
        Head::Leaf(i) => Some(classes.analysis.leaves[i as usize].kind.clone()),
        Head::Constant(_) => Some(NodeKind::Weight),
        _ => None,
    });
    kind.unwrap_or(NodeKind::Input)
}

/// The chosen term being read from the e-graph.
struct Reader<'a> {
    classes: &'a Classes,
    reached: &'a Reached,
    taken: &'a [Option<usize>],
    origins: &'a HashMap<Id, Vec<usize>>,
    known: HashMap<Id, Id>,
    chosen: Chosen,
}

impl Reader<'_> {
    fn read(&mut self, class: Id) -> Id {
        let class = self.classes.find(class);
        if let Some(id) = self.known.get(&class) {
            return *id;
        }
        let taken = self.reached.index.get(&class).and_then(|i| self.taken[*i]).unwrap_or(0);
        let term = self.classes[class].nodes[taken].clone().map_children(|c| self.read(c));
        let id = self.chosen.term.add(term);
        self.chosen.origins.push(self.origins.get(&class).cloned().unwrap_or_default());
        self.known.insert(class, id);
        id
    }
}
