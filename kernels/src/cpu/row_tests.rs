//! The row kernels of fusion against their definitions in f64, and against themselves on every instruction set, block by block.

use proptest::prelude::*;

use super::isa::Isa;
use super::matmul::prologue::Rounding;
use super::matmul::testing::{Matrix, Random, launch};
use super::*;
use crate::abi::*;
use ir::types::DType;

const EPS: f32 = 1e-5;

/// Executes a launch on an instruction set, `step` blocks at a time, the last ones first.
fn run<P>(kernel: Option<CpuKernel>, params: &P, blocks: usize, step: usize, scratch: usize) {
    let ranges: Vec<_> = (0..blocks).step_by(step).rev().map(|b| b..(b + step).min(blocks)).collect();
    // SAFETY: the tests' buffers have the sizes the parameters say.
    unsafe { launch(kernel.unwrap(), params, &ranges, scratch) };
}

/// `values` from each instruction set, one block at a time and all at once, must be the same bits; gives them.
fn same_everywhere(values: impl Fn(Isa, usize) -> Vec<f32>) -> Vec<f32> {
    let expected = values(Isa::Portable, usize::MAX >> 1);
    for &isa in Isa::available() {
        for step in [1, 3] {
            let found = values(isa, step);
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa} by {step}");
        }
    }
    expected
}

fn near(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let scale = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len().max(1) as f64).sqrt();
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(*found) - expected).abs() <= tolerance * (scale + expected.abs()),
            "{i}: {found} {expected}"
        );
    }
}

