//! Rounds activations to 8 bits before products with quantised weights.
//!
//! Integer products are exact and several times faster than dequantising each weight; the price is the rounding of the
//! activation, one part in 254 of its block's largest value. Products that share an input share its rounding.

use std::collections::HashMap;

use ir::graph::{Graph, GraphError, NodeKind};
use ir::op::Op;

use crate::rewrite::{keep, rebuild};

/// Inserts `quantize_rows` before each matmul whose weight is stored in blocks.
pub fn quantise_activations(graph: &Graph) -> Result<Graph, GraphError> {
    let mut rounded = HashMap::new();
    rebuild(graph, |new, _, mut node| {
        if let NodeKind::Op { op: Op::Matmul, operands, .. } = &mut node.kind {
            let (x, w) = (operands[0], operands[1]);
            if new.node(w).ty.dtype.is_block() {
                operands[0] = match rounded.get(&x) {
                    Some(value) => *value,
                    None => {
                        let label = new.node(x).name.clone();
                        let value = new.op(Op::QuantizeRows, &[x], &[], &label)?;
                        rounded.insert(x, value);
                        value
                    }
                };
            }
        }
        Ok(keep(new, node))
    })
}
