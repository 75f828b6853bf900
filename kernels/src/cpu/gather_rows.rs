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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    #[test]
    fn rows_are_copied_by_index() {
        for cols in [1, 7, 64] {
            let x = Random(cols as u64).values(9 * cols);
            let rows = [8, 0, 3, 3, 1];
            let mut out = vec![f32::NAN; rows.len() * cols];
            let (count, width) = (rows.len() as u32, cols as u32);
            let params =
                GatherRowsParams { x: x.as_ptr(), rows: rows.as_ptr(), out: out.as_mut_ptr(), count, cols: width };
            assert_eq!(blocks(&params), 5);
            // SAFETY: the buffers have the sizes the parameters say.
            unsafe { launch(select(), &params, &[2..5, 0..2], 0) };
            let expected: Vec<f32> = rows.iter().flat_map(|r| x[*r as usize * cols..][..cols].to_vec()).collect();
            assert_eq!(out, expected);
        }
    }
}
