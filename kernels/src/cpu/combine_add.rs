//! The experts' results, weighed, added up as `combine` does and added to the residual stream, and the squares of the sum.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::combine::accumulate;
use super::isa::Isa;
use super::panel_sums::load;
use super::residual::ResidualRow;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::CombineAddParams;

/// Panels in a block of the grid, of one token.
const BLOCK_PANELS: usize = 64;

/// Blocks of the launch's grid.
pub fn blocks(params: &CombineAddParams) -> usize {
    params.tokens as usize * (params.cols as usize).div_ceil(BLOCK_PANELS * LANES)
}

/// The kernel over [`CombineAddParams`]; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<CombineAdd>(isa)
}

struct CombineAdd;

impl Body for CombineAdd {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes this kernel's parameters, valid for the counts they state.
        unsafe {
            let p = &*params.cast::<CombineAddParams>();
            let (slots, cols) = (p.slots as usize, p.cols as usize);
            let panels = cols.div_ceil(LANES);
            let per_token = panels.div_ceil(BLOCK_PANELS);
            for block in blocks {
                let (token, start) = (block / per_token, block % per_token * BLOCK_PANELS);
                let (residual, out) = (p.residual.add(token * cols), p.out.add(token * cols));
                let squares = if p.squares.is_null() { p.squares } else { p.squares.add(token * panels) };
                let to = ResidualRow { residual, out, squares, cols, factor: p.factor };
                for panel in start..panels.min(start + BLOCK_PANELS) {
                    let (first, count) = (panel * LANES, LANES.min(cols - panel * LANES));
                    let mut sum = [0f32; LANES];
                    for pair in token * slots..(token + 1) * slots {
                        accumulate(*p.weights.add(pair), &load(p.y.add(pair * cols + first), count), &mut sum);
                    }
                    to.add(sum, panel);
                }
            }
        }
    }
}
