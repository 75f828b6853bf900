//! Launches of `matmul` and `project`.

use ir::quant::{self, activations};
use ir::types::DType;

use super::{Case, noise, random_weights};

/// A launch of `project` or `matmul` without optional operands.
pub fn product(kernel: &str, dtype: DType, form: &str, [tokens, rows, cols]: [usize; 3]) -> Case {
    let case = Case::new(kernel, &format!("{}.{form}", dtype.name()));
    with_x(case, form, tokens, cols)
        .weights("w", dtype, [1, rows, cols], &random_weights(3, dtype, [1, rows, cols]))
        .output::<f32>("out", tokens * rows)
        .count("tokens", tokens)
        .count("rows", rows)
        .count("cols", cols)
}

/// Rows of x of different magnitudes, as the form has them in memory.
pub fn with_x(case: Case, form: &str, tokens: usize, cols: usize) -> Case {
    let x = rows_of_noise(7, tokens, cols);
    if form != "q8x32" {
        return case.input("x", &x);
    }
    let row_bytes = activations::row_bytes(cols as u64).unwrap() as usize;
    let mut bytes = vec![0u8; tokens * row_bytes];
    for (row, out) in x.chunks_exact(cols).zip(bytes.chunks_exact_mut(row_bytes)) {
        activations::quantize_row(row, activations::Granularity::Block, out).unwrap();
    }
    case.input("x", &bytes)
}

/// Noise whose rows do not depend on how many there are.
pub fn rows_of_noise(seed: u64, rows: usize, cols: usize) -> Vec<f32> {
    let row = |r: usize| noise(seed + r as u64, cols).into_iter().map(move |x| x * 1.7f32.powi(r as i32 % 9 - 4));
    (0..rows).flat_map(row).collect()
}

/// What a result may differ by from the native kernel's, relative RMS: the order of f32 sums, and of forms with 8 bits what f32 sums of
/// exact integers round.
pub fn limit(form: &str) -> f64 {
    match form {
        "f32" | "f32.half" => 3e-6,
        _ => 1e-5,
    }
}

/// Columns of a row of `dtype`, near `cols`.
pub fn columns(dtype: DType, cols: usize) -> usize {
    let block = quant::format(dtype).unwrap().block_len();
    if block == 1 { cols } else { cols.next_multiple_of(block) }
}

/// `project` with everything it takes.
pub fn full(dtype: DType, form: &str, [tokens, rows, cols]: [usize; 3], norm: usize, router: usize) -> Case {
    const EXPERTS: usize = 21;
    let router_type = [DType::F32, DType::F16, DType::BF16][router];
    let squares: Vec<f32> = rows_of_noise(40, tokens, cols.div_ceil(16)).iter().map(|x| x * x + 0.1).collect();
    let case = product("project", dtype, form, [tokens, rows, cols])
        .input("norm_weight", &noise(11, cols))
        .input("norm_bias", &noise(12, cols))
        .input("squares", &squares)
        .input("bias", &noise(13, rows))
        .input("gate", &noise(14, tokens))
        .input("residual", &rows_of_noise(50, tokens, rows))
        .input("router_norm", &noise(15, rows));
    case.weights("router", router_type, [1, EXPERTS, rows], &random_weights(16, router_type, [1, EXPERTS, rows]))
        .output::<f32>("squares_out", tokens * rows.div_ceil(16))
        .output::<f32>("partials_out", tokens * rows.div_ceil(16) * EXPERTS)
        .count("norm", norm)
        .count("router_rows", EXPERTS)
        .count("router_type", router)
        .number("eps", 1e-5)
        .number("norm_eps", 1e-6)
        .number("factor", 0.7)
        .number("softcap", 3.0)
}
