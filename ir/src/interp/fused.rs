//! Ops that fusion introduces: partial sums, scales of rows and columns, and fused ops by their expansions.

use std::collections::HashMap;

use super::{InterpError, Interpreter, Step, Tensor};
use crate::expand::expansion;
use crate::graph::NodeKind;
use crate::op::PANEL_COLUMNS;
use crate::types::{DType, TensorType};

impl Step<'_> {
    /// The result of the operand's node that the attribute names.
    pub(super) fn further_result(&self) -> Option<Tensor> {
        self.values[self.operands[0].index()].get(self.count("index")).cloned()
    }

    pub(super) fn cast(&self) -> Vec<f32> {
        let round = |x: &f32| match self.node.ty.dtype {
            DType::F16 => half::f16::from_f32(*x).to_f32(),
            DType::BF16 => half::bf16::from_f32(*x).to_f32(),
            _ => *x,
        };
        self.real(0).iter().map(round).collect()
    }

    pub(super) fn scale_columns(&self) -> Vec<f32> {
        let w = self.real(1);
        let rows = self.real(0).chunks_exact(w.len().max(1));
        rows.flat_map(|row| row.iter().zip(w).map(|(x, w)| (f64::from(*x) * f64::from(*w)) as f32)).collect()
    }

    pub(super) fn square_sums(&self) -> Vec<f32> {
        let rows = self.real(0).chunks_exact(self.width(0).max(1));
        let sum = |panel: &[f32]| panel.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() as f32;
        rows.flat_map(|row| row.chunks(PANEL_COLUMNS as usize).map(sum)).collect()
    }

    /// The reciprocal root mean square of each token's row, by its sums of squares, operand 1.
    fn reciprocal_rms(&self) -> Vec<f64> {
        let (width, eps) = (self.count("width") as f64, self.attribute("eps"));
        let sums = self.real(1).chunks_exact(self.width(1).max(1));
        sums.map(|s| 1.0 / (s.iter().map(|s| f64::from(*s)).sum::<f64>() / width + eps).sqrt()).collect()
    }

    pub(super) fn scale_rows(&self) -> Vec<f32> {
        let (scales, bias) = (self.reciprocal_rms(), self.real_or_empty(2));
        let row = self.real(0).len() / scales.len().max(1);
        let scaled = |(row, scale): (&[f32], f64)| {
            let bias = |i: usize| bias.get(i).map_or(0.0, |b| f64::from(*b));
            row.iter().enumerate().map(|(i, y)| (f64::from(*y) * scale + bias(i)) as f32).collect::<Vec<_>>()
        };
        self.real(0).chunks_exact(row.max(1)).zip(scales).flat_map(scaled).collect()
    }

    pub(super) fn column_partials(&self) -> Vec<f32> {
        let (norm, w, width) = (self.real(1), self.real(2), self.width(0).max(1));
        let mut out = Vec::new();
        for x in self.real(0).chunks_exact(width) {
            for start in (0..width).step_by(PANEL_COLUMNS as usize) {
                let panel = start..width.min(start + PANEL_COLUMNS as usize);
                for w in w.chunks_exact(width) {
                    let terms = panel.clone().map(|c| f64::from(x[c]) * f64::from(norm[c]) * f64::from(w[c]));
                    out.push(terms.sum::<f64>() as f32);
                }
            }
        }
        out
    }

    pub(super) fn finish_logits(&self) -> Vec<f32> {
        let (panels, experts, bias) = (self.dim(0, 1), self.dim(0, 2).max(1), self.real_or_empty(2));
        let tokens = self.real(0).chunks_exact((panels * experts).max(1)).zip(self.reciprocal_rms());
        let mut out = Vec::new();
        for (partials, scale) in tokens {
            for e in 0..experts {
                let sum: f64 = partials.iter().skip(e).step_by(experts).map(|p| f64::from(*p)).sum();
                out.push((scale * sum + bias.get(e).map_or(0.0, |b| f64::from(*b))) as f32);
            }
        }
        out
    }

    fn real_or_empty(&self, i: usize) -> &[f32] {
        if i < self.operands.len() { self.real(i) } else { &[] }
    }

    /// A fused op's results: those of its expansion, which works on the same states.
    pub(super) fn expanded(&self, states: &mut HashMap<String, Vec<f32>>) -> Result<Vec<Tensor>, InterpError> {
        let NodeKind::Op { attributes, .. } = &self.node.kind else { return Ok(Vec::new()) };
        let types: Vec<Option<&TensorType>> =
            (0..self.operands.len()).map(|i| self.node.operand(i).map(|v| &self.graph.node(v).ty)).collect();
        let failed = |what| InterpError::Expansion { node: self.index, op: self.op.name(), what };
        let graph = expansion(self.op, &types, attributes, &self.graph.symbols).map_err(failed)?;
        let mut inner = Interpreter::new(&graph, HashMap::new());
        let cache = self.op.def().operands.iter().position(|name| *name == "kv");
        let cache = cache.map(|i| (i.to_string(), self.state_name(self.operands[i]).to_string()));
        if let Some((name, state)) = &cache {
            inner.states.extend(states.remove(state).map(|s| (name.clone(), s)));
        }
        let given = (0..self.operands.len()).filter_map(|i| Some((i.to_string(), self.tensor(i)?.clone())));
        let outputs = inner.step(self.symbols, &given.collect());
        if let Some((name, state)) = cache {
            states.extend(inner.states.remove(&name).map(|s| (state, s)));
        }
        let mut outputs = outputs?;
        Ok((0..graph.outputs.len()).filter_map(|i| outputs.remove(&i.to_string())).collect())
    }
}
