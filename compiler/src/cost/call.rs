//! A launch as the cost model sees it: operands and counts by the names of the catalog's fields, sizes at upper bounds.

use ir::op::{PAGE_TOKENS, page_bytes};
use ir::program::{Access, Arg, Launch, Program};
use ir::quant::{PANEL_ROWS, packed_bytes, row_bytes};
use ir::types::{DType, TensorType};

use super::{CONTEXT_TOKENS, DECODE_TOKENS, TargetSpec};
use crate::target::Target;

/// Fields of matrices that activations are multiplied with, [rows, columns] or a stack of these.
const MATRICES: [&str; 7] = ["w", "wq", "wk", "wv", "w_gate", "w_up", "router"];

/// Of those, the ones whose rows share the staged activations of another: a block computes the same rows of both.
const COMPANIONS: [&str; 2] = ["w_up", "router"];

/// A launch of a program.
pub(super) struct Call<'a> {
    program: &'a Program,
    /// The launch.
    pub launch: &'a Launch,
    bounds: Vec<u64>,
}

/// A matrix operand.
pub(super) struct Matrix {
    /// Matrices of the stack; `None` for a single matrix.
    pub stack: Option<u64>,
    /// Rows of one.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Whether its rows have blocks of their own.
    pub leads: bool,
}

