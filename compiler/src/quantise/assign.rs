//! Which format each weight is stored in, and why.
//!
//! Only what products and look-ups read is ever quantised. Routers stay as they are, since a token sent to another expert
//! costs more than the few bytes saved; so do gates of one row, norms and biases.

use std::collections::BTreeMap;

use ir::graph::{Graph, GraphError, Node, NodeKind, ValueId};
use ir::op::Op;
use ir::quant;
use ir::types::{DType, Dim};

use super::options::{FormatChoice, QuantOptions, format_name};
use crate::rewrite::{keep, rebuild};

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The table of embeddings.
    Embedding,
    /// The output projection, or a table that is both.
    Head,
    /// The matrix that gives routing logits, or a gate of one row.
    Router,
    /// Any other matrix of a product.
    Matrix,
}

/// Why a weight has its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The format asked for all.
    Asked,
    /// The format of embedding or head.
    Role,
    /// An override named it.
    Override,
    /// Routers and gates stay.
    Router,
    /// The row length is no multiple of the block of the format asked for.
    Columns,
    /// The model rounds this product's input itself; the kernels then need integers.
    RoundedInput,
}

/// A weight's format before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the checkpoint has.
    pub from: DType,
    /// What is stored.
    pub to: DType,
    /// Why.
    pub reason: Reason,
    /// What the weight is for.
    pub role: Role,
}

/// The format of every matrix of a graph, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment(pub BTreeMap<String, Decision>);

impl Assignment {
    /// The decision for a weight; `None` for vectors.
    pub fn get(&self, weight: &str) -> Option<&Decision> {
        self.0.get(weight)
    }

    /// Whether any weight changes its format.
    pub fn changes_anything(&self) -> bool {
        self.0.values().any(|d| d.from != d.to)
    }

    /// What a user should know that was not asked for in so many words, one line each.
    pub fn notes(&self) -> Vec<String> {
        let count = |wanted: &dyn Fn(&Decision) -> bool| self.0.values().filter(|d| wanted(d)).count();
        let mut notes = Vec::new();
        let mut note = |n: usize, text: &str| {
            if n > 0 {
                notes.push(format!("{n} {} {text}", if n == 1 { "matrix" } else { "matrices" }));
            }
        };
        note(count(&|d| d.reason == Reason::Columns), "stored as f16: rows are no whole number of blocks of 32");
        note(count(&|d| d.reason == Reason::RoundedInput), "kept: the model rounds their inputs itself");
        let requantised = |d: &Decision| d.from != d.to && !is_plain_float(d.from);
        note(count(&requantised), "dequantised and quantised again: the checkpoint was quantised already");
        notes
    }

    /// How many matrices are stored in each format, by the user's names.
    pub fn summary(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        self.0.values().for_each(|d| *counts.entry(format_name(d.to)).or_default() += 1);
        counts
    }
}

/// Whether a type stores real numbers one by one.
pub(super) fn is_plain_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Bits of a stored weight, about.
fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::Q4_0 | DType::Q4_1 | DType::Q4G64 | DType::Q4G128 | DType::T2)
}

/// Decides the format of every matrix.
pub fn assign(graph: &Graph, options: &QuantOptions) -> Assignment {
    let roles = roles(graph);
    let rounded = rounded_inputs(graph);
    let decide = |(value, role): (&ValueId, &Role)| {
        let node = graph.node(*value);
        let (choice, reason) = choose(&node.name, *role, options);
        let from = node.ty.dtype;
        let wanted = match choice {
            FormatChoice::Keep => from,
            FormatChoice::To(to) => to,
        };
        let (to, reason) = feasible(node, wanted, reason, rounded.contains(value));
        (node.name.clone(), Decision { from, to, reason, role: *role })
    };
    Assignment(roles.iter().map(decide).collect())
}

