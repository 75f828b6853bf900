//! Grouped products against plain ones of the same row and matrix: the bits must be the same whatever the grouping.

use std::ops::Range;

use ir::quant::activations::{Granularity, quantize_row};
use proptest::prelude::*;

use super::*;
use crate::abi::{MatmulParams, QuantizeRowsParams};
use crate::cpu::matmul;
use crate::cpu::matmul::testing::{Matrix, Random, execute, launch};

/// A stack of matrices and rows of activations for it.
struct Stack {
    weights: DType,
    activations: DType,
    matrices: Vec<Matrix>,
    packed: Vec<u8>,
    bias: Option<Vec<f32>>,
    x: Vec<u8>,
    rows: usize,
    cols: usize,
}

impl Stack {
    fn random(types: (DType, DType), matrices: usize, (rows, cols): (usize, usize), lines: usize, seed: u64) -> Stack {
        let (weights, activations) = types;
        let matrices: Vec<_> = (0..matrices).map(|e| Matrix::random(weights, rows, cols, seed ^ e as u64)).collect();
        let packed = matrices.iter().flat_map(|m| m.packed.iter().copied()).collect();
        let mut random = Random(seed);
        let bias = seed.is_multiple_of(2).then(|| random.values(matrices.len() * rows));
        let row_bytes = ir::quant::row_bytes(activations, cols as u64).unwrap() as usize;
        let mut x = vec![0; lines * row_bytes];
        for row in x.chunks_exact_mut(row_bytes) {
            let values = random.values(cols);
            if activations == DType::F32 {
                row.copy_from_slice(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
            } else {
                quantize_row(&values, Granularity::Block, row).unwrap();
            }
        }
        Stack { weights, activations, matrices, packed, bias, x, rows, cols }
    }

    fn params(&self, experts: Option<&[i32]>, (tokens, slots): (usize, usize), share: bool) -> GroupedMatmulParams {
        GroupedMatmulParams {
            x: self.x.as_ptr().cast(),
            w: self.packed.as_ptr().cast(),
            experts: experts.map_or(std::ptr::null(), <[i32]>::as_ptr),
            bias: self.bias.as_ref().map_or(std::ptr::null(), |bias| bias.as_ptr()),
            out: std::ptr::null_mut(),
            tokens: tokens as u32,
            slots: slots as u32,
            matrices: self.matrices.len() as u32,
            rows: self.rows as u32,
            cols: self.cols as u32,
            slots_share_x: share.into(),
        }
    }

    fn run(&self, isa: Isa, params: &GroupedMatmulParams, step: usize) -> Vec<u32> {
        let mut out = vec![f32::NAN; params.tokens as usize * params.slots as usize * self.rows];
        let params = GroupedMatmulParams { out: out.as_mut_ptr(), ..*params };
        let variant = format!("{}.{}", self.weights, self.activations);
        self.launch(&variant, isa, &params, step);
        out.iter().map(|x| x.to_bits()).collect()
    }

    fn launch(&self, variant: &str, isa: Isa, params: &GroupedMatmulParams, step: usize) {
        let kernel = select(variant, isa).unwrap_or_else(|| panic!("no {variant}"));
        let ranges = split(blocks(variant, params), step);
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(kernel, params, &ranges, scratch_bytes(variant, params)) };
    }

    /// The launch that rounds its rows of f32, and the same of rows that `quantize_rows` rounded.
    fn run_rounding(&self, granularity: &str, isa: Isa, params: &GroupedMatmulParams, step: usize) -> [Vec<u32>; 2] {
        let (cols, lines) = (self.cols as u32, (self.x.len() / 4 / self.cols) as u32);
        let is_half = granularity == "half";
        // A row of few columns takes more room as integers than as f32: it has whole groups.
        let row_bytes = prologue::Rounding::from_word(granularity).unwrap().row_bytes(self.cols);
        let mut rounded = vec![0u32; lines as usize * row_bytes / 4];
        let p = QuantizeRowsParams { x: self.x.as_ptr().cast(), out: rounded.as_mut_ptr().cast(), rows: lines, cols };
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { execute("quantize_rows", granularity, isa, &p, 1) };
        let apart = (rounded.as_ptr().cast(), if is_half { "f32".into() } else { "q8x32".to_string() });
        let inline = (self.x.as_ptr().cast(), format!("f32.{granularity}"));
        [inline, apart].map(|(x, form)| {
            let mut out = vec![f32::NAN; params.tokens as usize * params.slots as usize * self.rows];
            let params = GroupedMatmulParams { x, out: out.as_mut_ptr(), ..*params };
            self.launch(&format!("{}.{form}", self.weights), isa, &params, step);
            out.iter().map(|x| x.to_bits()).collect()
        })
    }

