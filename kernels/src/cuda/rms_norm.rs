//! `rms_norm`: one block a row.

use super::{CudaKernel, CudaLaunch, cuda_kernel};
use crate::abi::RmsNormParams;

/// Threads of a block.
const THREADS: u32 = 256;

pub static KERNEL: CudaKernel = cuda_kernel!(
    "rms_norm", "rms_norm.cu", RmsNormParams,
    specialise: |_, _| Ok(vec![super::Define::new("THREADS", THREADS)]),
    launches: |_, p| match p.rows {
        0 => Vec::new(),
        rows => vec![CudaLaunch { entry: "rms_norm", grid: [rows, 1, 1], threads: THREADS, shared_bytes: 0 }],
    },
    workspace: |_, _| 0,
);
