//! The interpreter: the definition of every op, against which kernels and rewrites are tested.
//!
//! It is written for clarity, not speed: values are f32 vectors, sums are made in f64, nothing is shared with the kernels but
//! the quantisation formats. A block-quantised activation is held as the values it stands for.

use std::collections::HashMap;

use crate::graph::{Graph, Node, NodeKind, ValueId};
use crate::op::{Op, PAGE_TOKENS};
use crate::quant;
use crate::types::{DType, Dim, TensorType};

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

type Values = Vec<Option<Tensor>>;

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
                NodeKind::Input => Some(bound(inputs.get(&node.name), node, &shape)?),
                NodeKind::Weight => Some(bound(self.weights.get(&node.name), node, &shape)?),
                NodeKind::Constant(v) => Some(Tensor::Real(v.clone())),
                NodeKind::State => {
                    let count = shape.iter().product();
                    self.states.entry(node.name.clone()).or_insert_with(|| vec![f32::NAN; count]);
                    None
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
            .filter_map(|(name, v)| Some((name.clone(), values.get(v.index())?.clone()?)))
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
    fn evaluate(&self, states: &mut HashMap<String, Vec<f32>>) -> Result<Option<Tensor>, InterpError> {
        let real = match self.op {
            Op::Embedding => self.embedding()?,
            Op::GatherRows => self.rows_of(self.real(0), self.ints(1), "row")?,
            Op::RmsNorm => self.rms_norm(),
            Op::QuantizeRows => self.quantize_rows(),
            Op::Matmul => self.matmul(),
            Op::SplitHeads | Op::MergeHeads => self.real(0).to_vec(),
            Op::Rope => self.rope(),
            Op::KvAppend => {
                self.kv_append(states)?;
                return Ok(None);
            }
            Op::Attention => self.attention(states)?,
            Op::Add => self.pairwise(|a, b| a + b),
            Op::Mul => self.pairwise(|a, b| a * b),
            Op::Glu => self.pairwise(|gate, up| silu(gate) * up),
        };
        Ok(Some(Tensor::Real(real)))
    }

    fn ty(&self, i: usize) -> &TensorType {
        &self.graph.node(self.operands[i]).ty
    }

    fn dim(&self, i: usize, d: usize) -> usize {
        size(self.ty(i).shape[d], self.symbols)
    }

    fn real(&self, i: usize) -> &[f32] {
        match self.values[self.operands[i].index()].as_ref() {
            Some(Tensor::Real(v)) => v,
            _ => &[],
        }
    }

    fn ints(&self, i: usize) -> &[i32] {
        match self.values[self.operands[i].index()].as_ref() {
            Some(Tensor::Int(v)) => v,
            _ => &[],
        }
    }

    fn out_of_range(&self, what: &'static str, index: i64) -> InterpError {
        InterpError::Index { node: self.index, op: self.op.name(), what, index }
    }

    fn pairwise(&self, f: impl Fn(f64, f64) -> f64) -> Vec<f32> {
        self.real(0).iter().zip(self.real(1)).map(|(a, b)| f(f64::from(*a), f64::from(*b)) as f32).collect()
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

    fn rms_norm(&self) -> Vec<f32> {
        let (weight, eps) = (self.real(1), self.node.float("eps").unwrap_or(0.0));
        let mut out = Vec::with_capacity(self.real(0).len());
        for row in self.real(0).chunks_exact(weight.len()) {
            let square: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
            let scale = 1.0 / (square / row.len() as f64 + eps).sqrt();
            out.extend(row.iter().zip(weight).map(|(x, w)| (f64::from(*x) * scale * f64::from(*w)) as f32));
        }
        out
    }

    fn quantize_rows(&self) -> Vec<f32> {
        let width = self.dim(0, 1);
        let mut out = Vec::with_capacity(self.real(0).len());
        for row in self.real(0).chunks_exact(width.max(1)) {
            out.extend(quant::activations::round_row(row));
        }
        out
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

    fn rope(&self) -> Vec<f32> {
        let (heads, head_dim) = (self.dim(0, 1), self.dim(0, 2));
        let (positions, inv_freq) = (self.ints(1), self.real(2));
        let interleaved = self.node.flag("interleaved").unwrap_or(false);
        let scale = self.node.float("scale").unwrap_or(1.0);
        let mut out = self.real(0).to_vec();
        for (row, head) in out.chunks_exact_mut(head_dim).enumerate() {
            let position = positions[row / heads] as f32;
            for (i, frequency) in inv_freq.iter().enumerate() {
                // The angle is rounded to f32, as in the implementations models are trained with.
                let (sin, cos) = f64::from(position * frequency).sin_cos();
                let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + inv_freq.len()) };
                let (x, y) = (f64::from(head[a]), f64::from(head[b]));
                head[a] = ((x * cos - y * sin) * scale) as f32;
                head[b] = ((x * sin + y * cos) * scale) as f32;
            }
        }
        out
    }

    /// The state behind a cache value: the end of its chain of appends.
    fn state_name(&self, mut value: ValueId) -> &str {
        while let Some(first) = self.graph.node(value).operands().first() {
            value = *first;
        }
        &self.graph.node(value).name
    }

    /// Index of element 0 of a position's head vector in the cache `[N, 2, kv_heads, 16, D]`.
    fn slot(
        &self,
        paged: &Paged,
        sequence: i32,
        position: i32,
        which: usize,
        head: usize,
    ) -> Result<usize, InterpError> {
        let position = u64::try_from(position).map_err(|_| self.out_of_range("position", position.into()))?;
        let sequence = usize::try_from(sequence).map_err(|_| self.out_of_range("sequence", sequence.into()))?;
        let (column, slot) = ((position / PAGE_TOKENS) as usize, (position % PAGE_TOKENS) as usize);
        let entry = (column < paged.columns).then(|| paged.table.get(sequence * paged.columns + column)).flatten();
        let page = *entry.ok_or_else(|| self.out_of_range("position", position as i64))?;
        let index = usize::try_from(page).ok().filter(|p| *p < paged.pages);
        let page = index.ok_or_else(|| self.out_of_range("page", page.into()))?;
        let row = ((page * 2 + which) * paged.kv_heads + head) * PAGE_TOKENS as usize + slot;
        Ok(row * paged.head_dim)
    }

    fn paged(&self, kv: usize, table: usize) -> Paged<'_> {
        Paged {
            table: self.ints(table),
            columns: self.dim(table, 1),
            pages: self.dim(kv, 0),
            kv_heads: self.dim(kv, 2),
            head_dim: self.dim(kv, 4),
        }
    }

    fn kv_append(&self, states: &mut HashMap<String, Vec<f32>>) -> Result<(), InterpError> {
        let paged = self.paged(0, 5);
        let half = self.ty(0).dtype == DType::F16;
        let Some(state) = states.get_mut(self.state_name(self.operands[0])) else { return Ok(()) };
        for (t, (position, sequence)) in self.ints(3).iter().zip(self.ints(4)).enumerate() {
            for (which, source) in [self.real(1), self.real(2)].into_iter().enumerate() {
                for head in 0..paged.kv_heads {
                    let to = self.slot(&paged, *sequence, *position, which, head)?;
                    let from = (t * paged.kv_heads + head) * paged.head_dim;
                    for d in 0..paged.head_dim {
                        let x = source[from + d];
                        state[to + d] = if half { half::f16::from_f32(x).to_f32() } else { x };
                    }
                }
            }
        }
        Ok(())
    }

    fn attention(&self, states: &HashMap<String, Vec<f32>>) -> Result<Vec<f32>, InterpError> {
        let paged = self.paged(1, 4);
        let heads = self.dim(0, 1);
        let Some(cache) = states.get(self.state_name(self.operands[1])) else { return Ok(Vec::new()) };
        let mut out = Vec::with_capacity(self.real(0).len());
        for (row, q) in self.real(0).chunks_exact(paged.head_dim).enumerate() {
            let (t, kv_head) = (row / heads, row % heads / (heads / paged.kv_heads));
            let (position, sequence) = (self.ints(2)[t], self.ints(3)[t]);
            out.extend(self.attend(&paged, cache, q, position, sequence, kv_head)?);
        }
        Ok(out)
    }

    fn attend(
        &self,
        paged: &Paged,
        cache: &[f32],
        q: &[f32],
        position: i32,
        sequence: i32,
        kv_head: usize,
    ) -> Result<Vec<f32>, InterpError> {
        let window = self.node.int("window").unwrap_or(0);
        let (scale, softcap) = (self.node.float("scale").unwrap_or(1.0), self.node.float("softcap").unwrap_or(0.0));
        let first = if window > 0 { (i64::from(position) - window + 1).max(0) as i32 } else { 0 };
        let mut scores = Vec::new();
        for key in first..=position {
            let at = self.slot(paged, sequence, key, 0, kv_head)?;
            let dot: f64 = q.iter().zip(&cache[at..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let score = dot * scale;
            scores.push(if softcap > 0.0 { softcap * (score / softcap).tanh() } else { score });
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let mut sum = vec![0f64; paged.head_dim];
        for (key, score) in (first..=position).zip(&scores) {
            let at = self.slot(paged, sequence, key, 1, kv_head)?;
            let weight = (score - max).exp() / total;
            sum.iter_mut().zip(&cache[at..]).for_each(|(s, v)| *s += weight * f64::from(*v));
        }
        Ok(sum.into_iter().map(|s| s as f32).collect())
    }
}

/// The cache's geometry and a step's page table.
struct Paged<'a> {
    table: &'a [i32],
    columns: usize,
    pages: usize,
    kv_heads: usize,
    head_dim: usize,
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}