    /// The plain product of row `line` with a matrix; zeros where there is none.
    fn product(&self, line: usize, expert: i32) -> Vec<u32> {
        let Some((e, matrix)) = usize::try_from(expert).ok().and_then(|e| Some((e, self.matrices.get(e)?))) else {
            return vec![0; self.rows];
        };
        let mut out = vec![f32::NAN; self.rows];
        let row_bytes = ir::quant::row_bytes(self.activations, self.cols as u64).unwrap() as usize;
        let params = MatmulParams {
            x: self.x[line * row_bytes..].as_ptr().cast(),
            w: matrix.packed.as_ptr().cast(),
            bias: self.bias.as_ref().map_or(std::ptr::null(), |bias| bias[e * self.rows..].as_ptr()),
            out: out.as_mut_ptr(),
            tokens: 1,
            rows: self.rows as u32,
            cols: self.cols as u32,
            reserved: 0,
        };
        let kernel = matmul::select(self.weights, self.activations, Isa::best()).unwrap();
        let ranges = split(matmul::blocks(self.activations, &params), 1);
        let scratch_bytes = matmul::scratch_bytes(self.activations, 1, self.cols);
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { launch(kernel, &params, &ranges, scratch_bytes) };
        out.iter().map(|x| x.to_bits()).collect()
    }
}

fn split(blocks: usize, step: usize) -> Vec<Range<usize>> {
    (0..blocks).step_by(step).rev().map(|block| block..(block + step).min(blocks)).collect()
}

/// A pair of formats and a number of columns it can have.
fn types() -> impl Strategy<Value = (DType, DType, usize)> {
    let weights: Vec<DType> = ir::quant::FORMATS.iter().map(|format| format.dtype()).collect();
    (prop::sample::select(weights), prop::bool::ANY, 1usize..150).prop_map(|(weights, int8, cols)| {
        let format = ir::quant::format(weights).unwrap();
        let activations = if int8 && format.is_integer() { DType::Q8X32 } else { DType::F32 };
        (weights, activations, cols.next_multiple_of(format.block_len()))
    })
}

