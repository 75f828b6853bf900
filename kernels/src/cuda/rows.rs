//! Kernels over rows of activations: copies, norms, scales, and the sums that fused launches leave to later ones.

use ir::quant::fragments;
use ir::types::DType;

use super::grid::{self, by_element, by_row, elementwise, expect, expect_elements};
use super::{CudaKernel, Define, cuda_kernel};
use crate::abi::{
    ConcatParams, EmbeddingParams, FinishLogitsParams, GatherRowsParams, LayerNormParams, NormAddParams,
    PermuteColumnsParams, ScaleColumnsParams, ScaleRowsParams, SigmoidGateParams, SquareSumsParams,
};

/// A column and a block of [`grid::THREADS`] columns.
fn by_column(entry: &'static str, rows: u32, cols: u32) -> Vec<super::CudaLaunch> {
    grid::launch(entry, rows.into(), cols.div_ceil(grid::THREADS).into(), grid::THREADS)
}

pub static EMBEDDING: CudaKernel = cuda_kernel!(
    "embedding", "embedding.cu", EmbeddingParams,
    specialise: |variant, p| {
        expect("embedding", variant, p.tokens.into(), p.cols.div_ceil(grid::ELEMENTS).into())?;
        let dtype = DType::from_name(variant);
        let tile = dtype.and_then(|table| fragments::tile_bytes(table, p.cols.into())).ok_or_else(|| {
            grid::refused("embedding", variant, format!("rows of {} columns are no table of this format", p.cols))
        })?;
        let mut defines = elementwise();
        defines.extend([Define::new("TABLE", format!("elements::{variant}")), Define::new("TILE_BYTES", tile)]);
        Ok(defines)
    },
    launches: |_, p| by_element("embedding", p.tokens.into(), p.cols.into()),
    workspace: |_, _| 0,
);

pub static GATHER_ROWS: CudaKernel = cuda_kernel!(
    "gather_rows", "gather_rows.cu", GatherRowsParams,
    specialise: |_, p| expect_elements("gather_rows", p.count.into(), p.cols.into()).map(|()| elementwise()),
    launches: |_, p| by_element("gather_rows", p.count.into(), p.cols.into()),
    workspace: |_, _| 0,
);

pub static LAYER_NORM: CudaKernel = cuda_kernel!(
    "layer_norm", "layer_norm.cu", LayerNormParams,
    specialise: |_, p| expect("layer_norm", "", p.rows.into(), 1).map(|()| vec![grid::threads()]),
    launches: |_, p| by_row("layer_norm", p.rows),
    workspace: |_, _| 0,
);

pub static NORM_ADD: CudaKernel = cuda_kernel!(
    "norm_add", "norm_add.cu", NormAddParams,
    specialise: |_, p| expect("norm_add", "", p.rows.into(), 1).map(|()| vec![grid::threads()]),
    launches: |_, p| by_row("norm_add", p.rows),
    workspace: |_, _| 0,
);

pub static SCALE_COLUMNS: CudaKernel = cuda_kernel!(
    "scale_columns", "scale_columns.cu", ScaleColumnsParams,
    specialise: |_, p| expect_elements("scale_columns", p.rows.into(), p.cols.into()).map(|()| elementwise()),
    launches: |_, p| by_element("scale_columns", p.rows.into(), p.cols.into()),
    workspace: |_, _| 0,
);

pub static SQUARE_SUMS: CudaKernel = cuda_kernel!(
    "square_sums", "square_sums.cu", SquareSumsParams,
    specialise: |_, p| {
        expect("square_sums", "", p.rows.into(), p.cols.div_ceil(grid::THREADS).into())?;
        Ok(vec![grid::threads()])
    },
    launches: |_, p| by_column("square_sums", p.rows, p.cols),
    workspace: |_, _| 0,
);

pub static SCALE_ROWS: CudaKernel = cuda_kernel!(
    "scale_rows", "scale_rows.cu", ScaleRowsParams,
    specialise: |_, p| {
        expect_elements("scale_rows", u64::from(p.tokens) * u64::from(p.slots), p.cols.into())?;
        Ok(elementwise())
    },
    launches: |_, p| by_element("scale_rows", u64::from(p.tokens) * u64::from(p.slots), p.cols.into()),
    workspace: |_, _| 0,
);

pub static FINISH_LOGITS: CudaKernel = cuda_kernel!(
    "finish_logits", "finish_logits.cu", FinishLogitsParams,
    specialise: |_, p| {
        expect("finish_logits", "", p.tokens.into(), p.experts.div_ceil(grid::THREADS).into())?;
        Ok(vec![grid::threads()])
    },
    launches: |_, p| by_column("finish_logits", p.tokens, p.experts),
    workspace: |_, _| 0,
);

pub static SIGMOID_GATE: CudaKernel = cuda_kernel!(
    "sigmoid_gate", "sigmoid_gate.cu", SigmoidGateParams,
    specialise: |_, p| expect_elements("sigmoid_gate", p.rows.into(), p.cols.into()).map(|()| elementwise()),
    launches: |_, p| by_element("sigmoid_gate", p.rows.into(), p.cols.into()),
    workspace: |_, _| 0,
);

pub static CONCAT: CudaKernel = cuda_kernel!(
    "concat", "concat.cu", ConcatParams,
    specialise: |_, p| {
        expect_elements("concat", p.rows.into(), u64::from(p.a_cols) + u64::from(p.b_cols))?;
        Ok(elementwise())
    },
    launches: |_, p| by_element("concat", p.rows.into(), u64::from(p.a_cols) + u64::from(p.b_cols)),
    workspace: |_, _| 0,
);

pub static PERMUTE_COLUMNS: CudaKernel = cuda_kernel!(
    "permute_columns", "permute_columns.cu", PermuteColumnsParams,
    specialise: |_, p| {
        expect_elements("permute_columns", u64::from(p.tokens) * u64::from(p.slots), p.cols.into())?;
        Ok(elementwise())
    },
    launches: |_, p| by_element("permute_columns", u64::from(p.tokens) * u64::from(p.slots), p.cols.into()),
    workspace: |_, _| 0,
);
