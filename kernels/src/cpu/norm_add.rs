//! A normalised branch added to the residual stream: `out = factor · rms_norm(x) + residual`, and the squares of the sum.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;
use super::panel_sums::load;
use super::residual::ResidualRow;
use super::rms_norm::reciprocal_rms;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::NormAddParams;

/// Rows in a block of the grid.
const BLOCK_ROWS: usize = 4;

/// Blocks of the launch's grid.
pub fn blocks(params: &NormAddParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// The kernel over [`NormAddParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<NormAdd>(isa)
}

struct NormAdd;

impl Body for NormAdd {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters. `out` may be `x`: the row's scale is known before anything is written,
        // and panels are read before they are written.
        unsafe {
            let p = &*params.cast::<NormAddParams>();
            let (rows, cols) = (p.rows as usize, p.cols as usize);
            let panels = cols.div_ceil(LANES);
            for row in blocks.start * BLOCK_ROWS..rows.min(blocks.end * BLOCK_ROWS) {
                let at = row * cols;
                let squares = if p.squares.is_null() { p.squares } else { p.squares.add(row * panels) };
                let to =
                    ResidualRow { residual: p.residual.add(at), out: p.out.add(at), squares, cols, factor: p.factor };
                let scale = reciprocal_rms::<S>(std::slice::from_raw_parts(p.x.add(at), cols), p.eps);
                for panel in 0..panels {
                    let (first, count) = (panel * LANES, LANES.min(cols - panel * LANES));
                    let (mut y, weight) = (load(p.x.add(at + first), count), load(p.weight.add(first), count));
                    for l in 0..LANES {
                        y[l] = y[l] * scale * weight[l];
                    }
                    to.add(y, panel);
                }
            }
        }
    }
}