/// Experts of every pair: any, of a few, all one, or some that do not exist.
fn choose(random: &mut Random, pairs: usize, matrices: usize, kind: u8) -> Vec<i32> {
    let few = (random.bits() as usize % matrices) as i32;
    let mut any = |count: usize| (random.bits() % count as u64) as i32;
    let expert = |_| match kind {
        0 => any(matrices),
        1 => any(matrices.min(2)),
        2 => few,
        _ => [any(matrices), -1, matrices as i32, i32::MIN, i32::MAX][any(5) as usize],
    };
    (0..pairs).map(expert).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_pair_has_the_bits_of_the_plain_product(
        (weights, activations, cols) in types(), matrices in 1usize..7, rows in 1usize..150,
        tokens in prop_oneof![4 => 0usize..9, 1 => 60usize..71], slots in 1usize..5, share: bool, kind in 0u8..4, seed: u64,
    ) {
        let lines = tokens * if share { 1 } else { slots };
        let stack = Stack::random((weights, activations), matrices, (rows, cols), lines, seed);
        let experts = choose(&mut Random(seed), tokens * slots, matrices, kind);
        let params = stack.params(Some(&experts), (tokens, slots), share);
        let line = |pair: usize| if share { pair / slots } else { pair };
        let expected: Vec<u32> =
            experts.iter().enumerate().flat_map(|(pair, &expert)| stack.product(line(pair), expert)).collect();
        for &isa in Isa::available() {
            for step in [1, 3, usize::MAX] {
                prop_assert_eq!(&stack.run(isa, &params, step), &expected, "{} {} {}", isa, weights, activations);
            }
        }
    }

    /// A launch that rounds has the bits of one that is given rounded rows.
    #[test]
    fn rows_are_rounded_on_the_way(
        (weights, _, cols) in types(), matrices in 1usize..5, rows in 1usize..80, tokens in 0usize..40, slots in 1usize..4,
        share: bool, granularity in prop::sample::select(vec!["half", "block", "row"]), seed: u64,
    ) {
        let is_integer = ir::quant::format(weights).unwrap().is_integer();
        let granularity = if is_integer { granularity } else { "half" };
        let lines = tokens * if share { 1 } else { slots };
        let stack = Stack::random((weights, DType::F32), matrices, (rows, cols), lines, seed);
        let experts = choose(&mut Random(seed), tokens * slots, matrices, 3);
        let params = stack.params(Some(&experts), (tokens, slots), share);
        let [_, expected] = stack.run_rounding(granularity, Isa::Portable, &params, usize::MAX);
        for &isa in Isa::available() {
            for step in [1, 3] {
                let [inline, apart] = stack.run_rounding(granularity, isa, &params, step);
                prop_assert!(inline == expected && apart == expected, "{isa} {weights} {granularity}");
            }
        }
    }

    #[test]
    fn without_experts_each_slot_has_its_matrix(
        (weights, activations, cols) in types(), matrices in 1usize..7, rows in 1usize..80, tokens in 0usize..71,
        share: bool, seed: u64,
    ) {
        let lines = tokens * if share { 1 } else { matrices };
        let stack = Stack::random((weights, activations), matrices, (rows, cols), lines, seed);
        let params = stack.params(None, (tokens, matrices), share);
        for &isa in Isa::available() {
            let out = stack.run(isa, &params, 2);
            for (pair, out) in out.chunks_exact(rows).enumerate().step_by(7) {
                let line = if share { pair / matrices } else { pair };
                prop_assert_eq!(out, stack.product(line, (pair % matrices) as i32), "{} {}", isa, weights);
            }
        }
    }

    #[test]
    fn shares_cover_the_work_once(work in 0usize..100, empty in 0usize..100, step in 1usize..9) {
        let grid = work + empty;
        let mut at = 0;
        for blocks in split(grid, step).into_iter().rev() {
            let share = share(blocks, work, grid);
            prop_assert_eq!(share.start, at);
            at = share.end;
        }
        prop_assert_eq!(at, work);
    }
}

/// Matrices nobody selected are not read: here they do not exist in memory.
#[test]
fn unselected_matrices_are_not_touched() {
    let stack = Stack::random((DType::Q4_0, DType::F32), 2, (40, 64), 6, 2);
    let experts = [1, 0, 1, 1, 0, 1];
    let expected = stack.run(Isa::best(), &stack.params(Some(&experts), (3, 2), false), 1);
    // The two matrices as numbers 1000 and 1001 of many; the address before them is never used.
    let far: Vec<i32> = experts.iter().map(|e| e + 1000).collect();
    let stride = ir::quant::packed_bytes(DType::Q4_0, 40, 64).unwrap() as usize;
    let mut params = stack.params(Some(&far), (3, 2), false);
    params.w = params.w.cast::<u8>().wrapping_sub(1000 * stride).cast();
    params.bias = params.bias.wrapping_sub(1000 * 40);
    params.matrices = 1002;
    assert_eq!(stack.run(Isa::best(), &params, 1), expected);
}

/// A step with fewer tokens needs no more scratch memory, and the grid of a decoding step has a block for each slot and block
/// of rows.
#[test]
fn grids_and_scratch_memory_are_bounded() {
    let launch = |tokens, experts: &[i32]| GroupedMatmulParams {
        experts: experts.as_ptr(),
        tokens,
        slots: 8,
        matrices: 128,
        rows: 768,
        cols: 2048,
        ..GroupedMatmulParams::default()
    };
    let bytes = |tokens| scratch_bytes("q4_0.q8x32", &launch(tokens, &[]));
    assert!((1..600).all(|tokens| bytes(tokens) <= bytes(tokens + 1)));
    assert_eq!(blocks("q4_0.q8x32", &launch(1, &[])), 8 * 12);
    assert!(blocks("q4_0.q8x32", &launch(512, &[])) < 2500);
}
