//! Copies rows by index: `out[i] = x[rows[i]]`.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use crate::abi::GatherRowsParams;

/// Blocks of the launch's grid: one a row.
pub fn blocks(params: &GatherRowsParams) -> usize {
    params.count as usize
}

/// The kernel over [`GatherRowsParams`]; a copy needs no instruction set.
pub fn select() -> CpuKernel {
    run
}

/// # Safety
/// As [`CpuKernel`]; every index must be a row of `x`.
unsafe fn run(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
    // SAFETY: the caller passes this kernel's parameters with valid indices.
    unsafe {
        let p = &*params.cast::<GatherRowsParams>();
        let cols = p.cols as usize;
        for i in blocks.start..blocks.end.min(p.count as usize) {
            let row = *p.rows.add(i) as usize;
            std::ptr::copy_nonoverlapping(p.x.add(row * cols), p.out.add(i * cols), cols);
        }
    }
}
