//! Every row by one weight a column: `out = x · w`, what is left of an RMSNorm whose scale is applied after the next product.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::panel_sums::{load, store};
use super::simd::{self, Body, LANES, Simd};
use crate::abi::ScaleColumnsParams;

/// Rows in a block of the grid.
const BLOCK_ROWS: usize = 8;

/// Blocks of the launch's grid.
pub fn blocks(params: &ScaleColumnsParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// The kernel over [`ScaleColumnsParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<ScaleColumns>(isa)
}

struct ScaleColumns;

impl Body for ScaleColumns {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the rows they state.
        unsafe {
            let p = &*params.cast::<ScaleColumnsParams>();
            let (rows, cols) = (p.rows as usize, p.cols as usize);
            let w = std::slice::from_raw_parts(p.w, cols);
            for row in blocks.start * BLOCK_ROWS..rows.min(blocks.end * BLOCK_ROWS) {
                scale(p.x.add(row * cols), w, p.out.add(row * cols));
            }
        }
    }
}

/// One row; `out` may be `x`, so whole vectors are read before they are written.
///
/// # Safety
/// `x` and `out` are valid for as many columns as `w` has.
#[inline(always)]
pub(super) unsafe fn scale(x: *const f32, w: &[f32], out: *mut f32) {
    for first in (0..w.len()).step_by(LANES) {
        let count = LANES.min(w.len() - first);
        // SAFETY: as the caller says.
        unsafe {
            let (mut x, w) = (load(x.add(first), count), load(w.as_ptr().add(first), count));
            for l in 0..LANES {
                x[l] *= w[l];
            }
            store(x, out.add(first), count);
        }
    }
}
