//! Rounds activations to 8 bits before products with quantised weights.
//!
//! Integer products are exact and several times faster than dequantising each weight; the price is the rounding of the
//! activation, one part in 254 of its block's largest value. Products that share an input share its rounding.

use std::collections::HashMap;

use ir::graph::{Graph, GraphError, NodeKind, ValueId};
use ir::op::{Attr, Op};
use ir::quant;
use ir::types::DType;

use crate::rewrite::{keep, rebuild};

/// Inserts `quantize_rows` before each matmul whose weight is stored in blocks.
pub fn quantise_activations(graph: &Graph) -> Result<Graph, GraphError> {
    let mut rounded = HashMap::new();
    rebuild(graph, |new, _, mut node| {
        if let NodeKind::Op { op: Op::Matmul | Op::GroupedMatmul | Op::HeadMatmul, operands, .. } = &mut node.kind {
            let (x, w) = (operands[0], operands[1]);
            // What the model itself rounds is rounded already.
            let is_real = new.node(x).ty.dtype == DType::F32;
            if is_real && quant::format(new.node(w).ty.dtype).is_some_and(|f| f.is_integer()) {
                operands[0] = match rounded.get(&x) {
                    Some(value) => *value,
                    None => {
                        let granularity = [("granularity", Attr::Str("block".into()))];
                        let label = label_of(new, x);
                        let value = new.op(Op::QuantizeRows, &[x], &granularity, &label)?;
                        rounded.insert(x, value);
                        value
                    }
                };
            }
        }
        Ok(keep(new, node))
    })
}

/// The label of a value, or of what it is a view of.
fn label_of(graph: &Graph, mut value: ValueId) -> String {
    while let (true, Some(x)) = (graph.node(value).op().is_some_and(Op::is_view), graph.node(value).operand(0)) {
        value = x;
    }
    graph.node(value).name.clone()
}
