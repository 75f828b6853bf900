//! Why a fused node is what it is: the chain of rules that leads from the model's ops to it, as the e-graph proves it.

use std::collections::HashSet;
use std::fmt::Write;

use egg::{FlatTerm, Id, Language, RecExpr};
use ir::graph::{Graph, ValueId};
use ir::op::Op;

use super::bodies::Body;
use super::emit::Source;
use super::language::{Head, Term};
use super::price::{Price, Roofline};
use super::rules::RULES;
use super::saturate::{Compiled, Limits, saturate};
use super::{FuseError, FuseOptions, Fusion, Plan, Solution};

/// How deep terms are written out; what is deeper is `…`.
const DEPTH: usize = 3;

/// Explains a node of the fused graph of a bucket: `%N`, or a label.
///
/// # Errors
/// There is no such node, or the graph cannot be fused.
pub fn explain(
    graph: &Graph,
    buckets: &[Graph],
    options: &FuseOptions,
    bucket: usize,
    node: &str,
) -> Result<String, FuseError> {
    let price = Roofline { registry: options.registry, target: options.target, spec: options.spec };
    explain_by(graph, buckets, options.fusion, &price, bucket, node)
}

/// As [`explain`], by any price.
///
/// # Errors
/// Those of [`explain`].
pub fn explain_by(
    graph: &Graph,
    buckets: &[Graph],
    fusion: Fusion,
    price: &dyn Price,
    bucket: usize,
    node: &str,
) -> Result<String, FuseError> {
    let plan = Plan::new(graph, buckets, fusion, price, Limits::default())?;
    let (fused, sources) = plan.emit(buckets.get(bucket).unwrap_or(graph), bucket)?;
    let value = find(&fused, node)?;
    let described = fused.node(value);
    let mut text = format!("{value} {} {:?}\n", described.op().map_or("", |op| op.name()), described.name);
    let Some(source) = sources[value.index()] else {
        text.push_str("  it stands in the model as it is\n");
        return Ok(text);
    };
    let solution = &plan.solutions[plan.solution_of[source.body]];
    let names = Names { graph, body: &plan.bodies[source.body] };
    for (rule, times) in &solution.form.rounded_by {
        let _ = writeln!(
            text,
            "  beforehand in the whole body, {times} times: {} ({})",
            rule.name,
            sentence(rule.statement)
        );
    }
    text.push_str(&chain(graph, &plan, solution, source, bucket, &names)?);
    Ok(text)
}

/// The node of that number or label.
fn find(graph: &Graph, node: &str) -> Result<ValueId, FuseError> {
    let by_number = node.strip_prefix('%').and_then(|n| n.parse().ok()).map(ValueId);
    let is_op = |v: &ValueId| graph.nodes.get(v.index()).is_some_and(|n| n.op().is_some());
    let is_launch = |op: Op| !matches!(op, Op::Part | Op::After) && !op.is_inline();
    let by_label = || graph.values().find(|(_, n)| n.name == node && n.op().is_some_and(is_launch)).map(|(v, _)| v);
    if let Some(value) = by_number.filter(is_op).or_else(by_label) {
        return Ok(value);
    }
    let last = node.rsplit('.').next().unwrap_or(node);
    let alike: Vec<&str> = graph
        .nodes
        .iter()
        .filter(|n| n.op().is_some_and(is_launch) && n.name.contains(last))
        .map(|n| n.name.as_str())
        .take(8)
        .collect();
    let hint = match alike.as_slice() {
        [] => "name one by its label or as %N of the text that --dump writes after fuse".to_string(),
        labels => format!("labels like it: {}", labels.join(", ")),
    };
    Err(FuseError::NoNode { node: node.into(), hint })
}

