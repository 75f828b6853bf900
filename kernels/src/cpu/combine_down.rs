//! The down projections of a token's experts, weighed and added up: `Σ_j weights_j · (h_j · w[e_j]ᵀ + bias[e_j])`, by a factor, plus the
//! residual stream, and the squares of the sum.
//!
//! The parameters are [`CombineDownParams`]; variants are `<weights>.<x>`. A block of the grid is one token and [`BLOCK_PANELS`] panels
//! of rows, so each token reads its experts' matrices anew: made for decoding. The results of single experts never leave scratch
//! memory, and a token's rows are prepared once for all blocks of a call. Bits are those of `grouped_matmul`, `combine`, `unary` and `binary` one after the other.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use ir::types::DType;

use super::combine::accumulate;
use super::grouped_matmul::groups::Pairs;
use super::isa::Isa;
use super::matmul::BLOCK_PANELS;
use super::matmul::block::{Multiplier, Sink, Staged, row_staging_bytes};
use super::matmul::prologue::{self, Norm, ProductTypes, Rounding, Rows, select_product};
use super::matmul::tile::Product;
use super::panel_sums::load;
use super::residual::ResidualRow;
use super::simd::{self, Body, LANES, Simd};
use super::{CpuKernel, SCRATCH_ALIGN, grouped_matmul};
use crate::abi::{CombineDownParams, GroupedMatmulParams};

/// Rows of a block of the grid.
const BLOCK_ROWS: usize = BLOCK_PANELS * LANES;

/// The kernel of a variant over [`CombineDownParams`]; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    select_product!(CombineDown, variant, isa)
}

/// Blocks of the launch's grid.
pub fn blocks(params: &CombineDownParams) -> usize {
    params.tokens as usize * (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// Bytes of scratch memory, for launches of at most these counts.
pub fn scratch_bytes(variant: &str, params: &CombineDownParams) -> usize {
    let Some(ProductTypes { activations, rounding, .. }) = ProductTypes::parse(variant) else { return 0 };
    let (slots, cols) = (params.slots as usize, params.cols as usize);
    RESULT_BYTES + prologue::scratch_bytes(rounding, 0, cols) + slots * row_staging_bytes(activations, cols)
}

/// How many different matrices a launch reads.
///
/// # Safety
/// The experts must be valid for the counts beside them.
pub unsafe fn matrices_read(params: &CombineDownParams) -> usize {
    let CombineDownParams { experts, tokens, slots, matrices, .. } = *params;
    // SAFETY: passed on.
    unsafe {
        grouped_matmul::matrices_read(&GroupedMatmulParams {
            experts,
            tokens,
            slots,
            matrices,
            ..GroupedMatmulParams::default()
        })
    }
}

/// Bytes of one expert's results in a block.
const RESULT_BYTES: usize = (BLOCK_ROWS * size_of::<f32>()).next_multiple_of(SCRATCH_ALIGN);

/// A launch with what its variant says.
struct Launch<'a> {
    params: &'a CombineDownParams,
    types: (DType, Rounding),
    multiplier: Multiplier,
}

/// The kernel of product `K`, for which the launch rounds h as [`Rounding::from_number`] says: tells the driver which.
struct CombineDown<K, const ROUNDING: u8>(PhantomData<K>);

impl<K: Product, const ROUNDING: u8> Body for CombineDown<K, ROUNDING> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        let types = (K::ACTIVATIONS, Rounding::from_number(ROUNDING));
        // SAFETY: the caller passes this kernel's parameters; the driver takes a launch.
        unsafe {
            let launch = Launch { params: &*params.cast(), types, multiplier: Multiplier::new::<S, K>() };
            S::call::<Driver>((&raw const launch).cast(), blocks, scratch);
        }
    }
}

/// Executes a [`Launch`].
struct Driver;

