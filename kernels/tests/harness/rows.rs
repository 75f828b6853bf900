//! A small launch of each kernel that multiplies no matrix: ragged shapes with tails of rows and columns.

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

pub fn norm_add() -> Case {
    mapped("norm_add")
        .input("weight", &noise(2, COLS))
        .input("residual", &noise(3, ROWS * COLS))
        .output::<f32>("squares", ROWS * COLS.div_ceil(16))
        .number("eps", 1e-5)
        .number("factor", 0.75)
}

pub fn scale_columns() -> Case {
    mapped("scale_columns").input("w", &noise(2, COLS))
}

pub fn sigmoid_gate() -> Case {
    mapped("sigmoid_gate").input("gate", &noise(2, ROWS))
}

pub fn square_sums() -> Case {
    rows("square_sums", "").output::<f32>("out", ROWS * COLS.div_ceil(16))
}

fn rounded_bytes(variant: &str) -> usize {
    ROWS * if variant == "half" { 4 * COLS } else { 44 * COLS.div_ceil(32) }
}

pub fn quantize_rows(variant: &str) -> Case {
    rows("quantize_rows", variant).output::<u8>("out", rounded_bytes(variant))
}

/// Columns scaled alone: sums of a norm have another order than the native ones, and roundings would differ.
pub fn norm_quantize(variant: &str) -> Case {
    let case = rows("norm_quantize", variant).input("weight", &noise(2, COLS));
    case.output::<u8>("out", rounded_bytes(variant)).count("norm", 3)
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

pub fn finish_logits() -> Case {
    let (tokens, experts) = (2, 33);
    Case::new("finish_logits", "")
        .input("partials", &noise(1, tokens * COLS.div_ceil(16) * experts))
        .input("squares", &squares(tokens))
        .input("bias", &noise(3, experts))
        .output::<f32>("out", tokens * experts)
        .count("tokens", tokens)
        .count("experts", experts)
        .count("width", COLS)
        .number("eps", 1e-6)
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

pub fn column_partials(dtype: DType) -> Case {
    let experts = 18;
    Case::new("column_partials", dtype.name())
        .input("x", &noise(1, ROWS * COLS))
        .input("norm", &noise(2, COLS))
        .weights("w", dtype, [1, experts, COLS], &random_weights(3, dtype, [1, experts, COLS]))
        .output::<f32>("out", ROWS * COLS.div_ceil(16) * experts)
        .count("tokens", ROWS)
        .count("cols", COLS)
        .count("experts", experts)
}

pub fn gather_rows() -> Case {
    let indices = [2, 0, 2];
    Case::new("gather_rows", "")
        .input("x", &noise(1, ROWS * COLS))
        .input("rows", &indices)
        .output::<f32>("out", indices.len() * COLS)
        .count("count", indices.len())
        .count("cols", COLS)
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

/// Some columns and one expert do not exist.
pub fn permute_columns() -> Case {
    let index: Vec<i32> = (0..2 * COLS).map(|i| (i * 7 + 3) as i32 % (COLS as i32 + 2) - 1).collect();
    Case::new("permute_columns", "")
        .input("x", &noise(1, ROWS * COLS))
        .input("index", &index)
        .input("experts", &[1, 2, 0])
        .output::<f32>("out", ROWS * COLS)
        .count("tokens", ROWS)
        .count("slots", 1)
        .count("matrices", 2)
        .count("cols", COLS)
}

pub fn binary(variant: &str) -> Case {
    let count = 1100;
    let a: Vec<f32> = noise(1, count).iter().map(|x| 6.0 * x).collect();
    let case = Case::new("binary", variant).input("a", &a).input("b", &noise(2, count));
    case.output::<f32>("out", count).count("count", count).number("limit", 0.9)
}

pub fn unary(variant: &str) -> Case {
    let case = Case::new("unary", variant).input("x", &noise(1, 1100)).output::<f32>("out", 1100);
    case.count("count", 1100).number("value", 1.7)
}

/// A launch over the results of a token's experts.
fn combining(kernel: &str) -> Case {
    let slots = 4;
    Case::new(kernel, "")
        .input("y", &noise(1, ROWS * slots * COLS))
        .input("weights", &noise(2, ROWS * slots))
        .output::<f32>("out", ROWS * COLS)
        .count("tokens", ROWS)
        .count("slots", slots)
        .count("cols", COLS)
}

pub fn combine() -> Case {
    combining("combine")
}

pub fn combine_add() -> Case {
    combining("combine_add")
        .input("residual", &noise(3, ROWS * COLS))
        .output::<f32>("squares", ROWS * COLS.div_ceil(16))
        .number("factor", 0.75)
}

/// Tokens of two tables of frequencies, by pairs of neighbours.
pub fn rope() -> Case {
    let (heads, head_dim, pairs) = (3, 20, 7);
    let frequencies: Vec<f32> = (0..2 * pairs).map(|i| 0.9f32.powi(i as i32)).collect();
    Case::new("rope", "")
        .input("x", &noise(1, ROWS * heads * head_dim))
        .input("positions", &[0, 77, 4095])
        .input("inv_freq", &frequencies)
        .input("table", &[0, 1, 1])
        .output::<f32>("out", ROWS * heads * head_dim)
        .count("tokens", ROWS)
        .count("heads", heads)
        .count("head_dim", head_dim)
        .count("pairs", pairs)
        .count("tables", 2)
        .count("interleaved", 1)
        .number("scale", 1.25)
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
        _ => case.update("kv", &vec![9f32; elements]),
    }
}
