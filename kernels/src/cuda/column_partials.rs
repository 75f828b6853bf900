//! `column_partials`: half a warp for a panel of 16 columns of one token.

use super::{Constraint, CudaKernel, CudaLaunch, Define, cuda_kernel};
use crate::abi::ColumnPartialsParams;
use crate::cpu::column_partials::VARIANTS;

/// Threads of a block.
const THREADS: u32 = 256;

/// Panels in a block of the grid.
const BLOCK_PANELS: u64 = THREADS as u64 / 16;

pub static KERNEL: CudaKernel = cuda_kernel!(
    "column_partials", "column_partials.cu", ColumnPartialsParams,
    specialise: |variant, _| defines(variant),
    launches: |_, p| match u64::from(p.tokens) * u64::from(p.cols.div_ceil(16)) {
        0 => Vec::new(),
        panels => {
            let grid = [u32::try_from(panels.div_ceil(BLOCK_PANELS)).unwrap_or(u32::MAX), 1, 1];
            vec![CudaLaunch { entry: "column_partials", grid, threads: THREADS, shared_bytes: 0 }]
        }
    },
    workspace: |_, _| 0,
);

/// The router's type by its number, which is its place among the variants.
fn defines(variant: &str) -> Result<Vec<Define>, Constraint> {
    let Some(number) = VARIANTS.iter().position(|v| *v == variant) else {
        let message = format!("no such variant; there are {}", VARIANTS.join(", "));
        return Err(Constraint { kernel: "column_partials", variant: variant.into(), message });
    };
    Ok(vec![Define::new("THREADS", THREADS), Define::new("ROUTER_TYPE", number)])
}
