//! Chosen terms become the graph of a bucket.

use std::collections::HashMap;

use egg::Id;
use ir::graph::{Graph, Node, NodeKind, ValueId};
use ir::op::{Attr, Op};
use ir::types::TensorType;

use super::FuseError;
use super::bodies::{Body, is_bundle};
use super::choose::Chosen;
use super::labels::Labels;
use super::language::{Head, attr_of};

/// Where a node of a fused graph comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The body.
    pub body: usize,
    /// The node of the body's chosen term.
    pub term: Id,
}

/// A fused graph being written.
pub struct Emitter<'a> {
    /// The graph that is fused.
    old: &'a Graph,
    new: Graph,
    /// What stands for each value of the old graph.
    values: Vec<Option<ValueId>>,
    /// Where each node of the new graph comes from, if it is an op.
    sources: Vec<Option<Source>>,
    /// Constants that folding gave.
    folded: HashMap<(TensorType, Vec<u32>), ValueId>,
}

impl<'a> Emitter<'a> {
    /// Begins with the inputs and states of the old graph, those that nothing reads as well: they are what a step is given.
    pub fn new(old: &'a Graph) -> Emitter<'a> {
        let new = Graph { symbols: old.symbols.clone(), ..Graph::new(old.name.clone()) };
        let values = vec![None; old.nodes.len()];
        let mut emitter = Emitter { old, new, values, sources: Vec::new(), folded: HashMap::new() };
        for (value, node) in old.values() {
            if matches!(node.kind, NodeKind::Input | NodeKind::State) {
                emitter.leaf(value);
            }
        }
        emitter
    }

    /// Writes a body, of which all before are written.
    ///
    /// # Errors
    /// An op cannot be: a mistake of a rule.
    pub fn body(&mut self, index: usize, body: &Body, chosen: &Chosen) -> Result<(), FuseError> {
        let labels = Labels::new(self.old, body, chosen);
        let mut places: Vec<Option<ValueId>> = Vec::with_capacity(chosen.term.len());
        for i in 0..chosen.term.len() {
            let first_new = self.new.nodes.len();
            let value = self.term(body, chosen, &labels, &places, Id::from(i))?;
            places.push(value);
            self.sources.resize(first_new, None);
            self.sources.resize(self.new.nodes.len(), Some(Source { body: index, term: Id::from(i) }));
        }
        for (output, root) in body.outputs.iter().zip(&chosen.roots) {
            self.values[body.nodes[*output].index()] = places[usize::from(*root)];
        }
        Ok(())
    }

    /// The graph, its outputs those of the old, and where its nodes come from.
    pub fn finish(mut self) -> (Graph, Vec<Option<Source>>) {
        for (name, value) in &self.old.outputs {
            let value = self.leaf(*value);
            self.new.output(name, value);
        }
        self.sources.resize(self.new.nodes.len(), None);
        (self.new, self.sources)
    }

    /// The value of a term; `None` if it is none: an attribute, an operand left out.
    fn term(
        &mut self,
        body: &Body,
        chosen: &Chosen,
        labels: &Labels,
        places: &[Option<ValueId>],
        id: Id,
    ) -> Result<Option<ValueId>, FuseError> {
        let term = &chosen.term[id];
        let op = match term.head {
            Head::Op(op) | Head::Own(op) => op,
            Head::Leaf(i) => return Ok(Some(self.leaf(body.leaves[i as usize]))),
            Head::Constant(i) => return Ok(Some(self.constant(body, chosen, i))),
            _ => return Ok(None),
        };
        let operands = term.operands().iter().map(|o| places[usize::from(*o)].unwrap_or(ValueId::ABSENT));
        let mut operands: Vec<ValueId> = operands.collect();
        let attributes = term.attributes().iter().filter_map(|a| attr_of(chosen.term[*a].head));
        let named: Vec<(&str, Attr)> = op.def().attributes.iter().map(|a| a.name).zip(attributes).collect();
        if (op, named.first().map(|(_, a)| a)) == (Op::Part, Some(&Attr::Int(0))) {
            return Ok(operands.first().copied());
        }
        while operands.last() == Some(&ValueId::ABSENT) {
            operands.pop();
        }
        let value = self.new.op(op, &operands, &named, &labels.of(id))?;
        debug_assert!(is_bundle(op, &self.new.node(value).more) || self.new.node(value).more.is_empty());
        Ok(Some(value))
    }

    /// A value from outside a body: written now if it has no place yet.
    fn leaf(&mut self, value: ValueId) -> ValueId {
        if let Some(new) = self.values[value.index()] {
            return new;
        }
        let new = self.push(self.old.node(value).clone());
        self.values[value.index()] = Some(new);
        new
    }

    /// Constant `index` of a body: one of the old graph, or one that folding gave.
    fn constant(&mut self, body: &Body, chosen: &Chosen, index: u32) -> ValueId {
        if let Some(value) = body.constants.get(index as usize) {
            return self.leaf(*value);
        }
        let (ty, values) = &chosen.constants[index as usize];
        let key = (ty.clone(), values.iter().map(|v| v.to_bits()).collect());
        if let Some(value) = self.folded.get(&key) {
            return *value;
        }
        let name = folded_name(ty, values);
        let node = Node { kind: NodeKind::Constant(values.clone()), ty: ty.clone(), more: Vec::new(), name };
        let value = self.push(node);
        self.folded.insert(key, value);
        value
    }

    fn push(&mut self, node: Node) -> ValueId {
        self.new.nodes.push(node);
        ValueId(self.new.nodes.len() as u32 - 1)
    }
}

/// A name by content, so that it is the same in every bucket.
fn folded_name(ty: &TensorType, values: &[f32]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{ty:?}").as_bytes());
    values.iter().for_each(|v| {
        hasher.update(&v.to_bits().to_le_bytes());
    });
    format!("folded.{}", &hasher.finalize().to_hex()[..16])
}
