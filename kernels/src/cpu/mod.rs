//! Native CPU kernels.
//!
//! A kernel is a function over an opaque parameter struct of [`crate::abi`] and a range of blocks. A launch is a grid of
//! blocks that do not depend on one another, so any number of threads may execute any split of the grid; the bits of the
//! result do not depend on the split.

use std::ffi::c_void;
use std::ops::Range;

pub mod attention;
pub mod binary;
pub mod column_partials;
pub mod combine;
pub mod combine_add;
pub mod combine_down;
pub mod concat;
pub mod embedding;
pub mod finish_logits;
pub mod gate_up;
pub mod gather_rows;
pub mod grouped_matmul;
mod half_rows;
pub mod isa;
mod kv;
pub mod kv_append;
pub mod layer_norm;
mod math;
pub mod matmul;
pub mod norm_add;
pub mod norm_quantize;
pub mod page_copy;
mod panel_sums;
pub mod permute_columns;
pub mod project;
pub mod qkv;
pub mod quantize_rows;
mod residual;
pub mod rms_norm;
pub mod rope;
pub mod route;
pub mod router;
pub mod router_weights;
#[cfg(test)]
mod row_tests;
pub mod sample;
pub mod scale_columns;
pub mod scale_rows;
pub mod sigmoid_gate;
mod simd;
pub mod square_sums;
pub mod unary;

/// A launchable CPU kernel: executes the blocks `blocks` of a launch with the parameters `params`.
///
/// `scratch` is memory of the calling thread, aligned to [`SCRATCH_ALIGN`] bytes and at least as long as the kernel's
/// `scratch_bytes` says; its contents are undefined before and after the call.
///
/// # Safety
/// `params` must point to the parameter struct the kernel documents, every pointer in it must be valid for the extents the
/// struct states, no other thread may write what the launch reads, and `blocks` must lie within the kernel's grid.
pub type CpuKernel = unsafe fn(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]);

/// Alignment of the scratch memory handed to a [`CpuKernel`], in bytes.
pub const SCRATCH_ALIGN: usize = 64;
