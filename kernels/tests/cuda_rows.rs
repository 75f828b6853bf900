//! Kernels over rows, executed by the simulator beside the native ones.

mod harness;

use std::collections::BTreeMap;

use harness::{ARCHITECTURES, Case, Outputs, Simulated, expect_close, noise, random_weights};
use ir::quant::FORMATS;
use ir::types::DType;

/// What the simulator makes of a case on each architecture, beside what the native kernel does.
fn run(case: &Case) -> (Outputs, Vec<Simulated>) {
    (case.run_native(), ARCHITECTURES.iter().map(|architecture| case.run_simulated(architecture)).collect())
}

/// Panics unless every output has the native bits.
#[track_caller]
fn expect_same_bits(case: &Case) {
    let (native, simulated) = run(case);
    for simulated in simulated {
        for (field, bytes) in &native {
            assert!(simulated.outputs[field] == *bytes, "{field}: {:?}", difference(&simulated.outputs[field], bytes));
        }
    }
}

/// The first word that differs: its index, the simulated and the native bits.
fn difference(simulated: &[u8], native: &[u8]) -> Option<(usize, [u8; 4], [u8; 4])> {
    let words = simulated.as_chunks::<4>().0.iter().zip(native.as_chunks::<4>().0);
    words.enumerate().find(|(_, (a, b))| a != b).map(|(i, (a, b))| (i, *a, *b))
}

/// Panics unless every output is as near to the native one as sums in another order are.
#[track_caller]
fn expect_near(case: &Case) {
    let (native, simulated) = run(case);
    for simulated in simulated {
        native.keys().for_each(|field| expect_close(&native, &simulated, field, 1e-6));
    }
}

#[test]
fn rms_norm() {
    for (rows, cols) in [(1, 64), (3, 7), (5, 300), (2, 2049)] {
        let case = Case::new("rms_norm", "")
            .input("x", &noise(1, rows * cols))
            .input("weight", &noise(2, cols))
            .output::<f32>("out", rows * cols)
            .count("rows", rows)
            .count("cols", cols)
            .number("eps", 1e-5);
        expect_near(&case);
    }
}

#[test]
fn layer_norm() {
    for (rows, cols, biased) in [(1, 64, true), (3, 7, false), (5, 300, true), (2, 2049, false)] {
        let x: Vec<f32> = noise(1, rows * cols).iter().map(|x| x + 3.0).collect();
        let mut case = Case::new("layer_norm", "")
            .input("x", &x)
            .input("weight", &noise(2, cols))
            .output::<f32>("out", rows * cols)
            .count("rows", rows)
            .count("cols", cols)
            .number("eps", 1e-5);
        if biased {
            case = case.input("bias", &noise(3, cols));
        }
        expect_near(&case);
    }
}

/// Rows of every format; ids past the table's end are refused by the engine, so that the native kernel checks them only in
/// tests, and give zeros here.
#[test]
fn embedding() {
    for format in FORMATS {
        let dtype = format.dtype();
        for (rows, cols) in [(40, 512), (17, 1280)] {
            let cols = if format.block_len() == 1 { cols - 29 } else { cols };
            let ids = [0, 16, rows as i32 - 1, 7, 8, 15];
            let case = Case::new("embedding", dtype.name())
                .input("ids", &ids)
                .weights("table", dtype, [1, rows, cols], &random_weights(5, dtype, [1, rows, cols]))
                .output::<f32>("out", ids.len() * cols)
                .count("tokens", ids.len())
                .count("rows", rows)
                .count("cols", cols);
            expect_same_bits(&case);
        }
    }
}

#[test]
fn ids_outside_the_table_give_zeros() {
    let (dtype, rows, cols) = (DType::Q4_0, 3, 64);
    let case = Case::new("embedding", dtype.name())
        .input("ids", &[-1, 3, i32::MAX])
        .weights("table", dtype, [1, rows, cols], &random_weights(5, dtype, [1, rows, cols]))
        .output::<f32>("out", 3 * cols)
        .count("tokens", 3)
        .count("rows", rows)
        .count("cols", cols);
    let simulated = case.run_simulated("sm_80");
    assert!(simulated.outputs["out"].iter().all(|byte| *byte == 0));
}