impl Body for Driver {
    #[inline(always)]
    unsafe fn run<S: Simd>(launch: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes a launch, blocks of its grid and scratch memory as long as is asked for.
        unsafe {
            let Launch { params: p, types, multiplier } = &*launch.cast::<Launch>();
            let (rows, cols) = (p.rows as usize, p.cols as usize);
            let (results, scratch) = scratch.split_at_mut(RESULT_BYTES);
            let (preparing, staging) = scratch.split_at_mut(prologue::scratch_bytes(types.1, 0, cols));
            let h = Rows::new::<S>(p.h, cols, *types, Norm::NONE, preparing);
            let mut staged = StagedSlots { of: None, memory: staging, row_bytes: row_staging_bytes(types.0, cols) };
            let (per_token, panels) = (rows.div_ceil(BLOCK_ROWS), rows.div_ceil(LANES));
            for block in blocks {
                let (token, first) = (block / per_token, block % per_token * BLOCK_ROWS);
                let count = BLOCK_ROWS.min(rows - first);
                staged.stage(p, multiplier, &h, token);
                let mut sums = [[0f32; LANES]; BLOCK_PANELS];
                for slot in 0..p.slots as usize {
                    let results = results.as_mut_ptr().cast::<f32>();
                    multiply(
                        p,
                        multiplier,
                        staged.get(slot, cols),
                        token * p.slots as usize + slot,
                        (first, count),
                        results,
                    );
                    let weight = *p.weights.add(token * p.slots as usize + slot);
                    for (panel, sum) in sums.iter_mut().enumerate().take(count.div_ceil(LANES)) {
                        let valid = LANES.min(count - panel * LANES);
                        accumulate(weight, &load(results.add(panel * LANES), valid), sum);
                    }
                }
                let to = row(p, token, panels);
                for (panel, sum) in sums.into_iter().enumerate().take(count.div_ceil(LANES)) {
                    to.add(sum, first / LANES + panel);
                }
            }
        }
    }
}

/// The rows of a token's slots, each staged on its own, kept while a call's blocks are of that token.
struct StagedSlots<'a> {
    /// The token.
    of: Option<usize>,
    memory: &'a mut [u8],
    row_bytes: usize,
}

impl StagedSlots<'_> {
    /// Stages the rows of a token, unless they are.
    ///
    /// # Safety
    /// The token is of the launch.
    unsafe fn stage(&mut self, p: &CombineDownParams, multiplier: &Multiplier, h: &Rows, token: usize) {
        if self.of == Some(token) {
            return;
        }
        for slot in 0..p.slots as usize {
            let pair = Pairs::Spaced { first: token * p.slots as usize + slot, stride: 1, count: 1 };
            let memory = &mut self.memory[slot * self.row_bytes..(slot + 1) * self.row_bytes];
            // SAFETY: the row exists; a single row fills no more than that.
            unsafe { multiplier.stage(h, pair, 1, memory) };
        }
        self.of = Some(token);
    }

    /// The row of a slot.
    fn get(&self, slot: usize, cols: usize) -> Staged {
        Staged::one(self.memory.as_ptr().wrapping_add(slot * self.row_bytes).cast_mut(), cols)
    }
}

/// A pair's results in `count` rows from the `first`-th on, with their bias; zeros of an expert that does not exist.
///
/// # Safety
/// Pair and rows are of the launch, `results` has room for the rows.
unsafe fn multiply(
    p: &CombineDownParams,
    multiplier: &Multiplier,
    staged: Staged,
    pair: usize,
    (first, count): (usize, usize),
    results: *mut f32,
) {
    let (rows, cols) = (p.rows as usize, p.cols as usize);
    // SAFETY: as the caller says.
    unsafe {
        let Some(expert) = expert(p, pair) else {
            results.write_bytes(0, count);
            return;
        };
        let w =
            p.w.cast::<u8>().add(expert * multiplier.matrix_bytes(rows, cols) + multiplier.matrix_bytes(first, cols));
        let bias = if p.bias.is_null() { p.bias } else { p.bias.add(expert * rows + first) };
        let pairs = Pairs::Spaced { first: 0, stride: 1, count: 1 };
        let sink = Sink::Store { out: results, bias, rows: count, pairs };
        multiplier.multiply(staged, [w, std::ptr::null()], 0..count.div_ceil(LANES), &sink);
    }
}

/// The expert of a pair, if there is one of its number.
///
/// # Safety
/// The pair is of the launch.
#[inline(always)]
unsafe fn expert(p: &CombineDownParams, pair: usize) -> Option<usize> {
    // SAFETY: as the caller says.
    let expert = unsafe { *p.experts.add(pair) };
    usize::try_from(expert).ok().filter(|e| *e < p.matrices as usize)
}