/// The numbered steps.
fn chain(
    graph: &Graph,
    plan: &Plan,
    solution: &Solution,
    source: Source,
    bucket: usize,
    names: &Names,
) -> Result<String, FuseError> {
    let (form, chosen) = (&solution.form, &solution.chosen[bucket]);
    let rules = Compiled::new()?;
    let typing = plan.bodies[solution.body].typing(graph);
    let mut saturated = saturate(form, typing, &rules.exact, Limits::default(), true);
    let mut text = String::new();
    let mut seen = HashSet::new();
    for term in explained(&chosen.term, source.term) {
        let Some(place) = chosen.origins[usize::from(term)].iter().find_map(|i| form.places[*i]) else { continue };
        let (left, right) = (subterm(&form.term, place), subterm(&chosen.term, term));
        let mut explanation = saturated.classes.explain_equivalence(&left, &right);
        let steps = explanation.make_flat_explanation();
        for pair in steps.windows(2) {
            let Some((rule, before, after)) = changed(&pair[0], &pair[1]) else { continue };
            let (before, after) = (names.show(before, DEPTH), names.show(after, DEPTH));
            if seen.insert((rule.clone(), before.clone(), after.clone())) {
                let statement =
                    RULES.iter().find(|r| r.name == rule).map_or("numbers known now", |r| sentence(r.statement));
                let _ = write!(text, "{:3}. {rule}: {statement}\n     {before}\n  => {after}\n", seen.len());
            }
        }
    }
    if seen.is_empty() {
        text.push_str("  no rule made it: it stands in the model as it is\n");
    }
    Ok(text)
}

/// The values by which a node can be explained: itself, or of a bundle its results and the state it updates.
fn explained(term: &RecExpr<Term>, node: Id) -> Vec<Id> {
    let names_it = |(_, t): &(Id, &Term)| match t.as_op() {
        Some(Op::Part) => t.children[0] == node,
        Some(Op::After) => t.children[1] == node,
        _ => false,
    };
    let named: Vec<Id> = term.items().filter(names_it).map(|(id, _)| id).collect();
    if named.is_empty() { vec![node] } else { named }
}

/// The term of one node with all it needs.
fn subterm(term: &RecExpr<Term>, root: Id) -> RecExpr<Term> {
    term[root].build_recexpr(|id| term[id].clone())
}

/// The subterm that a step rewrites, before and after, and the rule's name.
fn changed<'a>(
    before: &'a FlatTerm<Term>,
    after: &'a FlatTerm<Term>,
) -> Option<(String, &'a FlatTerm<Term>, &'a FlatTerm<Term>)> {
    match (&after.forward_rule, &after.backward_rule) {
        (Some(rule), _) => Some((rule.to_string(), before, after)),
        (_, Some(rule)) => Some((rule.to_string(), after, before)),
        _ => before.children.iter().zip(&after.children).find_map(|(b, a)| changed(b, a)),
    }
}

/// A statement as it stands after a colon.
fn sentence(statement: &str) -> &str {
    statement.trim()
}

/// Names of what a body reads.
struct Names<'a> {
    graph: &'a Graph,
    body: &'a Body,
}

impl Names<'_> {
    fn show(&self, term: &FlatTerm<Term>, depth: usize) -> String {
        match term.node.head {
            Head::Op(_) | Head::Own(_) if depth == 0 => "…".into(),
            Head::Op(Op::Part) if term.children.get(1).is_some_and(|i| i.node.head == Head::Int(0)) => {
                term.children.first().map_or_else(String::new, |x| self.show(x, depth))
            }
            Head::Op(op) | Head::Own(op) => {
                let shown = term.children.iter().map(|child| self.show(child, depth - 1));
                let shown: Vec<String> = shown.collect();
                let given = shown.iter().take(op.def().operands.len()).filter(|text| *text != "_");
                let emission = shown
                    .iter()
                    .skip(op.def().operands.len())
                    .find(|text| ["squares", "router"].contains(&text.as_str()));
                let given: Vec<String> = given.cloned().chain(emission.map(|e| format!("emit {e}"))).collect();
                format!("{}({})", op.name(), given.join(", "))
            }
            Head::Leaf(i) => self.leaf(self.body.leaves[i as usize]),
            Head::Constant(i) => match self.body.constants.get(i as usize) {
                Some(value) => self.leaf(*value),
                None => "folded numbers".into(),
            },
            _ => term.node.to_string(),
        }
    }

    fn leaf(&self, value: ValueId) -> String {
        let name = &self.graph.node(value).name;
        if name.is_empty() { value.to_string() } else { name.clone() }
    }
}