#[test]
fn a_table_of_broken_blocks_is_refused() {
    let case = Case::new("embedding", "q4_k").count("tokens", 1).count("rows", 16).count("cols", 100);
    let refused = case.constraint().expect("100 columns are no blocks of 256");
    assert_eq!(refused.kernel, "embedding");
    let too_many = Case::new("concat", "").count("rows", 1 << 31).count("a_cols", 1).count("b_cols", 1);
    assert!(too_many.constraint().expect("more blocks than a grid has").to_string().contains("fewer tokens"));
}

#[test]
fn gather_rows() {
    for cols in [1, 300, 1500] {
        let rows = [6, 0, 6, 3];
        let case = Case::new("gather_rows", "")
            .input("x", &noise(1, 7 * cols))
            .input("rows", &rows)
            .output::<f32>("out", rows.len() * cols)
            .count("count", rows.len())
            .count("cols", cols);
        expect_same_bits(&case);
    }
}

/// Rows with groups of zeros, of numbers that count as zero, and of very different sizes.
fn rows_to_round(rows: usize, cols: usize) -> Vec<f32> {
    let mut x = noise(3, rows * cols);
    for (row, x) in x.chunks_exact_mut(cols).enumerate() {
        let size = [1.0, 1e-30, 1e30, 0.0, 1e-39][row % 5];
        x.iter_mut().enumerate().for_each(|(c, x)| *x *= if c / 32 % 3 == 1 { size * 1e-4 } else { size });
    }
    x
}

/// Bytes of rounded rows.
fn rounded_bytes(variant: &str, rows: usize, cols: usize) -> usize {
    rows * if variant == "half" { 4 * cols } else { 44 * cols.div_ceil(32) }
}

#[test]
fn quantize_rows() {
    for variant in ["block", "row", "half"] {
        for (rows, cols) in [(5, 64), (5, 7), (1, 2080), (6, 331)] {
            let case = Case::new("quantize_rows", variant)
                .input("x", &rows_to_round(rows, cols))
                .output::<u8>("out", rounded_bytes(variant, rows, cols))
                .count("rows", rows)
                .count("cols", cols);
            expect_same_bits(&case);
        }
    }
}

/// The norms as the kernels of their own compute them, by the number that norm_quantize gives them.
fn norm_alone(norm: usize, x: &[f32], weight: &[f32], bias: &[f32], architecture: &str) -> Vec<f32> {
    let (cols, kernel) = (weight.len(), ["rms_norm", "layer_norm", "scale_columns"][norm - 1]);
    let case = Case::new(kernel, "").input("x", x).output::<f32>("out", x.len()).count("cols", cols);
    let case = case.count("rows", x.len() / cols);
    let case = match norm {
        1 => case.input("weight", weight).number("eps", 1e-5),
        2 => case.input("weight", weight).input("bias", bias).number("eps", 1e-5),
        _ => case.input("w", weight),
    };
    harness::floats(&case.run_simulated(architecture).outputs["out"])
}

/// Bits are those of the norm's kernel and then of `quantize_rows`: the norm's differ from the native ones in the order of sums.
#[test]
fn norm_quantize() {
    for (norm, variant) in [(1, "block"), (1, "half"), (2, "row"), (2, "block"), (3, "half"), (3, "row")] {
        let (rows, cols) = (3, 331);
        let (x, weight, bias) = (noise(1, rows * cols), noise(2, cols), noise(3, cols));
        let mut case = Case::new("norm_quantize", variant)
            .input("x", &x)
            .input("weight", &weight)
            .output::<u8>("out", rounded_bytes(variant, rows, cols))
            .count("rows", rows)
            .count("cols", cols)
            .count("norm", norm)
            .number("eps", 1e-5);
        if norm == 2 {
            case = case.input("bias", &bias);
        }
        for architecture in ARCHITECTURES {
            let normed = norm_alone(norm, &x, &weight, &bias, architecture);
            let rounded = Case::new("quantize_rows", variant)
                .input("x", &normed)
                .output::<u8>("out", rounded_bytes(variant, rows, cols))
                .count("rows", rows)
                .count("cols", cols)
                .run_native();
            let simulated = case.run_simulated(architecture);
            assert!(simulated.outputs == rounded, "norm {norm}, {variant}, {architecture}");
        }
    }
}

