//! The interpreter: the definition of every op, against which kernels and rewrites are tested.
//!
//! It is written for clarity, not speed: values are f32 vectors, sums are made in f64, nothing is shared with the kernels but
//! the quantisation formats. A block-quantised activation is held as the values it stands for.

use std::collections::HashMap;

use crate::graph::{Graph, Node, NodeKind, ValueId};
use crate::op::Op;
use crate::types::{DType, Dim, TensorType};

mod attention;
mod elementwise;
mod fused;
mod mixture;

/// A tensor's values, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// Real numbers of any storage type.
    Real(Vec<f32>),
    /// Integers.
    Int(Vec<i32>),
}

/// Why a step could not be interpreted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpError {
    /// An input or weight is missing or has the wrong number or kind of elements.
    #[error("{name:?}: expected {expected} elements of type {dtype}")]
    Binding {
        /// Its name.
        name: String,
        /// Elements its type has.
        expected: u64,
        /// Element type.
        dtype: DType,
    },
    /// An index points outside what it indexes.
    #[error("node %{node} ({op}): {what} {index} is out of range")]
    Index {
        /// The node.
        node: u32,
        /// Its op.
        op: &'static str,
        /// Which index.
        what: &'static str,
        /// Its value.
        index: i64,
    },
    /// A fused op cannot be expanded.
    #[error("node %{node} ({op}): {what}")]
    Expansion {
        /// The node.
        node: u32,
        /// Its op.
        op: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A symbol's value is missing or out of its range.
    #[error("symbol {name} has no value in {min}..={max}")]
    Symbol {
        /// The symbol.
        name: String,
        /// Its smallest value.
        min: u64,
        /// Its largest value.
        max: u64,
    },
}

/// Interprets a graph step by step; states persist between steps.
pub struct Interpreter<'a> {
    graph: &'a Graph,
    weights: HashMap<String, Tensor>,
    states: HashMap<String, Vec<f32>>,
}

/// The results of each node; a state has none.
type Values = Vec<Vec<Tensor>>;

impl<'a> Interpreter<'a> {
    /// An interpreter over a graph and its weights by name, dequantised. States start as NaN, so that a read of what
    /// was never written shows.
    pub fn new(graph: &'a Graph, weights: HashMap<String, Tensor>) -> Interpreter<'a> {
        Interpreter { graph, weights, states: HashMap::new() }
    }

    /// Runs one step. `symbols` gives the value of each symbol of the graph in table order.
    pub fn step(
        &mut self,
        symbols: &[u64],
        inputs: &HashMap<String, Tensor>,
    ) -> Result<HashMap<String, Tensor>, InterpError> {
        for (i, s) in self.graph.symbols.iter().enumerate() {
            if !symbols.get(i).is_some_and(|v| (s.min..=s.max).contains(v)) {
                return Err(InterpError::Symbol { name: s.name.clone(), min: s.min, max: s.max });
            }
        }
        let mut values: Values = Vec::with_capacity(self.graph.nodes.len());
        for (value, node) in self.graph.values() {
            let shape: Vec<usize> = node.ty.shape.iter().map(|d| size(*d, symbols)).collect();
            let result = match &node.kind {
                NodeKind::Input => vec![bound(inputs.get(&node.name), node, &shape)?],
                NodeKind::Weight => vec![bound(self.weights.get(&node.name), node, &shape)?],
                NodeKind::Constant(v) => vec![Tensor::Real(v.clone())],
                NodeKind::State => {
                    let count = shape.iter().product();
                    self.states.entry(node.name.clone()).or_insert_with(|| vec![f32::NAN; count]);
                    Vec::new()
                }
                NodeKind::Op { op, operands, .. } => {
                    let step =
                        Step { graph: self.graph, node, index: value.0, op: *op, operands, values: &values, symbols };
                    step.evaluate(&mut self.states)?
                }
            };
            values.push(result);
        }
        Ok(self
            .graph
            .outputs
            .iter()
            .filter_map(|(name, v)| Some((name.clone(), values.get(v.index())?.first()?.clone())))
            .collect())
    }
}

fn size(dim: Dim, symbols: &[u64]) -> usize {
    dim.value(symbols).unwrap_or(0) as usize
}

fn bound(tensor: Option<&Tensor>, node: &Node, shape: &[usize]) -> Result<Tensor, InterpError> {
    let count: usize = shape.iter().product();
    match tensor {
        Some(Tensor::Real(v)) if node.ty.dtype.is_real() && v.len() == count => Ok(Tensor::Real(v.clone())),
        Some(Tensor::Int(v)) if !node.ty.dtype.is_real() && v.len() == count => Ok(Tensor::Int(v.clone())),
        _ => Err(InterpError::Binding { name: node.name.clone(), expected: count as u64, dtype: node.ty.dtype }),
    }
}

/// One op of one step, with access to its operands.
struct Step<'a> {
    graph: &'a Graph,
    node: &'a Node,
    index: u32,
    op: Op,
    operands: &'a [ValueId],
    values: &'a Values,
    symbols: &'a [u64],
}

