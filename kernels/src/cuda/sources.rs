//! The texts of `kernels/cuda`: compiling a model needs no source tree.
//!
//! Release builds carry them. Debug builds read them where they stand, once a process, so that editing a kernel rebuilds nothing.

use std::sync::OnceLock;

macro_rules! names {
    ($list:ident: $($name:literal),+ $(,)?) => {
        fn $list() -> Vec<(&'static str, &'static str)> {
            vec![$(($name, text!($name))),+]
        }
    };
}

#[cfg(debug_assertions)]
macro_rules! text {
    ($name:literal) => {
        read(concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/", $name))
    };
}

#[cfg(not(debug_assertions))]
macro_rules! text {
    ($name:literal) => {
        include_str!(concat!("../../cuda/", $name))
    };
}

/// A file that lives as long as the process; a missing one is an empty text, which does not compile.
#[cfg(debug_assertions)]
fn read(path: &str) -> &'static str {
    std::fs::read_to_string(path).unwrap_or_default().leak()
}

// Files that sources include.
names! {
    all_headers:
    "activations.cuh",
    "arrival.cuh",
    "async.cuh",
    "attention_chunks.cuh", "attention_loads.cuh", "attention_segments.cuh", "attention_tiles.cuh",
    "attention_unit.cuh",
    "combine.cuh",
    "dequant.cuh",
    "elements.cuh",
    "elementwise.cuh",
    "epilogue.cuh",
    "experts.cuh",
    "grouped_product.cuh",
    "head_finish.cuh",
    "kv_pages.cuh",
    "launch.cuh",
    "math.cuh",
    "matrix_product.cuh",
    "mma.cuh",
    "panel_sums.cuh",
    "params.h",
    "philox.cuh",
    "product.cuh",
    "product_gemm.cuh",
    "reduce.cuh",
    "rotary.cuh",
    "rounding.cuh",
    "row_statistics.cuh",
    "route.cuh",
    "row_norm.cuh",
    "sampling.cuh",
}

// One translation unit each.
names! {
    all_sources:
    "attention.cu",
    "binary.cu",
    "column_partials.cu",
    "combine.cu",
    "combine_add.cu",
    "combine_down.cu",
    "concat.cu",
    "embedding.cu",
    "finish_logits.cu",
    "gate_up.cu",
    "gather_rows.cu",
    "grouped_matmul.cu",
    "kv_append.cu",
    "layer_norm.cu",
    "matmul.cu",
    "norm_add.cu",
    "norm_quantize.cu",
    "page_copy.cu",
    "permute_columns.cu",
    "project.cu",
    "qkv.cu",
    "quantize_rows.cu",
    "rms_norm.cu",
    "rope.cu",
    "route.cu",
    "router.cu",
    "router_weights.cu",
    "sample.cu",
    "scale_columns.cu",
    "scale_rows.cu",
    "sigmoid_gate.cu",
    "square_sums.cu",
    "unary.cu",
}

/// The text of a `.cu` file.
pub fn source(name: &str) -> Option<&'static str> {
    static SOURCES: OnceLock<Vec<(&str, &str)>> = OnceLock::new();
    SOURCES.get_or_init(all_sources).iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

/// Every header: name as it stands in an `#include`, text.
pub fn headers() -> &'static [(&'static str, &'static str)] {
    static HEADERS: OnceLock<Vec<(&str, &str)>> = OnceLock::new();
    HEADERS.get_or_init(all_headers)
}

/// The headers that `text` includes, and those that they include: what compiling it depends on. In the order of [`headers`].
pub fn headers_of(text: &str) -> Vec<(&'static str, &'static str)> {
    let mut included = vec![false; headers().len()];
    let mut texts = vec![text];
    while let Some(text) = texts.pop() {
        for name in text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"')) {
            let header = headers().iter().position(|(n, _)| *n == name).filter(|i| !included[*i]);
            if let Some(i) = header {
                included[i] = true;
                texts.push(headers()[i].1);
            }
        }
    }
    headers().iter().zip(included).filter(|(_, included)| *included).map(|(header, _)| *header).collect()
}