/// Where a token's sum goes.
#[inline(always)]
fn row(p: &CombineDownParams, token: usize, panels: usize) -> ResidualRow {
    let cols = p.rows as usize;
    let residual = if p.residual.is_null() { p.residual } else { p.residual.wrapping_add(token * cols) };
    let squares = if p.squares.is_null() { p.squares } else { p.squares.wrapping_add(token * panels) };
    ResidualRow { residual, out: p.out.wrapping_add(token * cols), squares, cols, factor: p.factor }
}

#[cfg(test)]
mod tests {
    use ir::quant::activations::{Granularity, quantize_row, row_bytes};
    use ir::quant::half_rows::round_row;
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Matrix, Random, launch};

    /// Tokens, slots, matrices, rows, columns.
    type Shape = [usize; 5];

    struct Case {
        shape: Shape,
        variant: String,
        h: Vec<f32>,
        rounded: Vec<u8>,
        packed: Vec<u8>,
        values: Vec<f32>,
        experts: Vec<i32>,
        weights: Vec<f32>,
        bias: Option<Vec<f32>>,
        residual: Option<Vec<f32>>,
        factor: f32,
    }

    impl Case {
        fn random(shape: Shape, (dtype, x): (DType, &str), options: u32, seed: u64) -> Case {
            let [tokens, slots, matrices, rows, cols] = shape;
            let mut random = Random(seed);
            let h = random.values(tokens * slots * cols);
            let row = row_bytes(cols as u64).unwrap() as usize;
            let mut rounded = vec![0; tokens * slots * row];
            for (h, out) in h.chunks(cols).zip(rounded.chunks_mut(row)) {
                let granularity = if x == "f32.row" { Granularity::Row } else { Granularity::Block };
                quantize_row(h, granularity, out).unwrap();
            }
            let stack: Vec<Matrix> =
                (0..matrices).map(|e| Matrix::random(dtype, rows, cols, seed ^ (e as u64 + 1))).collect();
            // One that does not exist at either end.
            let experts = (0..tokens * slots).map(|_| (random.bits() % (matrices as u64 + 2)) as i32 - 1).collect();
            let weights = random.values(tokens * slots);
            let bias = (options & 1 == 1).then(|| random.values(matrices * rows));
            let residual = (options & 2 == 2).then(|| random.values(tokens * rows));
            let packed = stack.iter().flat_map(|m| m.packed.clone()).collect();
            let values = stack.into_iter().flat_map(|m| m.values).collect();
            let (variant, factor) = (format!("{}.{x}", dtype.name()), if options & 4 == 4 { 0.75 } else { 1.0 });
            Case { shape, variant, h, rounded, packed, values, experts, weights, bias, residual, factor }
        }

        /// Result and squares, with the residual stream in the result's place.
        fn run(&self, isa: Isa, step: usize) -> (Vec<f32>, Vec<f32>) {
            let [tokens, slots, matrices, rows, cols] = self.shape;
            let mut out = self.residual.clone().unwrap_or_else(|| vec![f32::NAN; tokens * rows]);
            let mut squares = vec![f32::NAN; tokens * rows.div_ceil(LANES)];
            let place = out.as_mut_ptr();
            let params = CombineDownParams {
                h: if self.variant.ends_with("q8x32") { self.rounded.as_ptr().cast() } else { self.h.as_ptr().cast() },
                w: self.packed.as_ptr().cast(),
                experts: self.experts.as_ptr(),
                weights: self.weights.as_ptr(),
                bias: self.bias.as_ref().map_or(std::ptr::null(), |b| b.as_ptr()),
                residual: if self.residual.is_some() { place } else { std::ptr::null() },
                out: place,
                squares: squares.as_mut_ptr(),
                tokens: tokens as u32,
                slots: slots as u32,
                matrices: matrices as u32,
                rows: rows as u32,
                cols: cols as u32,
                factor: self.factor,
            };
            let blocks = blocks(&params);
            let ranges: Vec<_> = (0..blocks).step_by(step).rev().map(|b| b..(b + step).min(blocks)).collect();
            let scratch = scratch_bytes(&self.variant, &params);
            // SAFETY: the buffers have the sizes the parameters say.
            unsafe { launch(select(&self.variant, isa).unwrap(), &params, &ranges, scratch) };
            (out, squares)
        }

        /// The definition in f64, of the rounded activations where they are rounded.
        fn expected(&self) -> Vec<f64> {
            let [_, slots, matrices, rows, cols] = self.shape;
            let is_float = self.variant.ends_with(".f32") || self.variant.ends_with(".half");
            let mut h = self.h.clone();
            if self.variant.ends_with(".half") {
                h = h.chunks(cols).flat_map(round_row).collect();
            }
            let row = row_bytes(cols as u64).unwrap() as usize;
            for (i, h) in h.chunks_mut(cols).enumerate().take(if is_float { 0 } else { usize::MAX }) {
                let from = &self.rounded[i * row..(i + 1) * row];
                let scales = &from[cols.div_ceil(32) * 32..];
                for (c, h) in h.iter_mut().enumerate() {
                    let scale = scales[c / 32 * 4..][..4].try_into().map(f32::from_le_bytes).unwrap();
                    *h = f32::from(from[c] as i8) * scale;
                }
            }
            let element = |t: usize, n: usize| {
                let slot = |j: usize| {
                    let expert = usize::try_from(self.experts[t * slots + j]).ok().filter(|e| *e < matrices);
                    let Some(e) = expert else { return 0.0 };
                    let w = &self.values[(e * rows + n) * cols..][..cols];
                    let h = &h[(t * slots + j) * cols..][..cols];
                    let sum: f64 = h.iter().zip(w).map(|(h, w)| f64::from(*h) * f64::from(*w)).sum();
                    let bias = self.bias.as_ref().map_or(0.0, |b| f64::from(b[e * rows + n]));
                    f64::from(self.weights[t * slots + j]) * (sum + bias)
                };
                let residual = self.residual.as_ref().map_or(0.0, |r| f64::from(r[t * rows + n]));
                (0..slots).map(slot).sum::<f64>() * f64::from(self.factor) + residual
            };
            (0..self.shape[0] * rows).map(|i| element(i / rows, i % rows)).collect()
        }
    }

    const FORMS: &[(DType, &str)] = &[
        (DType::F32, "f32"),
        (DType::BF16, "f32"),
        (DType::Q4_1, "f32"),
        (DType::Q8_0, "q8x32"),
        (DType::Q4_0, "f32.block"),
        (DType::Q8C, "f32.row"),
        (DType::F16, "f32.half"),
        (DType::Q4_K, "f32.half"),
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn experts_are_weighed_and_added(
            tokens in 1usize..8, slots in 1usize..5, matrices in 1usize..5, rows in 1usize..150, groups in 1usize..4,
            form in prop::sample::select(FORMS.to_vec()), options in 0u32..8, seed: u64,
        ) {
            let block = ir::quant::format(form.0).unwrap().block_len();
            let case =
                Case::random([tokens, slots, matrices, rows, (32 * groups).next_multiple_of(block)], form, options, seed);
            let (out, squares) = case.run(Isa::Portable, usize::MAX >> 1);
            let magnitude = 1.0 + (case.shape[4] as f64).sqrt();
            for (out, expected) in out.iter().zip(case.expected()) {
                prop_assert!((f64::from(*out) - expected).abs() <= 4e-6 * magnitude, "{out} {expected}");
            }
            let panels = out.chunks(rows).flat_map(|row| row.chunks(LANES));
            for (panel, found) in panels.zip(&squares) {
                let expected: f64 = panel.iter().map(|x| f64::from(*x).powi(2)).sum();
                prop_assert!((f64::from(*found) - expected).abs() <= 1e-6 * expected, "{found} {expected}");
            }
            let bits = |(out, squares): (Vec<f32>, Vec<f32>)| [out, squares].concat().into_iter().map(f32::to_bits).collect();
            let expected: Vec<u32> = bits((out, squares));
            for &isa in Isa::available() {
                for step in [1, 2, 1000] {
                    let found: Vec<u32> = bits(case.run(isa, step));
                    prop_assert!(found == expected, "{isa} by {step}");
                }
            }
        }
    }
}
