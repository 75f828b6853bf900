//! The matmul kernels against an f64 definition, and their bits against each other.

use std::ops::Range;

use ir::quant::activations::{self, Granularity};
use proptest::prelude::*;

use super::testing::{Matrix, Random, launch};
use super::*;

/// The formats that have a kernel for 8-bit activations.
const QUANTISED: [DType; 16] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::Q4G64,
    DType::Q4G128,
    DType::Q4Z32,
    DType::Q4Z64,
    DType::Q4Z128,
    DType::Q8C,
    DType::MXFP4,
    DType::T2,
];

/// Those that meet f32 activations only.
const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F8_E4M3];

/// Activations: rows of f32 and the same as the kernel reads them.
struct Activations {
    dtype: DType,
    tokens: usize,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Activations {
    fn random(dtype: DType, tokens: usize, cols: usize, seed: u64) -> Activations {
        let values = Random(seed).values(tokens * cols);
        if dtype == DType::F32 {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            return Activations { dtype, tokens, bytes, values };
        }
        let row_bytes = integer_row_bytes(cols);
        let mut bytes = vec![0; tokens * row_bytes];
        let mut rounded = vec![0.0; tokens * cols];
        let rows = values.chunks_exact(cols).zip(bytes.chunks_exact_mut(row_bytes)).zip(rounded.chunks_exact_mut(cols));
        for ((values, bytes), rounded) in rows {
            activations::quantize_row(values, Granularity::Block, bytes).unwrap();
            activations::dequantize_row(bytes, rounded).unwrap();
        }
        Activations { dtype, tokens, bytes, values: rounded }
    }

    /// The first `tokens` of them.
    fn first(&self, tokens: usize) -> Activations {
        let bytes = self.bytes[..self.bytes.len() / self.tokens * tokens].to_vec();
        let values = self.values[..self.values.len() / self.tokens * tokens].to_vec();
        Activations { dtype: self.dtype, tokens, bytes, values }
    }
}

/// The output, computed in the ranges that `split` makes of the grid.
fn run(
    isa: Isa,
    w: &Matrix,
    x: &Activations,
    bias: Option<&[f32]>,
    split: impl Fn(usize) -> Vec<Range<usize>>,
) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.tokens * w.rows];
    let params = MatmulParams {
        x: x.bytes.as_ptr().cast(),
        w: w.packed.as_ptr().cast(),
        bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
        out: out.as_mut_ptr(),
        tokens: x.tokens as u32,
        rows: w.rows as u32,
        cols: w.cols as u32,
        reserved: 0,
    };
    let kernel = select(w.dtype, x.dtype, isa).unwrap();
    let ranges = split(blocks(x.dtype, &params));
    // SAFETY: the buffers have the sizes the parameters say.
    unsafe { launch(kernel, &params, &ranges, scratch_bytes(x.dtype, x.tokens, w.cols)) };
    out
}

fn whole(blocks: usize) -> Vec<Range<usize>> {
    std::iter::once(0..blocks).collect()
}

