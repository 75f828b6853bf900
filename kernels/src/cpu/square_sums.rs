//! Sums of squares over panels of 16 columns, of which a later launch makes the root mean square of a row.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::panel_sums::{load, square_sum};
use super::simd::{self, Body, LANES, Simd};
use crate::abi::SquareSumsParams;

/// Rows in a block of the grid.
const BLOCK_ROWS: usize = 8;

/// Blocks of the launch's grid.
pub fn blocks(params: &SquareSumsParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// The kernel over [`SquareSumsParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<SquareSums>(isa)
}

struct SquareSums;

impl Body for SquareSums {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the rows they state.
        unsafe {
            let p = &*params.cast::<SquareSumsParams>();
            let (rows, cols) = (p.rows as usize, p.cols as usize);
            let panels = cols.div_ceil(LANES);
            for row in blocks.start * BLOCK_ROWS..rows.min(blocks.end * BLOCK_ROWS) {
                for panel in 0..panels {
                    let first = panel * LANES;
                    let x = load(p.x.add(row * cols + first), LANES.min(cols - first));
                    *p.out.add(row * panels + panel) = square_sum(x);
                }
            }
        }
    }
}