fn choose(name: &str, role: Role, options: &QuantOptions) -> (FormatChoice, Reason) {
    if let Some(rule) = options.overrides.iter().rev().find(|o| o.pattern.matches(name)) {
        return (rule.format, Reason::Override);
    }
    let wide = match options.format {
        FormatChoice::To(dtype) if is_narrow(dtype) => FormatChoice::To(DType::Q8_0),
        other => other,
    };
    match role {
        Role::Router => (FormatChoice::Keep, Reason::Router),
        Role::Embedding => (options.embedding.unwrap_or(wide), Reason::Role),
        Role::Head => (options.head.unwrap_or(wide), Reason::Role),
        Role::Matrix => (options.format, Reason::Asked),
    }
}

/// The format wanted, or what takes its place where that cannot be.
fn feasible(node: &Node, wanted: DType, reason: Reason, rounded_input: bool) -> (DType, Reason) {
    let format = |dtype: DType| quant::format(dtype);
    if rounded_input && !format(wanted).is_some_and(|f| f.is_integer()) {
        return (node.ty.dtype, Reason::RoundedInput);
    }
    let cols = match node.ty.shape.last() {
        Some(Dim::Const(cols)) => *cols as usize,
        _ => 0,
    };
    match format(wanted).and_then(|f| f.row_bytes(cols)) {
        None if wanted != node.ty.dtype => (DType::F16, Reason::Columns),
        _ => (wanted, reason),
    }
}

/// Every matrix that a product or look-up reads, with its role, in graph order.
fn roles(graph: &Graph) -> BTreeMap<ValueId, Role> {
    let head = head_weight(graph);
    let mut roles = BTreeMap::new();
    for node in &graph.nodes {
        let (weight, role) = match node.op() {
            Some(Op::Embedding) => (node.operands()[0], Role::Embedding),
            Some(Op::Matmul | Op::GroupedMatmul | Op::HeadMatmul) => {
                let weight = node.operands()[1];
                let one_row =
                    graph.node(weight).ty.shape.first() == Some(&Dim::Const(1)) && node.op() == Some(Op::Matmul);
                let routes = node.name.ends_with(".router") || one_row;
                (weight, if routes { Role::Router } else { Role::Matrix })
            }
            _ => continue,
        };
        if graph.node(weight).kind != NodeKind::Weight {
            continue;
        }
        let role = if Some(weight) == head { Role::Head } else { role };
        // A table that is also a plain product's matrix has the more careful format.
        roles.entry(weight).and_modify(|r| *r = if *r == Role::Matrix { role } else { *r }).or_insert(role);
    }
    roles
}

/// The matrix whose product is the output "logits", past what only rescales it.
fn head_weight(graph: &Graph) -> Option<ValueId> {
    let mut value = graph.outputs.iter().find(|(name, _)| name == "logits")?.1;
    while let Some(Op::Scale | Op::Softcap) = graph.node(value).op() {
        value = graph.node(value).operands()[0];
    }
    let node = graph.node(value);
    (node.op() == Some(Op::Matmul)).then(|| node.operands()[1])
}

/// Matrices whose product sees an input that the model has rounded.
fn rounded_inputs(graph: &Graph) -> Vec<ValueId> {
    let is_product = |n: &&Node| matches!(n.op(), Some(Op::Matmul | Op::GroupedMatmul | Op::HeadMatmul));
    let rounded = |n: &&Node| graph.node(n.operands()[0]).ty.dtype == DType::Q8X32;
    graph.nodes.iter().filter(is_product).filter(rounded).map(|n| n.operands()[1]).collect()
}

/// The graph with its matrices in the formats assigned.
///
/// # Errors
/// None for an assignment made from this graph.
pub fn apply(graph: &Graph, assignment: &Assignment) -> Result<Graph, GraphError> {
    rebuild(graph, |new, _, mut node| {
        if let (NodeKind::Weight, Some(decision)) = (&node.kind, assignment.get(&node.name)) {
            node.ty.dtype = decision.to;
        }
        Ok(keep(new, node))
    })
}

#[cfg(test)]
mod tests {
    use ir::op::Attr;
    use ir::types::TensorType;

    use super::super::options::Override;
    use super::*;

