//! What the products of packed weights have in common: constants of a variant, sizes of shared memory, the choice of a path.
//!
//! Mirrors `activations.cuh`, `product.cuh` and `product_gemm.cuh`.

use ir::quant::fragments;
use ir::types::DType;

use super::{Constraint, Define, SHARED_BYTES};

/// Slices K is cut into, and warps of a block.
pub const SLICES: u32 = 8;

/// Threads of a block.
pub const THREADS: u32 = 32 * SLICES;

/// Tokens of one mma, and the most the few-token path takes.
pub const COLUMNS: u32 = 8;

/// Statistics and factors at the start of the few-token path's shared memory.
const HEAD_BYTES: u32 = 3 * COLUMNS * SLICES * 4 + COLUMNS * 4;

/// Bytes of the partial sums of a row tile: eight slices of eight tokens with a pitch of 20.
const PARTIAL_BYTES: u32 = SLICES * COLUMNS * 20 * 4;

/// Row tiles of a block of the many-token path, one a warp.
pub const MANY_TILES: u32 = SLICES;

/// Shared memory of the many-token path, in bytes: what a block may use, less room for the kernel's own.
pub const MANY_LIMIT: u32 = 98 * 1024;

/// Most stages of its ring.
const MOST_STAGES: u32 = 6;

/// Shared memory of the sums of the many-token path, with a pitch of 20, in bytes.
pub fn many_sum_bytes(tokens: u32) -> u32 {
    MANY_TILES * tokens * 20 * 4
}

/// How a product sees its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// f32.
    F32,
    /// f32, rounded to f16 by the product.
    Half,
    /// f32, rounded to q8x32 with a scale every 32 columns by the product.
    Block,
    /// f32, rounded to q8x32 with a scale a row by the product.
    Row,
    /// q8x32.
    Stored,
}

/// A product variant: `<weight format>.<form>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Format of the weights.
    pub weights: DType,
    /// What x is.
    pub form: Form,
}

impl Variant {
    /// The variant of that name; `None` for a word that names none. What follows the form, as the cache of `qkv`, is the caller's to cut off.
    pub fn parse(variant: &str) -> Option<Variant> {
        let (weights, form) = variant.split_once('.')?;
        let form = match form {
            "f32" => Form::F32,
            "f32.half" => Form::Half,
            "f32.block" => Form::Block,
            "f32.row" => Form::Row,
            "q8x32" => Form::Stored,
            _ => return None,
        };
        Some(Variant { weights: DType::from_name(weights)?, form })
    }

    /// As [`Variant::parse`], for a kernel of that name.
    ///
    /// # Errors
    /// For a variant there is none of.
    pub fn of(kernel: &'static str, variant: &str) -> Result<Variant, Constraint> {
        Variant::parse(variant).ok_or_else(|| Constraint {
            kernel,
            variant: variant.into(),
            message:
                "there is no such variant; its name is <weight format>.<f32, f32.half, f32.block, f32.row or q8x32>"
                    .into(),
        })
    }

    /// The constants its source is compiled with.
    pub fn defines(self) -> Vec<Define> {
        let form = match self.form {
            Form::F32 => "f32",
            Form::Half => "half",
            Form::Block => "block",
            Form::Row => "row",
            Form::Stored => "q8x32",
        };
        vec![
            Define::new("WEIGHT", format!("formats::{}", self.weights.name())),
            Define::new("ACTIVATIONS", format!("activations::{form}")),
        ]
    }

    /// 16-bit parts of an activation.
    pub fn parts(self) -> u32 {
        let bf16 = matches!(self.weights, DType::F32 | DType::BF16);
        match self.form {
            Form::Half => 1 + u32::from(bf16),
            Form::F32 | Form::Block | Form::Row | Form::Stored => 2 + u32::from(bf16),
        }
    }

    /// Chunks of 64 columns of the unit that K is cut at.
    fn unit_chunks(self) -> u32 {
        (fragments::scale_unit_columns(self.weights).unwrap_or(64) as u32 / 64).max(1)
    }

