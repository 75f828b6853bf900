//! Rounds activations before products: to 8 bits where weights are integers, or to f16 everywhere.
//!
//! Integer products are exact and on a cpu several times faster than dequantising each weight; the price is the rounding of the
//! activation, one part in 254 of its block's largest value. Tensor cores multiply f16: one part in 2048 of each value. Products that
//! share an input share its rounding. A router's scores stay f32 with f16 activations as well: which experts a token takes turns on
//! differences smaller than that.

use std::collections::{HashMap, HashSet};

use ir::graph::{Graph, GraphError, Node, NodeKind, ValueId};
use ir::op::{Attr, Op};
use ir::quant;
use ir::types::DType;

use crate::rewrite::{keep, rebuild};
use crate::target::Activations;

/// Inserts `quantize_rows` before each product that takes its activations rounded: for [`Activations::Int8`] those whose weight is
/// stored in blocks, for [`Activations::F16`] all but a router's.
pub fn quantise_activations(graph: &Graph, activations: Activations) -> Result<Graph, GraphError> {
    let granularity = match activations {
        Activations::F32 => return Ok(graph.clone()),
        Activations::F16 => "half",
        Activations::Int8 => "block",
    };
    let router_products = router_products(graph);
    let mut rounded = HashMap::new();
    rebuild(graph, |new, old, mut node| {
        let is_product = node.op().is_some_and(is_product);
        if let NodeKind::Op { operands, .. } = &mut node.kind
            && is_product
        {
            let (x, w) = (operands[0], operands[1]);
            let takes_rounded = match activations {
                Activations::Int8 => quant::format(new.node(w).ty.dtype).is_some_and(|f| f.is_integer()),
                _ => !router_products.contains(&old),
            };
            // What the model itself rounds is rounded already.
            if takes_rounded && new.node(x).ty.dtype == DType::F32 {
                operands[0] = match rounded.get(&x) {
                    Some(value) => *value,
                    None => {
                        let attributes = [("granularity", Attr::Str(granularity.into()))];
                        let label = label_of(new, x);
                        let value = new.op(Op::QuantizeRows, &[x], &attributes, &label)?;
                        rounded.insert(x, value);
                        value
                    }
                };
            }
        }
        Ok(keep(new, node))
    })
}

fn is_product(op: Op) -> bool {
    matches!(op, Op::Matmul | Op::GroupedMatmul | Op::HeadMatmul)
}

/// The products that routers select by, through whatever is done to their results element by element.
fn router_products(graph: &Graph) -> HashSet<ValueId> {
    let selects = |node: &&Node| matches!(node.op(), Some(Op::Router | Op::RouterWeights));
    let mut waiting: Vec<ValueId> = graph.nodes.iter().filter(selects).filter_map(|node| node.operand(0)).collect();
    let (mut seen, mut products) = (HashSet::new(), HashSet::new());
    while let Some(value) = waiting.pop() {
        let node = graph.node(value);
        let Some(op) = node.op().filter(|_| seen.insert(value)) else { continue };
        if is_product(op) {
            products.insert(value);
        } else if op.is_view() || matches!(op, Op::Add | Op::Mul | Op::Scale | Op::Softcap | Op::Cast) {
            waiting.extend(node.given());
        }
    }
    products
}

/// The label of a value, or of what it is a view of.
fn label_of(graph: &Graph, mut value: ValueId) -> String {
    while let (true, Some(x)) = (graph.node(value).op().is_some_and(Op::is_view), graph.node(value).operand(0)) {
        value = x;
    }
    graph.node(value).name.clone()
}

#[cfg(test)]
mod tests {
    use ir::types::TensorType;

    use super::*;

    fn ty(dtype: DType, shape: &[u64]) -> TensorType {
        TensorType::new(dtype, shape.iter().map(|d| ir::types::Dim::Const(*d)).collect::<Vec<_>>())
    }

    /// One input read by a router, through a soft cap, and by two products: of floats and of integers.
    fn mixture() -> Graph {
        let mut g = Graph::new("mixture");
        let x = g.input("x", ty(DType::F32, &[2, 32]));
        let weights = [("router", DType::F32), ("floats", DType::BF16), ("integers", DType::Q8_0)];
        let [router, floats, integers] = weights.map(|(name, dtype)| {
            let w = g.weight(name, ty(dtype, &[4, 32]));
            g.op(Op::Matmul, &[x, w], &[], name).unwrap()
        });
        let logits = g.op(Op::Softcap, &[router], &[("cap", Attr::Float(30.0))], "").unwrap();
        let one = Attr::Int(1);
        let attributes = [
            ("k", one.clone()),
            ("scoring", Attr::Str("softmax".into())),
            ("groups", one.clone()),
            ("top_groups", one),
        ];
        let experts = g.op(Op::Router, &[logits], &attributes, "").unwrap();
        for (name, value) in [("floats", floats), ("integers", integers), ("experts", experts)] {
            g.output(name, value);
        }
        g
    }

    /// The type of the rows that each product reads, by the product's label.
    fn inputs(graph: &Graph) -> HashMap<&str, (Option<&str>, DType)> {
        let products = graph.nodes.iter().filter(|n| n.op().is_some_and(is_product));
        products
            .map(|n| {
                let x = graph.node(n.operands()[0]);
                (n.name.as_str(), (x.word("granularity"), x.ty.dtype))
            })
            .collect()
    }

    #[test]
    fn products_take_what_the_mode_says_and_routers_f32() {
        let graph = mixture();
        let (plain, half, block) = ((None, DType::F32), (Some("half"), DType::F32), (Some("block"), DType::Q8X32));
        for (activations, floats, integers) in
            [(Activations::F32, plain, plain), (Activations::F16, half, half), (Activations::Int8, plain, block)]
        {
            let rounded = quantise_activations(&graph, activations).unwrap();
            let expected = HashMap::from([("router", plain), ("floats", floats), ("integers", integers)]);
            assert_eq!(inputs(&rounded), expected, "{activations}");
            let roundings = rounded.nodes.iter().filter(|n| n.op() == Some(Op::QuantizeRows)).count();
            assert_eq!(roundings, usize::from(activations != Activations::F32), "{activations}");
        }
    }
}