fn exact(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// 1 / √(Σ / width + eps).
fn reciprocal(squares: &[f64], width: usize) -> f64 {
    1.0 / (squares.iter().sum::<f64>() / width as f64 + f64::from(EPS)).sqrt()
}

fn panel_squares(rows: &[f64], cols: usize) -> Vec<f64> {
    rows.chunks(cols).flat_map(|row| row.chunks(16).map(|p| p.iter().map(|x| x * x).sum())).collect()
}

fn positive(random: &mut Random, count: usize) -> Vec<f32> {
    random.values(count).into_iter().map(|x| 4.0 + 3.0 * x).collect()
}

/// Shapes: rows, columns, slots or experts.
fn shape() -> impl Strategy<Value = (usize, usize, usize, u64)> {
    (1usize..40, prop_oneof![1usize..70, 900usize..1100], 1usize..6, any::<u64>())
        .prop_map(|(rows, cols, slots, seed)| (rows.min(9_000 / cols + 1), cols, slots, seed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn columns_are_scaled((rows, cols, _, seed) in shape()) {
        let mut random = Random(seed);
        let (x, w) = (random.values(rows * cols), random.values(cols));
        let out = same_everywhere(|isa, step| {
            let mut out = x.clone();
            let place = out.as_mut_ptr();
            let params = ScaleColumnsParams { x: place, w: w.as_ptr(), out: place, rows: rows as u32, cols: cols as u32 };
            run(scale_columns::select(isa), &params, scale_columns::blocks(&params), step, 0);
            out
        });
        prop_assert!(out.iter().enumerate().all(|(i, out)| out.to_bits() == (x[i] * w[i % cols]).to_bits()));
    }

    #[test]
    fn squares_and_rows_by_them((rows, cols, slots, seed) in shape(), biased: bool) {
        let mut random = Random(seed);
        let (tokens, panels) = (rows, cols.div_ceil(16));
        let x = random.values(rows * cols);
        let squares = same_everywhere(|isa, step| {
            let mut out = vec![f32::NAN; rows * panels];
            let params = SquareSumsParams { x: x.as_ptr(), out: out.as_mut_ptr(), rows: rows as u32, cols: cols as u32 };
            run(square_sums::select(isa), &params, square_sums::blocks(&params), step, 0);
            out
        });
        near(&squares, &panel_squares(&exact(&x), cols), 1e-6);
        let (width, y, bias) = (cols, random.values(tokens * slots * 37), random.values(37));
        let out = same_everywhere(|isa, step| {
            let mut out = y.clone();
            let bias = if biased { bias.as_ptr() } else { std::ptr::null() };
            let params = ScaleRowsParams {
                y: out.as_mut_ptr(), squares: squares.as_ptr(), bias, out: out.as_mut_ptr(),
                tokens: tokens as u32, slots: slots as u32, cols: 37, width: width as u32, eps: EPS, reserved: 0,
            };
            run(scale_rows::select(isa), &params, scale_rows::blocks(&params), step, 0);
            out
        });
        let sums = exact(&squares);
        let expected: Vec<f64> = y.iter().enumerate().map(|(i, y)| {
            let token = i / (37 * slots);
            let scale = reciprocal(&sums[token * panels..(token + 1) * panels], width);
            f64::from(*y) * scale + if biased { f64::from(bias[i % 37]) } else { 0.0 }
        }).collect();
        near(&out, &expected, 1e-6);
    }

    #[test]
    fn routers_in_parts((tokens, cols, experts, seed) in shape(), many: bool, biased: bool) {
        let experts = if many { experts * 13 } else { experts };
        let dtype = [DType::F32, DType::F16, DType::BF16][seed as usize % 3];
        let mut random = Random(seed);
        let (x, norm, panels) = (random.values(tokens * cols), random.values(cols), cols.div_ceil(16));
        let router = Matrix::random(dtype, experts, cols, seed);
        let partials = same_everywhere(|isa, step| {
            let mut out = vec![f32::NAN; tokens * panels * experts];
            let params = ColumnPartialsParams {
                x: x.as_ptr(), norm: norm.as_ptr(), w: router.packed.as_ptr().cast(), out: out.as_mut_ptr(),
                tokens: tokens as u32, cols: cols as u32, experts: experts as u32, reserved: 0,
            };
            run(column_partials::select(dtype.name(), isa), &params, column_partials::blocks(&params), step, 0);
            out
        });
        let partial = |t: usize, p: usize, e: usize| -> f64 {
            let columns = p * 16..cols.min(p * 16 + 16);
            let term = |c: usize| f64::from(x[t * cols + c] * norm[c]) * f64::from(router.values[e * cols + c]);
            columns.map(term).sum()
        };
        let expected: Vec<f64> = (0..tokens * panels * experts)
            .map(|i| partial(i / experts / panels, i / experts % panels, i % experts)).collect();
        near(&partials, &expected, 1e-6);
        let (squares, bias) = (positive(&mut random, tokens * panels), random.values(experts));
        let logits = same_everywhere(|isa, step| {
            let mut out = vec![f32::NAN; tokens * experts];
            let params = FinishLogitsParams {
                partials: partials.as_ptr(), squares: squares.as_ptr(),
                bias: if biased { bias.as_ptr() } else { std::ptr::null() }, out: out.as_mut_ptr(),
                tokens: tokens as u32, experts: experts as u32, width: cols as u32, eps: EPS,
            };
            run(finish_logits::select(isa), &params, finish_logits::blocks(&params), step, 0);
            out
        });
        let squares = exact(&squares);
        let expected: Vec<f64> = (0..tokens * experts).map(|i| {
            let (t, e) = (i / experts, i % experts);
            let sum: f64 = (0..panels).map(|p| f64::from(partials[(t * panels + p) * experts + e])).sum();
            let scale = reciprocal(&squares[t * panels..(t + 1) * panels], cols);
            sum * scale + if biased { f64::from(bias[e]) } else { 0.0 }
        }).collect();
        near(&logits, &expected, 2e-6);
    }

    /// A norm and its rounding are those of the two kernels, byte for byte.
    #[test]
    fn norms_are_rounded((rows, cols, _, seed) in shape(), biased: bool) {
        let mut random = Random(seed);
        let (x, weight, bias) = (random.values(rows * cols), random.values(cols), random.values(cols));
        let counts = (rows as u32, cols as u32);
        for norm in 1..=3u32 {
            let bias = if biased && norm == 2 { bias.as_ptr() } else { std::ptr::null() };
            for granularity in norm_quantize::VARIANTS {
                let row_floats = Rounding::from_word(granularity).unwrap().row_bytes(cols) / 4;
                let expected = {
                    let mut normed = vec![0f32; rows * cols];
                    let (x, weight, out) = (x.as_ptr(), weight.as_ptr(), normed.as_mut_ptr());
                    let (rows, cols) = counts;
                    match norm {
                        1 => {
                            let p = RmsNormParams { x, weight, out, rows, cols, eps: EPS, reserved: 0 };
                            run(rms_norm::select(Isa::best()), &p, rms_norm::blocks(&p), 1, 0);
                        }
                        2 => {
                            let p = LayerNormParams { x, weight, bias, out, rows, cols, eps: EPS, reserved: 0 };
                            run(layer_norm::select(Isa::best()), &p, layer_norm::blocks(&p), 1, 0);
                        }
                        _ => {
                            let p = ScaleColumnsParams { x, w: weight, out, rows, cols };
                            run(scale_columns::select(Isa::best()), &p, scale_columns::blocks(&p), 1, 0);
                        }
                    }
                    let mut out = vec![0u32; rows as usize * row_floats];
                    let p = QuantizeRowsParams { x: normed.as_ptr(), out: out.as_mut_ptr().cast(), rows, cols };
                    run(quantize_rows::select(granularity, Isa::best()), &p, quantize_rows::blocks(&p), 1, 0);
                    out
                };
                for &isa in Isa::available() {
                    let mut out = vec![0xa5u32; rows * row_floats];
                    let p = NormQuantizeParams {
                        x: x.as_ptr(), weight: weight.as_ptr(), bias, out: out.as_mut_ptr().cast(),
                        rows: counts.0, cols: counts.1, norm, eps: EPS,
                    };
                    let (blocks, scratch) = (norm_quantize::blocks(&p), norm_quantize::scratch_bytes(&p));
                    run(norm_quantize::select(granularity, isa), &p, blocks, 2, scratch);
                    prop_assert!(out == expected, "{isa} {granularity} norm {norm}");
                }
            }
        }
    }

    #[test]
    fn branches_join_the_stream((rows, cols, slots, seed) in shape(), factor in 0.25f32..2.0, emits: bool) {
        let mut random = Random(seed);
        let panels = cols.div_ceil(16);
        let (x, weight, residual) = (random.values(rows * cols), random.values(cols), random.values(rows * cols));
        let (y, weights) = (random.values(rows * slots * cols), random.values(rows * slots));
        // The sums of squares stand behind the result.
        let place = |out: &mut Vec<f32>| {
            out.resize(rows * cols + rows * panels, 0.0);
            let squares = out[rows * cols..].as_mut_ptr();
            (out.as_mut_ptr(), if emits { squares } else { std::ptr::null_mut() })
        };
        let (rows_, cols_) = (rows as u32, cols as u32);
        let normed = same_everywhere(|isa, step| {
            let mut memory = residual.clone();
            let (out, squares) = place(&mut memory);
            let p = NormAddParams {
                x: x.as_ptr(), weight: weight.as_ptr(), residual: out, out, squares, rows: rows_, cols: cols_, eps: EPS, factor,
            };
            run(norm_add::select(isa), &p, norm_add::blocks(&p), step, 0);
            memory
        });
        let squares = panel_squares(&exact(&x), cols);
        let expected: Vec<f64> = (0..rows * cols).map(|i| {
            let scale = reciprocal(&squares[i / cols * panels..(i / cols + 1) * panels], cols);
            f64::from(x[i]) * scale * f64::from(weight[i % cols]) * f64::from(factor) + f64::from(residual[i])
        }).collect();
        near(&normed[..rows * cols], &expected, 2e-6);
        let combined = same_everywhere(|isa, step| {
            let mut memory = residual.clone();
            let (out, squares) = place(&mut memory);
            let p = CombineAddParams {
                y: y.as_ptr(), weights: weights.as_ptr(), residual: out, out, squares,
                tokens: rows_, slots: slots as u32, cols: cols_, factor,
            };
            run(combine_add::select(isa), &p, combine_add::blocks(&p), step, 0);
            memory
        });
        let expected: Vec<f64> = (0..rows * cols).map(|i| {
            let (t, n) = (i / cols, i % cols);
            let slot = |j: usize| f64::from(weights[t * slots + j]) * f64::from(y[(t * slots + j) * cols + n]);
            (0..slots).map(slot).sum::<f64>() * f64::from(factor) + f64::from(residual[i])
        }).collect();
        near(&combined[..rows * cols], &expected, 2e-6);
        for memory in [&normed, &combined] {
            let expected = panel_squares(&exact(&memory[..rows * cols]), cols);
            near(&memory[rows * cols..], &if emits { expected } else { vec![0.0; rows * panels] }, 1e-6);
        }
    }
}