/// One block a launch, last first.
fn singly(blocks: usize) -> Vec<Range<usize>> {
    (0..blocks).rev().map(|block| block..block + 1).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Every output element against its definition in f64, relative to the norms of its row and token.
fn check_against_definition(out: &[f32], w: &Matrix, x: &Activations, bias: Option<&[f32]>) {
    let norm = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    for (t, x) in x.values.chunks_exact(w.cols).enumerate() {
        for (n, w_row) in w.values.chunks_exact(w.cols).enumerate() {
            let bias = f64::from(bias.map_or(0.0, |bias| bias[n]));
            let expected = x.iter().zip(w_row).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>() + bias;
            let got = f64::from(out[t * w.rows + n]);
            let tolerance = 1e-5 * (norm(x) * (norm(w_row) + f64::from(w.offsets[n])) + bias.abs());
            assert!((got - expected).abs() <= tolerance, "{} t={t} n={n}: {got}, expected {expected}", w.dtype);
        }
    }
}

/// A weight type, whether it meets f32 activations, and a number of columns that it can have.
fn variant() -> impl Strategy<Value = (DType, DType, usize)> {
    let float = (prop::sample::select(&FLOATS[..]), 1usize..300).prop_map(|(w, cols)| (w, DType::F32, cols));
    let quantised = (prop::sample::select(&QUANTISED[..]), prop::bool::ANY, 1usize..300).prop_map(|(w, int8, cols)| {
        let cols = cols.next_multiple_of(ir::quant::format(w).unwrap().block_len());
        (w, if int8 { DType::Q8X32 } else { DType::F32 }, cols)
    });
    prop_oneof![1 => float, 3 => quantised]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn products_are_right_and_every_instruction_set_and_split_gives_the_same_bits(
        (w, x, cols) in variant(), rows in 1usize..150, tokens in 0usize..21, has_bias in prop::bool::ANY,
        any_integers in prop::bool::ANY, seed in any::<u64>(),
    ) {
        // Not of MXFP4: its subnormal scales leave products fewer bits than the tolerance asks for.
        let assembled = (any_integers && w != DType::MXFP4).then(|| Matrix::assembled(w, rows, cols, seed)).flatten();
        let w = assembled.unwrap_or_else(|| Matrix::random(w, rows, cols, seed));
        let x = Activations::random(x, tokens, cols, seed ^ 1);
        let bias = Random(seed ^ 2).values(rows);
        let bias = has_bias.then_some(&bias[..]);
        let out = run(Isa::best(), &w, &x, bias, whole);
        check_against_definition(&out, &w, &x, bias);
        for &isa in Isa::available() {
            let again = run(isa, &w, &x, bias, singly);
            prop_assert_eq!(bits(&out), bits(&again), "{} {} {}", isa, w.dtype, x.dtype);
        }
    }
}

/// Every variant: the output of a token does not depend on how many others there are.
#[test]
fn bits_do_not_depend_on_the_number_of_tokens() {
    let float = FLOATS.iter().map(|&w| (w, DType::F32));
    let quantised = QUANTISED.iter().flat_map(|&w| [(w, DType::F32), (w, DType::Q8X32)]);
    for (w, x) in float.chain(quantised) {
        let (rows, cols) = (83, 256);
        let w = Matrix::random(w, rows, cols, 7);
        let all = Activations::random(x, 97, cols, 8);
        for &isa in Isa::available() {
            let most = run(isa, &w, &all, None, whole);
            for tokens in [1, 2, 7, 33, 64, 65] {
                let fewer = run(isa, &w, &all.first(tokens), None, whole);
                assert_eq!(bits(&fewer), bits(&most[..tokens * rows]), "{} {x} {isa} {tokens}", w.dtype);
            }
        }
    }
}

/// The order of operations that the documentation promises, for a product of each kind.
#[test]
fn bits_are_those_of_the_documented_order() {
    let (rows, cols) = (16, 96);
    let x = Activations::random(DType::F32, 1, cols, 3);
    let w = Matrix::random(DType::F16, rows, cols, 4);
    let ordered = |row: &[f32]| row.iter().zip(&x.values).fold(0.0f32, |acc, (w, x)| w.mul_add(*x, acc));
    let expected: Vec<f32> = w.values.chunks_exact(cols).map(ordered).collect();
    assert_eq!(bits(&run(Isa::best(), &w, &x, None, whole)), bits(&expected));

    let x = Activations::random(DType::Q8X32, 1, cols, 5);
    let w = Matrix::random(DType::Q8_0, rows, cols, 6);
    let mut row_major = vec![0; rows * 34 * cols / 32];
    ir::quant::unpack(w.dtype, &w.packed, rows, cols, &mut row_major).unwrap();
    let expected: Vec<f32> = row_major.chunks_exact(34 * cols / 32).map(|row| q8_0_product(row, &x.bytes)).collect();
    assert_eq!(bits(&run(Isa::best(), &w, &x, None, whole)), bits(&expected));
}

/// A Q8_0 row (blocks of an f16 scale and 32 integers) times a q8x32 row.
fn q8_0_product(w: &[u8], x: &[u8]) -> f32 {
    let groups = w.len() / 34;
    let mut acc = 0.0f32;
    for (g, block) in w.chunks_exact(34).enumerate() {
        let step = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        let codes = block[2..].iter().zip(&x[32 * g..]);
        let dot: i32 = codes.map(|(&w, &x)| i32::from(w as i8) * i32::from(x as i8)).sum();
        let at = 32 * groups + 4 * g;
        let d = f32::from_le_bytes(x[at..at + 4].try_into().unwrap());
        acc = (dot as f32).mul_add(step * d, acc);
    }
    acc
}

/// Weights and activations at the ends of their ranges: byte products must not saturate.
#[test]
fn extreme_integers_do_not_saturate() {
    for dtype in QUANTISED {
        let (rows, cols) = (16, 256);
        for byte in [0x00, 0xff, 0x7f, 0x80] {
            let mut w = Matrix::random(dtype, rows, cols, 1);
            let codes = w.packed.len() / 2;
            w.packed[..codes].fill(byte);
            let mut row_major = vec![0; rows * ir::quant::row_bytes(dtype, cols as u64).unwrap() as usize];
            ir::quant::unpack(dtype, &w.packed, rows, cols, &mut row_major).unwrap();
            ir::quant::dequantize(dtype, &row_major, cols, &mut w.values).unwrap();
            for sign in [1.0, -1.0] {
                let mut x = Activations::random(DType::Q8X32, 1, cols, 2);
                activations::quantize_row(&vec![sign; cols], Granularity::Block, &mut x.bytes).unwrap();
                activations::dequantize_row(&x.bytes, &mut x.values).unwrap();
                for &isa in Isa::available() {
                    check_against_definition(&run(isa, &w, &x, None, whole), &w, &x, None);
                }
            }
        }
    }
}

#[test]
fn panels_are_as_long_as_the_format_says() {
    for format in ir::quant::FORMATS {
        for blocks in [1, 2, 3, 9, 64, 129] {
            let cols = blocks * format.block_len();
            let dtype = format.dtype();
            let bytes = weights::with_format!(dtype, W => Some(<W as Columns>::panel_bytes(cols)));
            assert_eq!(bytes, Some(format.panel_bytes(cols)), "{dtype}");
        }
    }
}

#[test]
fn there_is_a_kernel_for_every_pair_that_is_promised_and_no_other() {
    for &w in DType::ALL {
        let format = ir::quant::format(w);
        assert_eq!(select(w, DType::F32, Isa::Portable).is_some(), format.is_some(), "{w}");
        assert_eq!(select(w, DType::Q8X32, Isa::Portable).is_some(), QUANTISED.contains(&w), "{w}");
        assert_eq!(format.is_some_and(|format| format.is_integer()), QUANTISED.contains(&w), "{w}");
        assert!(select(w, DType::F16, Isa::Portable).is_none());
    }
}
