//! Joins the rows of two tensors: `out[r] = a[r]` then `b[r]`.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use crate::abi::ConcatParams;

/// Rows in a block of the grid.
const BLOCK_ROWS: usize = 16;

/// Blocks of the launch's grid.
pub fn blocks(params: &ConcatParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// The kernel over [`ConcatParams`]; a copy needs no instruction set.
pub fn select() -> CpuKernel {
    run
}

/// # Safety
/// As [`CpuKernel`].
unsafe fn run(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
    // SAFETY: the caller passes this kernel's parameters, valid for the rows they state; `out` is neither operand.
    unsafe {
        let p = &*params.cast::<ConcatParams>();
        let (a_cols, b_cols) = (p.a_cols as usize, p.b_cols as usize);
        for row in blocks.start * BLOCK_ROWS..(p.rows as usize).min(blocks.end * BLOCK_ROWS) {
            let out = p.out.add(row * (a_cols + b_cols));
            std::ptr::copy_nonoverlapping(p.a.add(row * a_cols), out, a_cols);
            std::ptr::copy_nonoverlapping(p.b.add(row * b_cols), out.add(a_cols), b_cols);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    #[test]
    fn rows_are_joined() {
        for (rows, a_cols, b_cols) in [(1, 1, 1), (16, 5, 64), (37, 64, 3), (33, 0, 2), (0, 4, 4)] {
            let mut random = Random(rows as u64);
            let (a, b) = (random.values(rows * a_cols), random.values(rows * b_cols));
            let mut out = vec![f32::NAN; a.len() + b.len()];
            let params = ConcatParams {
                a: a.as_ptr(),
                b: b.as_ptr(),
                out: out.as_mut_ptr(),
                rows: rows as u32,
                a_cols: a_cols as u32,
                b_cols: b_cols as u32,
                reserved: 0,
            };
            let ranges: Vec<_> = (0..blocks(&params)).rev().map(|b| b..b + 1).collect();
            // SAFETY: the buffers have the sizes the parameters say.
            unsafe { launch(select(), &params, &ranges, 0) };
            for row in 0..rows {
                for c in 0..a_cols + b_cols {
                    let expected = if c < a_cols { a[row * a_cols + c] } else { b[row * b_cols + c - a_cols] };
                    assert_eq!(out[row * (a_cols + b_cols) + c], expected, "row {row} column {c}");
                }
            }
        }
    }
}