#[test]
fn norm_add() {
    for (rows, cols, squares, alias) in
        [(1, 64, true, "residual"), (3, 7, true, "x"), (2, 300, false, ""), (2, 2049, true, "residual")]
    {
        let mut case = Case::new("norm_add", "")
            .input("x", &noise(1, rows * cols))
            .input("weight", &noise(2, cols))
            .input("residual", &noise(3, rows * cols))
            .count("rows", rows)
            .count("cols", cols)
            .number("eps", 1e-5)
            .number("factor", 0.75);
        if squares {
            case = case.output::<f32>("squares", rows * cols.div_ceil(16));
        }
        case = if alias.is_empty() { case.output::<f32>("out", rows * cols) } else { case.alias("out", alias) };
        expect_near(&case);
    }
}

#[test]
fn scale_columns() {
    for (rows, cols, in_place) in [(1, 64, true), (3, 7, false), (2, 2049, true)] {
        let case = Case::new("scale_columns", "")
            .input("x", &noise(1, rows * cols))
            .input("w", &noise(2, cols))
            .count("rows", rows)
            .count("cols", cols);
        expect_same_bits(&if in_place { case.alias("out", "x") } else { case.output::<f32>("out", rows * cols) });
    }
}

#[test]
fn square_sums() {
    for (rows, cols) in [(1, 64), (3, 7), (2, 1037)] {
        let case = Case::new("square_sums", "")
            .input("x", &noise(1, rows * cols))
            .output::<f32>("out", rows * cols.div_ceil(16))
            .count("rows", rows)
            .count("cols", cols);
        expect_same_bits(&case);
    }
}

fn squares(rows: usize, width: usize) -> Vec<f32> {
    noise(9, rows * width.div_ceil(16)).iter().map(|x| 16.0 * x * x).collect()
}

#[test]
fn scale_rows() {
    for (tokens, slots, cols, width, biased) in [(2, 1, 64, 64, true), (3, 2, 7, 1000, false), (1, 3, 1100, 2048, true)]
    {
        let mut case = Case::new("scale_rows", "")
            .input("y", &noise(1, tokens * slots * cols))
            .input("squares", &squares(tokens, width))
            .count("tokens", tokens)
            .count("slots", slots)
            .count("cols", cols)
            .count("width", width)
            .number("eps", 1e-5);
        if biased {
            case = case.input("bias", &noise(3, cols));
        }
        let in_place = slots == 2;
        expect_same_bits(&match in_place {
            true => case.alias("out", "y"),
            false => case.output::<f32>("out", tokens * slots * cols),
        });
    }
}

#[test]
fn finish_logits() {
    for (tokens, experts, width, biased) in [(2usize, 8, 64usize, true), (1, 300, 100, false), (3, 33, 1000, true)] {
        let mut case = Case::new("finish_logits", "")
            .input("partials", &noise(1, tokens * width.div_ceil(16) * experts))
            .input("squares", &squares(tokens, width))
            .output::<f32>("out", tokens * experts)
            .count("tokens", tokens)
            .count("experts", experts)
            .count("width", width)
            .number("eps", 1e-6);
        if biased {
            case = case.input("bias", &noise(3, experts));
        }
        let (native, simulated) = run(&case);
        simulated.iter().for_each(|s| expect_close(&native, s, "out", 1e-6));
    }
}