    /// Chunks of 64 columns that the largest slice stages.
    pub fn staged_chunks(self, cols: u32) -> u32 {
        let unit = self.unit_chunks();
        cols.div_ceil(64 * unit).div_ceil(SLICES) * unit
    }

    /// Dynamic shared memory of the few-token path with `tiles` row tiles a block, in bytes.
    pub fn few_bytes(self, tokens: u32, cols: u32, tiles: u32) -> u64 {
        let row = u64::from(self.staged_chunks(cols)) * 128 + 64;
        let staged = u64::from(SLICES * self.parts() * tokens) * row;
        u64::from(HEAD_BYTES) + staged + u64::from(tiles) * u64::from(PARTIAL_BYTES)
    }

    /// Whether the few-token path takes a launch: the tokens fit the columns of an mma, and x the shared memory of a block.
    pub fn takes_few(self, tokens: u32, cols: u32, tiles: u32) -> bool {
        tokens <= COLUMNS && self.few_bytes(tokens, cols, tiles) <= u64::from(SHARED_BYTES)
    }

    /// Bytes of a chunk of a row tile, and of the scales of a unit of one.
    fn tile_bytes(self) -> (u32, u32) {
        // A row scale and the padding of a tile do not grow with its columns: the difference of two tiles has neither.
        let columns = |units: u64| units * 64 * u64::from(self.unit_chunks());
        let tile = |units| fragments::tile_bytes(self.weights, columns(units)).unwrap_or(0);
        let codes = fragments::chunk_bytes(self.weights).unwrap_or(0);
        let scales = (tile(256) - tile(128)) / 128 - u64::from(self.unit_chunks()) * codes;
        (codes as u32, scales as u32)
    }

    /// Tokens of a block of the many-token path: 64, or as many as leave room for two stages of the weights, and registers.
    pub fn many_tokens(self) -> u32 {
        let several = self.parts() > 1;
        if several && self.has_groups_within(16) {
            return 2 * COLUMNS;
        }
        if self.has_minimum() || several && self.has_groups_within(32) {
            return 4 * COLUMNS;
        }
        let (codes, scales) = self.tile_bytes();
        let fits = |tiles| 2 * MANY_TILES * (codes + scales) + tiles * (2 * self.parts() * 1024 + 4096) <= MANY_LIMIT;
        COLUMNS * [8, 4].into_iter().find(|tiles| fits(*tiles)).unwrap_or(2)
    }

    /// Whether the sum of x is multiplied by a minimum.
    pub fn has_minimum(self) -> bool {
        matches!(self.weights, DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K)
    }

    /// Whether a scale serves at most so many columns.
    fn has_groups_within(self, columns: usize) -> bool {
        ir::quant::format(self.weights).and_then(|f| f.scale_columns()).is_some_and(|group| group <= columns)
    }

    /// Dynamic shared memory of a block of the many-token path of so many tokens: the sums of slices and the ring, or the sums that take
    /// their place.
    pub fn many_bytes(self, tokens: u32) -> u32 {
        let (codes, scales) = self.tile_bytes();
        let totals = MANY_TILES * tokens * 64;
        let ring = MANY_LIMIT - totals;
        let stage = |chunks| chunks * (self.parts() * tokens * 128 + MANY_TILES * codes) + MANY_TILES * scales;
        let paired = self.unit_chunks() >= 2 && 4 * stage(2) <= ring;
        let stage = stage(1 + u32::from(paired));
        (totals + stage * (ring / stage).min(MOST_STAGES)).max(many_sum_bytes(tokens))
    }

    /// Workspace of `rows` prepared rows: their parts, all chunks of whole units, then their factors.
    pub fn prepared_bytes(self, rows: u64, cols: u32) -> u64 {
        let chunks = cols.div_ceil(64).next_multiple_of(self.unit_chunks());
        rows * (u64::from(chunks) * u64::from(self.parts()) * 128 + 4)
    }
}
