//! Matrix product of activations with packed weights: `out[t, n] = Σ_k x[t, k] · w[n, k] (+ bias[n])`.
//!
//! The parameters are [`MatmulParams`]. Weights are packed (`rows16` of `ir::quant`) in any of its formats, activations
//! f32 or, for the quantised formats, q8x32. One template is compiled for each pair and instruction set; it sums every
//! output element over `k` upwards in a lane of its own, so the bits depend neither on the number of tokens, nor on the
//! split of the grid, nor on the instruction set. This is the grouped launch of one group; every kernel that multiplies
//! shares one walk over tiles, [`block`].
//!
//! The grid cuts the weights into blocks of [`BLOCK_PANELS`] panels and the tokens into blocks that fit the second cache;
//! neighbouring blocks share their tokens and stage them once a call, so a thread should get runs of blocks.

pub(crate) mod activations;
pub(crate) mod block;
pub(crate) mod epilogue;
pub(crate) mod prologue;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod tile;
pub(crate) mod weights;

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

use ir::types::DType;

pub(crate) use self::activations::integer_row_bytes;
use self::block::Multiplier;
use self::prologue::Rows;
use self::tile::{FloatProduct, IntegerProduct, Product};
use super::CpuKernel;
use super::grouped_matmul;
use super::isa::Isa;
use super::simd::{self, Body, Simd};
use crate::abi::{GroupedMatmulParams, MatmulParams};

/// Panels of 16 rows in a block of the grid.
pub const BLOCK_PANELS: usize = 4;

/// The kernel for weights of type `weights` and activations of type `activations`, over [`MatmulParams`]; `None` if there
/// is no such kernel or this machine lacks the instruction set.
pub fn select(weights: DType, activations: DType, isa: Isa) -> Option<CpuKernel> {
    match activations {
        DType::F32 => weights::with_format!(weights, W => simd::select::<Matmul<FloatProduct<W>>>(isa)),
        DType::Q8X32 => weights::with_quantised!(weights, W => simd::select::<Matmul<IntegerProduct<W>>>(isa)),
        _ => None,
    }
}

/// Blocks of the launch's grid.
pub fn blocks(activations: DType, params: &MatmulParams) -> usize {
    grouped_matmul::blocks_of(activations, &one_group(params))
}

/// Bytes of scratch memory for launches of at most `tokens` tokens of `cols` columns.
pub fn scratch_bytes(activations: DType, tokens: usize, cols: usize) -> usize {
    block::staging_bytes(activations, tokens, cols)
}

/// The launch as one of a single slot and matrix.
fn one_group(params: &MatmulParams) -> GroupedMatmulParams {
    let MatmulParams { x, w, bias, out, tokens, rows, cols, reserved: _ } = *params;
    let experts = std::ptr::null();
    GroupedMatmulParams { x, w, experts, bias, out, tokens, slots: 1, matrices: 1, rows, cols, slots_share_x: 0 }
}

/// The matmul of product `K`.
pub(super) struct Matmul<K>(PhantomData<K>);

impl<K: Product> Body for Matmul<K> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: the caller passes a valid `MatmulParams` and blocks of its grid, which is that of the group.
        unsafe {
            let params = one_group(&*params.cast::<MatmulParams>());
            let cols = params.cols as usize;
            let x = Rows::plain(params.x.cast(), cols, K::row_bytes(cols));
            grouped_matmul::products(&params, &x, Multiplier::new::<S, K>(), blocks, scratch);
        }
    }
}
