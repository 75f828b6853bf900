//! Where the bytes of a graph's weights come from.
//!
//! A weight is seldom just a tensor of the checkpoint: it may be some rows of a fused projection, a stack of experts that
//! are stored one by one, the transpose of what is stored, or a matrix of a quantised checkpoint that stands in several tensors of
//! integers and scales. The family says which ([`WeightSource`]); the [`Resolver`] looks at headers only and says in what format
//! it will be; the [`WeightReader`] gives its rows. Integers of quantised checkpoints are carried over, never requantised.

mod assembler;
mod assumed;
mod columnwise;
mod floats;
mod groups;
mod reader;
mod resolver;
mod rowwise;
mod scheme;
mod stored;
mod ternary;
mod transpose;

use std::collections::BTreeMap;

pub use reader::WeightReader;
pub use resolver::{ResolvedMatrix, Resolver, StackOrder};

/// Which rows of a stored matrix a weight takes: its row `i` is `start + (i / run) · period + i % run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSelection {
    start: u64,
    run: u64,
    period: u64,
}

impl RowSelection {
    /// All rows, as many as the matrix has.
    pub fn all() -> RowSelection {
        RowSelection { start: 0, run: u64::MAX, period: u64::MAX }
    }

    /// Rows that follow each other.
    pub fn range(start: u64) -> RowSelection {
        RowSelection { start, run: u64::MAX, period: 0 }
    }

    /// Every `step`-th row.
    pub fn every(offset: u64, step: u64) -> RowSelection {
        RowSelection { start: offset, run: 1, period: step }
    }

    /// Of each `period` rows (at least `run`), those of one head, the `run` from `offset` on.
    pub fn heads(offset: u64, run: u64, period: u64) -> RowSelection {
        RowSelection { start: offset, run: run.max(1), period: period.max(run) }
    }

    /// The same rows, but no more than `len`: those past it count as past the matrix's end.
    pub fn bounded(&self, len: u64) -> RowSelection {
        match self.run {
            u64::MAX => RowSelection { run: len.max(1), period: u64::MAX, ..*self },
            _ => self.clone(),
        }
    }

    /// Rows that follow each other before the first gap; `None` if there is none.
    fn rows_in_run(&self) -> Option<u64> {
        (self.run != u64::MAX).then_some(self.run)
    }

    /// The stored row of row `i`; at most `u64::MAX`.
    pub fn row(&self, i: u64) -> u64 {
        (i / self.run).saturating_mul(self.period).saturating_add(i % self.run).saturating_add(self.start)
    }

    /// The stored row of the last of `len` rows.
    pub fn last(&self, len: u64) -> u64 {
        self.row(len.saturating_sub(1))
    }

    /// Rows from row `i` on that follow each other in the stored matrix too, at most `most`.
    fn adjacent(&self, i: u64, most: u64) -> u64 {
        if self.run == 1 && self.period == 1 { most } else { most.min(self.run - i % self.run) }
    }

    /// The distance of rows of which none follow each other.
    fn stride(&self) -> Option<u64> {
        (self.run == 1 && self.period > 1).then_some(self.period)
    }

    fn is_all(&self) -> bool {
        *self == RowSelection::all()
    }
}

/// One matrix of the checkpoint, as a family names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixSource {
    /// The module (`model.layers.0.self_attn.q_proj`), whose `.weight`, `.qweight` or `.weight_packed` is looked for, or a bare
    /// tensor (`….experts.gate_up_proj`, also as `_blocks` and `_scales`).
    pub module: String,
    /// Index into the first dimension of a tensor of rank 3.
    pub expert: Option<u64>,
    /// Its rows. Of a transposed expert, rows after transposing; of another transposed matrix, rows before, which must be bounded.
    pub rows: RowSelection,
    /// Whether the weight is the transpose of what is stored.
    pub transposed: bool,
}

/// Where a weight's bytes come from.
#[derive(Clone, Debug, PartialEq)]
pub enum WeightSource {
    /// A matrix `[N, K]`.
    Matrix(MatrixSource),
    /// Matrices of one shape and format, `[E, N, K]`.
    Stack(Vec<MatrixSource>),
    /// Elements of a vector, widened to f32, plus `add`.
    Vector {
        /// The tensor.
        tensor: String,
        /// Its elements.
        rows: RowSelection,
        /// What is added to each: 1 for norms that multiply by 1 + weight.
        add: f32,
    },
    /// Vectors of one length, `[E, n]`: of each the tensor, its row if the tensor is a matrix, and the elements.
    VectorStack(Vec<(String, Option<u64>, RowSelection)>),
    /// The order i32 `[K]`, or `[E, K]` if stacked, in which the columns of quantised modules are stored: position `p` holds
    /// column `order[p]`.
    ColumnOrder {
        /// The modules.
        modules: Vec<String>,
        /// Whether each has a row of its own; otherwise the first stands for all.
        stacked: bool,
    },
}

/// The sources of a graph's weights by name. A weight that is not in it is the checkpoint's tensor of its own name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightTable(BTreeMap<String, WeightSource>);

impl WeightTable {
    /// Adds a weight's source.
    pub fn insert(&mut self, name: &str, source: WeightSource) {
        self.0.insert(name.into(), source);
    }

    /// The source of a weight, if it is more than the tensor of its name.
    pub fn get(&self, name: &str) -> Option<&WeightSource> {
        self.0.get(name)
    }
}

#[cfg(test)]
mod tests;