    /// An embedding, a router, a matrix of 96 columns, one of 40, and a head that may be tied.
    fn graph(tied: bool) -> Graph {
        let mut g = Graph::new("test");
        let tokens = Dim::Sym(g.symbol("T", 1, 8));
        let ids = g.input("ids", TensorType::new(DType::I32, [tokens]));
        let weight = |g: &mut Graph, name: &str, rows: u64, cols: u64| {
            g.weight(name, TensorType::new(DType::BF16, [Dim::Const(rows), Dim::Const(cols)]))
        };
        let table = weight(&mut g, "embed.weight", 50, 96);
        let x = g.op(Op::Embedding, &[table, ids], &[], "embed").unwrap();
        let router = weight(&mut g, "router.weight", 4, 96);
        let logits = g.op(Op::Matmul, &[x, router], &[], "layers.0.mlp.router").unwrap();
        let narrow = weight(&mut g, "narrow.weight", 40, 96);
        let y = g.op(Op::Matmul, &[x, narrow], &[], "layers.0.narrow").unwrap();
        let wide = weight(&mut g, "wide.weight", 96, 40);
        let z = g.op(Op::Matmul, &[y, wide], &[], "layers.0.wide").unwrap();
        let head = if tied { table } else { weight(&mut g, "lm_head.weight", 50, 96) };
        let out = g.op(Op::Matmul, &[z, head], &[], "head").unwrap();
        let out = g.op(Op::Scale, &[out], &[("factor", Attr::Float(0.5))], "").unwrap();
        g.output("logits", out);
        g.output("router.0.logits", logits);
        g
    }

    fn formats(g: &Graph, options: &QuantOptions) -> Vec<(String, DType)> {
        assign(g, options).0.into_iter().map(|(n, d)| (n, d.to)).collect()
    }

    fn asked(dtype: DType) -> QuantOptions {
        QuantOptions { format: FormatChoice::To(dtype), ..QuantOptions::default() }
    }

    #[test]
    fn roles_decide_and_routers_stay() {
        let expected = [
            ("embed.weight", DType::Q8_0),
            ("lm_head.weight", DType::Q8_0),
            ("narrow.weight", DType::Q4G128),
            ("router.weight", DType::BF16),
            ("wide.weight", DType::Q4G128),
        ];
        let expected: Vec<_> = expected.iter().map(|(n, d)| (n.to_string(), *d)).collect();
        assert_eq!(formats(&graph(false), &asked(DType::Q4G128)), expected);
        assert!(formats(&graph(false), &QuantOptions::default()).iter().all(|(_, d)| *d == DType::BF16));
    }

    #[test]
    fn a_tied_table_has_the_format_of_the_head() {
        let mut options = asked(DType::Q4G64);
        options.embedding = Some(FormatChoice::Keep);
        options.head = Some(FormatChoice::To(DType::Q8C));
        let formats = formats(&graph(true), &options);
        assert_eq!(formats[0], ("embed.weight".into(), DType::Q8C));
    }

    #[test]
    fn rows_without_whole_blocks_become_f16_and_the_last_override_wins() {
        let mut options = asked(DType::Q4_0);
        let decisions = assign(&graph(false), &options);
        assert_eq!(decisions.get("wide.weight").unwrap().to, DType::F16);
        assert!(decisions.notes().iter().any(|n| n.contains("f16")), "{:?}", decisions.notes());
        options.overrides = ["*.weight=q8c", "wide.*=f32", "router.weight=q8g32"]
            .iter()
            .map(|text| text.parse::<Override>().unwrap())
            .collect();
        let decisions = assign(&graph(false), &options);
        let to = |name: &str| decisions.get(name).unwrap().to;
        assert_eq!(
            (to("wide.weight"), to("narrow.weight"), to("router.weight")),
            (DType::F32, DType::Q8C, DType::Q8_0)
        );
    }

    #[test]
    fn applying_changes_weights_alone() {
        let g = graph(false);
        let applied = apply(&g, &assign(&g, &asked(DType::Q4G128))).unwrap();
        assert_eq!(ir::verify::verify_graph(&applied), Ok(()));
        assert_eq!(applied.outputs, g.outputs);
        let changed: Vec<&str> =
            g.nodes.iter().zip(&applied.nodes).filter(|(a, b)| a != b).map(|(a, _)| a.name.as_str()).collect();
        assert_eq!(changed, ["embed.weight", "narrow.weight", "wide.weight", "lm_head.weight"]);
    }
}