#[test]
fn sigmoid_gate() {
    for (rows, cols, in_place) in [(1, 64, true), (3, 7, false), (2, 1100, false)] {
        let gate: Vec<f32> = noise(2, rows).iter().map(|x| 20.0 * x).collect();
        let case = Case::new("sigmoid_gate", "")
            .input("x", &noise(1, rows * cols))
            .input("gate", &gate)
            .count("rows", rows)
            .count("cols", cols);
        expect_same_bits(&if in_place { case.alias("out", "x") } else { case.output::<f32>("out", rows * cols) });
    }
}

#[test]
fn concat() {
    for (rows, a_cols, b_cols) in [(1, 64, 64), (3, 7, 0), (2, 513, 600)] {
        let case = Case::new("concat", "")
            .input("a", &noise(1, rows * a_cols))
            .input("b", &noise(2, rows * b_cols))
            .output::<f32>("out", rows * (a_cols + b_cols))
            .count("rows", rows)
            .count("a_cols", a_cols)
            .count("b_cols", b_cols);
        expect_same_bits(&case);
    }
}

/// Indexes and experts that do not exist give zeros.
#[test]
fn permute_columns() {
    for (slots, shared, with_experts, cols) in [(1, false, false, 64), (2, true, true, 7), (2, false, true, 1100)] {
        let (tokens, matrices) = (2, if with_experts { 3 } else { 1 });
        let rows = if shared { tokens } else { tokens * slots };
        let index: Vec<i32> = (0..matrices * cols).map(|i| (i * 5 + 3) as i32 % (cols as i32 + 2) - 1).collect();
        let mut case = Case::new("permute_columns", "")
            .input("x", &noise(1, rows * cols))
            .input("index", &index)
            .output::<f32>("out", tokens * slots * cols)
            .count("tokens", tokens)
            .count("slots", slots)
            .count("matrices", matrices)
            .count("cols", cols)
            .count("slots_share_x", shared.into());
        if with_experts {
            case = case.input("experts", &[2, -1, 3, 0]);
        }
        expect_same_bits(&case);
    }
}

/// Numbers of every size, at which the elementary functions change their form.
fn wide(seed: u64, count: usize) -> Vec<f32> {
    let edges = [0.0, -0.0, 0.6, -0.6, 13.5, -13.5, 88.5, -88.5, 1e-30, -1e30, f32::INFINITY, f32::NEG_INFINITY];
    let mut values: Vec<f32> = noise(seed, count).iter().map(|x| 12.0 * x).collect();
    values.iter_mut().zip(edges).for_each(|(value, edge)| *value = edge);
    values
}

/// The patterns of numbers; of a NaN, which devices word differently, only that it is one.
fn patterns(bytes: &[u8]) -> Vec<u32> {
    harness::floats(bytes).iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

#[test]
fn binary() {
    let variants = ["add", "mul", "silu_mul", "gelu_tanh_mul", "gelu_mul", "relu2_mul", "clamped_swiglu_mul"];
    let sizes = BTreeMap::from([("add", ("a", 2500)), ("silu_mul", ("b", 1030)), ("clamped_swiglu_mul", ("b", 77))]);
    for variant in variants {
        let (alias, count) = sizes.get(variant).copied().unwrap_or(("", 600));
        let case = Case::new("binary", variant)
            .input("a", &wide(1, count))
            .input("b", &noise(2, count))
            .count("count", count)
            .number("limit", 0.9);
        let case = if alias.is_empty() { case.output::<f32>("out", count) } else { case.alias("out", alias) };
        let (native, simulated) = run(&case);
        for simulated in simulated {
            native.iter().for_each(|(k, v)| assert_eq!(patterns(&simulated.outputs[k]), patterns(v), "{variant}"));
        }
    }
}

#[test]
fn unary() {
    for (variant, in_place) in [("scale", true), ("softcap", false)] {
        let case = Case::new("unary", variant).input("x", &wide(1, 1500)).count("count", 1500).number("value", 3.7);
        expect_same_bits(&if in_place { case.alias("out", "x") } else { case.output::<f32>("out", 1500) });
    }
}