impl Step<'_> {
    fn evaluate(&self, states: &mut HashMap<String, Vec<f32>>) -> Result<Vec<Tensor>, InterpError> {
        let real = match self.op {
            Op::Embedding => self.embedding()?,
            Op::GatherRows => self.rows_of(self.real(0), self.ints(1), "row")?,
            Op::RmsNorm => self.rms_norm(),
            Op::QuantizeRows => self.quantize_rows(),
            Op::Matmul => self.matmul(),
            Op::SplitHeads | Op::MergeHeads => self.real(0).to_vec(),
            Op::Rope => self.rope()?,
            Op::KvAppend => {
                self.kv_append(states)?;
                return Ok(Vec::new());
            }
            Op::Attention => self.attention(states)?,
            Op::Add => self.pairwise(|a, b| a + b),
            Op::Mul => self.pairwise(|a, b| a * b),
            Op::Scale => self.elementwise(|x| x * self.attribute("factor")),
            Op::Softcap => self.elementwise(|x| self.attribute("cap") * (x / self.attribute("cap")).tanh()),
            Op::SigmoidGate => self.sigmoid_gate(),
            Op::Glu => self.glu(),
            Op::Concat => self.concat(),
            Op::LayerNorm => self.layer_norm(),
            Op::HeadMatmul => self.head_matmul(),
            Op::PermuteColumns => self.permute_columns()?,
            Op::Router => return Ok(vec![Tensor::Int(self.router())]),
            Op::RouterWeights => self.router_weights()?,
            Op::GroupedMatmul => self.grouped_matmul()?,
            Op::Combine => self.combine(),
            Op::After => return Ok(Vec::new()),
            Op::Part => return Ok(self.further_result().into_iter().collect()),
            Op::Cast => self.cast(),
            Op::ScaleColumns => self.scale_columns(),
            Op::SquareSums => self.square_sums(),
            Op::ScaleRows => self.scale_rows(),
            Op::ColumnPartials => self.column_partials(),
            Op::FinishLogits => self.finish_logits(),
            _ => return self.expanded(states),
        };
        Ok(vec![Tensor::Real(real)])
    }

    fn ty(&self, i: usize) -> &TensorType {
        &self.graph.node(self.operands[i]).ty
    }

    fn dim(&self, i: usize, d: usize) -> usize {
        size(self.ty(i).shape[d], self.symbols)
    }

    /// The first result of what defines operand `i`.
    fn tensor(&self, i: usize) -> Option<&Tensor> {
        self.values[self.node.operand(i)?.index()].first()
    }

    fn real(&self, i: usize) -> &[f32] {
        match self.tensor(i) {
            Some(Tensor::Real(v)) => v,
            _ => &[],
        }
    }

    fn ints(&self, i: usize) -> &[i32] {
        match self.tensor(i) {
            Some(Tensor::Int(v)) => v,
            _ => &[],
        }
    }

    /// A float attribute, which the op table guarantees.
    fn attribute(&self, name: &str) -> f64 {
        self.node.float(name).unwrap_or(0.0)
    }

    /// An integer attribute, which the op table guarantees.
    fn count(&self, name: &str) -> usize {
        self.node.int(name).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }

    /// Length of the last dimension of an operand.
    fn width(&self, i: usize) -> usize {
        self.ty(i).shape.last().map_or(0, |d| size(*d, self.symbols))
    }

    fn out_of_range(&self, what: &'static str, index: i64) -> InterpError {
        InterpError::Index { node: self.index, op: self.op.name(), what, index }
    }

    fn embedding(&self) -> Result<Vec<f32>, InterpError> {
        self.rows_of(self.real(0), self.ints(1), "token id")
    }

    fn rows_of(&self, matrix: &[f32], rows: &[i32], what: &'static str) -> Result<Vec<f32>, InterpError> {
        let (count, width) = (self.dim(0, 0), self.dim(0, 1));
        let mut out = Vec::with_capacity(rows.len() * width);
        for &row in rows {
            let index = usize::try_from(row).ok().filter(|r| *r < count);
            let start = index.ok_or_else(|| self.out_of_range(what, row.into()))? * width;
            out.extend_from_slice(&matrix[start..start + width]);
        }
        Ok(out)
    }

    fn matmul(&self) -> Vec<f32> {
        let (x, w, width) = (self.real(0), self.real(1), self.dim(0, 1).max(1));
        let bias = if self.operands.len() > 2 { self.real(2) } else { &[] };
        let mut out = Vec::with_capacity(self.dim(0, 0) * self.dim(1, 0));
        for row in x.chunks_exact(width) {
            for (n, column) in w.chunks_exact(width).enumerate() {
                let sum: f64 = row.iter().zip(column).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                out.push((sum + bias.get(n).map_or(0.0, |b| f64::from(*b))) as f32);
            }
        }
        out
    }
}
