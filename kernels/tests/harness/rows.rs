//! Small launches of kernels that multiply no matrix: ragged shapes with tails of rows and columns.

use ir::types::DType;

use super::{Case, noise, random_weights};

/// Rows and columns of most launches: a tail of a panel, and more columns than a block has threads.
const ROWS: usize = 3;
const COLS: usize = 300;

/// A launch over `ROWS` rows `x`.
fn rows(kernel: &str, variant: &str) -> Case {
    let case = Case::new(kernel, variant).input("x", &noise(1, ROWS * COLS));
    case.count("rows", ROWS).count("cols", COLS)
}

/// As [`rows`], with a result of their size.
fn mapped(kernel: &str) -> Case {
    rows(kernel, "").output::<f32>("out", ROWS * COLS)
}

pub fn rms_norm() -> Case {
    mapped("rms_norm").input("weight", &noise(2, COLS)).number("eps", 1e-5)
}

pub fn layer_norm() -> Case {
    mapped("layer_norm").input("weight", &noise(2, COLS)).input("bias", &noise(3, COLS)).number("eps", 1e-5)
}

pub fn square_sums() -> Case {
    rows("square_sums", "").output::<f32>("out", ROWS * COLS.div_ceil(16))
}

/// Sums of squares of panels of `tokens` rows.
fn squares(tokens: usize) -> Vec<f32> {
    noise(9, tokens * COLS.div_ceil(16)).iter().map(|x| 16.0 * x * x).collect()
}

pub fn scale_rows() -> Case {
    let (tokens, slots) = (2, 2);
    Case::new("scale_rows", "")
        .input("y", &noise(1, tokens * slots * COLS))
        .input("squares", &squares(tokens))
        .input("bias", &noise(3, COLS))
        .output::<f32>("out", tokens * slots * COLS)
        .count("tokens", tokens)
        .count("slots", slots)
        .count("cols", COLS)
        .count("width", COLS)
        .number("eps", 1e-5)
}

/// Rows 0, 16 and the last of a table of 17 rows.
pub fn embedding(dtype: DType, cols: usize) -> Case {
    let (ids, rows) = ([0, 16, 7], 17);
    Case::new("embedding", dtype.name())
        .input("ids", &ids)
        .weights("table", dtype, [1, rows, cols], &random_weights(5, dtype, [1, rows, cols]))
        .output::<f32>("out", ids.len() * cols)
        .count("tokens", ids.len())
        .count("rows", rows)
        .count("cols", cols)
}

pub fn concat() -> Case {
    let b_cols = 77;
    Case::new("concat", "")
        .input("a", &noise(1, ROWS * COLS))
        .input("b", &noise(2, ROWS * b_cols))
        .output::<f32>("out", ROWS * (COLS + b_cols))
        .count("rows", ROWS)
        .count("a_cols", COLS)
        .count("b_cols", b_cols)
}

/// Tokens of two sequences over five pages of a cache; what is no token's slot stays as it was.
pub fn kv_append(variant: &str) -> Case {
    let (heads, head_dim) = (2, 24);
    let elements = 5 * 2 * heads * head_dim * 16;
    let case = Case::new("kv_append", variant)
        .input("k", &noise(1, ROWS * heads * head_dim))
        .input("v", &noise(2, ROWS * heads * head_dim))
        .input("positions", &[15, 16, 20])
        .input("sequences", &[0, 0, 1])
        .input("page_table", &[3, 1, 4, 2])
        .count("tokens", ROWS)
        .count("kv_heads", heads)
        .count("head_dim", head_dim)
        .count("page_table_stride", 2);
    match variant {
        "f16" => case.update("kv", &vec![half::f16::MAX; elements]),
        "int8" => case.update("kv", &vec![9u8; elements + 5 * 2 * heads * 32]),
        _ => case.update("kv", &vec![9f32; elements]),
    }
}
