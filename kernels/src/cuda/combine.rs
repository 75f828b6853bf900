//! `combine` and `combine_add`: a thread a column of a token.

use super::{Constraint, CudaKernel, CudaLaunch, Define, cuda_kernel};
use crate::abi::{CombineAddParams, CombineParams};

/// Threads of a block.
const THREADS: u32 = 256;

/// The greatest first dimension of a grid.
const MOST_BLOCKS: u64 = (1 << 31) - 1;

fn blocks(tokens: u32, cols: u32) -> u64 {
    u64::from(tokens) * u64::from(cols.div_ceil(THREADS))
}

fn constants(kernel: &'static str, [tokens, cols]: [u32; 2]) -> Result<Vec<Define>, Constraint> {
    if blocks(tokens, cols) > MOST_BLOCKS {
        let message =
            format!("{tokens} tokens of {cols} columns are more blocks than a grid has; take fewer tokens a step");
        return Err(Constraint { kernel, variant: String::new(), message });
    }
    Ok(vec![Define::new("THREADS", THREADS)])
}

fn launch(entry: &'static str, [tokens, cols]: [u32; 2]) -> Vec<CudaLaunch> {
    match blocks(tokens, cols) {
        0 => Vec::new(),
        blocks => vec![CudaLaunch { entry, grid: [blocks as u32, 1, 1], threads: THREADS, shared_bytes: 0 }],
    }
}

pub static COMBINE: CudaKernel = cuda_kernel!(
    "combine", "combine.cu", CombineParams,
    specialise: |_, p| constants("combine", [p.tokens, p.cols]),
    launches: |_, p| launch("combine", [p.tokens, p.cols]),
    workspace: |_, _| 0,
);

pub static COMBINE_ADD: CudaKernel = cuda_kernel!(
    "combine_add", "combine_add.cu", CombineAddParams,
    specialise: |_, p| constants("combine_add", [p.tokens, p.cols]),
    launches: |_, p| launch("combine_add", [p.tokens, p.cols]),
    workspace: |_, _| 0,
);