impl<'a> Call<'a> {
    pub fn new(program: &'a Program, launch: &'a Launch) -> Call<'a> {
        Call { program, launch, bounds: program.upper_bounds() }
    }

    /// The argument of a field.
    pub fn arg(&self, field: &str) -> Option<&'a Arg> {
        self.launch.args.iter().find(|(name, _)| name == field).map(|(_, arg)| arg)
    }

    /// What an argument points to; `None` for a number or null.
    pub fn ty(&self, arg: &Arg) -> Option<&'a TensorType> {
        match arg {
            Arg::Buffer(id, _) => self.program.buffers.get(id.0 as usize).map(|b| &b.ty),
            Arg::Input(i) => self.program.inputs.get(*i as usize).map(|b| &b.ty),
            Arg::Weight(i) => self.program.weights.get(*i as usize).map(|b| &b.ty),
            Arg::State(i, _) => self.program.states.get(*i as usize).map(|b| &b.ty),
            Arg::Null | Arg::Size(_) | Arg::Float(_) => None,
        }
    }

    /// What a field points to; `None` for a number, null or no such field.
    pub fn operand(&self, field: &str) -> Option<&'a TensorType> {
        self.ty(self.arg(field)?)
    }

    /// The value of a count; `None` for a pointer or no such field.
    pub fn count(&self, field: &str) -> Option<u64> {
        match self.arg(field)? {
            Arg::Size(dims) => dims.iter().try_fold(1u64, |n, d| n.checked_mul(d.value(&self.bounds)?)),
            _ => None,
        }
    }

    /// Sizes of a tensor; the largest number for a symbol without a range.
    pub fn shape(&self, ty: &TensorType) -> Vec<u64> {
        ty.shape.iter().map(|d| d.value(&self.bounds).unwrap_or(u64::MAX)).collect()
    }

    /// Elements of a tensor.
    pub fn elements(&self, ty: &TensorType) -> u64 {
        product(&self.shape(ty))
    }

    /// Bytes of a row-major tensor.
    pub fn plain_bytes(&self, ty: &TensorType) -> u64 {
        ty.bytes(&self.bounds).unwrap_or(u64::MAX)
    }

    /// Tokens of the step: the field of that name, else the rows of the launch, else the program's symbol `T`.
    pub fn tokens(&self) -> u64 {
        let symbol = || self.program.symbols.iter().find(|s| s.name == "T").map(|s| s.max);
        self.count("tokens").or_else(symbol).unwrap_or(1)
    }

    /// Matrices that each token selects.
    pub fn slots(&self) -> u64 {
        self.count("slots").filter(|slots| *slots > 0).unwrap_or(1)
    }

    /// Every matrix operand.
    pub fn matrices(&self) -> impl Iterator<Item = (&'static str, Matrix)> + '_ {
        MATRICES.iter().filter_map(|field| {
            let shape = self.shape(self.operand(field)?);
            let [outer @ .., rows, cols] = shape.as_slice() else { return None };
            let stack = (!outer.is_empty()).then(|| product(outer));
            Some((*field, Matrix { stack, rows: *rows, cols: *cols, leads: !COMPANIONS.contains(field) }))
        })
    }

    /// Whether a field holds a matrix in packed panels.
    pub fn is_packed(field: &str) -> bool {
        MATRICES.contains(&field)
    }

    /// Matrices of the launch's stack, and how many of them the step's tokens can select.
    pub fn stack(&self) -> Option<(u64, u64)> {
        let stack = self.matrices().find_map(|(_, m)| m.stack).or_else(|| self.count("matrices"))?;
        Some((stack, stack.min(self.tokens().saturating_mul(self.slots()))))
    }

    /// Rows of activations that one matrix is multiplied with: a token's, once for each slot of a stack.
    pub fn product_rows(&self, matrix: &Matrix) -> u64 {
        self.tokens().saturating_mul(if matrix.stack.is_some() { self.slots() } else { 1 })
    }

    /// Blocks of rows that each stage the activations, a stack counted as one matrix.
    pub fn row_blocks(&self, spec: &TargetSpec) -> u64 {
        self.matrices().filter(|(_, m)| m.leads).map(|(_, m)| m.rows.div_ceil(spec.block_rows)).sum()
    }

    /// How often a row of activations is staged, over all blocks.
    pub fn staged_rows(&self, spec: &TargetSpec) -> u64 {
        let staged = |m: Matrix| self.product_rows(&m).saturating_mul(m.rows.div_ceil(spec.block_rows));
        self.matrices().filter(|(_, m)| m.leads).fold(0, |sum, (_, m)| sum.saturating_add(staged(m)))
    }

    /// Whether a launch of its own makes operands of the activations before the one that multiplies, as GPU kernels do for more tokens
    /// than decode: norm, rounding and routing are then done once, and the tokens of each matrix of a stack are gathered.
    pub fn prepares(&self, spec: &TargetSpec) -> bool {
        let on_gpu = || matches!(spec.name.parse(), Ok(Target::Cuda(_)));
        !self.decodes() && self.matrices().next().is_some() && on_gpu()
    }

    /// The activations that are multiplied.
    pub fn activations_read(&self) -> Option<&'a TensorType> {
        self.operand("x").or_else(|| self.operand("h"))
    }

    /// Columns of the staged activations.
    pub fn staged_cols(&self) -> u64 {
        self.matrices().find(|(_, m)| m.leads).map_or(0, |(_, m)| m.cols)
    }

    /// Whether the step decodes: one token a sequence.
    fn decodes(&self) -> bool {
        self.tokens() <= DECODE_TOKENS
    }

    /// Positions that a token of this launch can see: those of the context, of the window and of the page table.
    fn visible(&self, context: u64) -> u64 {
        let window = self.count("window").filter(|w| *w > 0).unwrap_or(u64::MAX);
        let table = self.count("page_table_stride").map_or(u64::MAX, |pages| pages.saturating_mul(PAGE_TOKENS));
        context.min(window).min(table)
    }

    /// Different positions of the cache that the launch reads.
    pub fn positions_read(&self) -> u64 {
        if self.decodes() { self.tokens().saturating_mul(self.visible(CONTEXT_TOKENS)) } else { self.tokens() }
    }

    /// Pairs of a token and a position it sees.
    pub fn attended_pairs(&self) -> u64 {
        if self.decodes() {
            return self.positions_read();
        }
        // Token i of a chunk sees i + 1 positions, up to the window.
        let (tokens, seen) = (self.tokens(), self.visible(self.tokens()));
        let growing = (u128::from(seen) * (u128::from(seen) + 1)) / 2;
        let full = u128::from(tokens - seen) * u128::from(seen);
        u64::try_from(growing + full).unwrap_or(u64::MAX)
    }

    /// Entries of the page table behind the positions read.
    pub fn pages_read(&self) -> u64 {
        if self.decodes() {
            self.tokens().saturating_mul(self.visible(CONTEXT_TOKENS).div_ceil(PAGE_TOKENS))
        } else {
            self.tokens().div_ceil(PAGE_TOKENS)
        }
    }

    /// Bytes of one token in a cache [pages, planes, heads, tokens, head dim].
    pub fn token_bytes(&self, cache: &TensorType) -> u64 {
        let [_, planes, heads, _, head_dim] = self.shape(cache)[..] else { return 0 };
        page_bytes(cache.dtype, planes, heads, head_dim).map_or(u64::MAX, |page| page / PAGE_TOKENS)
    }

    /// The type products take their activations in, by the variant's words for it: `q4_0.q8x32`, `q4_0.f32.block` and
    /// `q4_0.f32.half` (f32 in memory, rounded by the launch).
    pub fn activations(&self) -> Option<DType> {
        let stored = DType::from_name(self.launch.variant.split('.').nth(1)?)?;
        Some(self.rounded_to().unwrap_or(stored))
    }

    /// Whether the launch rounds the activations it stages.
    pub fn rounds(&self) -> bool {
        self.rounded_to().is_some()
    }

    fn rounded_to(&self) -> Option<DType> {
        self.launch.variant.split('.').skip(2).find_map(|word| match word {
            "block" | "row" => Some(DType::Q8X32),
            "half" => Some(DType::F16),
            _ => None,
        })
    }
}

/// Whether an argument is written.
pub(super) fn writes(arg: &Arg) -> bool {
    matches!(arg, Arg::Buffer(_, Access::Write | Access::Update) | Arg::State(_, Access::Write | Access::Update))
}

/// Bytes of one packed matrix, or of a stack's.
pub(super) fn packed(dtype: DType, rows: u64, cols: u64) -> u64 {
    packed_bytes(dtype, rows, cols).unwrap_or(u64::MAX)
}

/// Bytes of the panel that one row of a table lies in: rows of a panel share cache lines.
pub(super) fn panel(dtype: DType, cols: u64) -> u64 {
    packed(dtype, PANEL_ROWS as u64, cols)
}

/// Bytes of a row of activations.
pub(super) fn activation_row(dtype: DType, cols: u64) -> u64 {
    row_bytes(dtype, cols).unwrap_or(u64::MAX)
}

/// The product of sizes, the largest number if there is none.
pub(super) fn product(sizes: &[u64]) -> u64 {
    sizes.iter().fold(1, |n: u64, s| n.saturating_mul(*s))
}
