//! Rounding of rows to q8x32 or f16: `quantize_rows` and, with a norm before it, `norm_quantize`; one block a row.

use super::grid::{by_row, expect, refused, threads};
use super::{Constraint, CudaKernel, Define, cuda_kernel};
use crate::abi::{NormQuantizeParams, QuantizeRowsParams};

/// Constants of a variant; the numbers are those of `rounding.cuh`.
fn constants(kernel: &'static str, variant: &str, rows: u32) -> Result<Vec<Define>, Constraint> {
    expect(kernel, variant, rows.into(), 1)?;
    let words = ["block", "row", "half"];
    let rounding = words
        .iter()
        .position(|word| *word == variant)
        .ok_or_else(|| refused(kernel, variant, format!("no such rounding; there are {}", words.join(", "))))?;
    Ok(vec![threads(), Define::new("ROUNDING", rounding + 1)])
}

pub static QUANTIZE_ROWS: CudaKernel = cuda_kernel!(
    "quantize_rows", "quantize_rows.cu", QuantizeRowsParams,
    specialise: |variant, p| constants("quantize_rows", variant, p.rows),
    launches: |_, p| by_row("quantize_rows", p.rows),
    workspace: |_, _| 0,
);

pub static NORM_QUANTIZE: CudaKernel = cuda_kernel!(
    "norm_quantize", "norm_quantize.cu", NormQuantizeParams,
    specialise: |variant, p| constants("norm_quantize", variant, p.rows),
    launches: |_, p| by_row("norm_quantize", p.rows),
    workspace: |_, _| 0,
);
