//! Element-wise kernels over tensors of any shape.

use super::grid::{ELEMENTS, THREADS, elementwise, expect, launch};
use super::{Constraint, CudaKernel, Define, cuda_kernel};
use crate::abi::{BinaryParams, UnaryParams};

/// Constants of a kernel whose variants are the names of its operations.
fn constants(kernel: &'static str, operation: &str, count: u64) -> Result<Vec<Define>, Constraint> {
    expect(kernel, operation, count.div_ceil(ELEMENTS.into()), 1)?;
    let mut defines = elementwise();
    defines.push(Define::new("OPERATION", operation));
    Ok(defines)
}

pub static BINARY: CudaKernel = cuda_kernel!(
    "binary", "binary.cu", BinaryParams,
    specialise: |variant, p| constants("binary", variant, p.count),
    launches: |_, p| launch("binary", p.count.div_ceil(ELEMENTS.into()), 1, THREADS),
    workspace: |_, _| 0,
);

pub static UNARY: CudaKernel = cuda_kernel!(
    "unary", "unary.cu", UnaryParams,
    specialise: |variant, p| constants("unary", variant, p.count),
    launches: |_, p| launch("unary", p.count.div_ceil(ELEMENTS.into()), 1, THREADS),
    workspace: |_, _| 0,
);
