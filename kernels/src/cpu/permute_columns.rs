//! Reorders the columns of activations as their weights were when quantised (`desc_act` of GPTQ):
//! `out[t, j, c] = x[t, j, index[e, c]]`.
//!
//! Indexes come from a checkpoint and experts from the step before, so neither is trusted: what does not exist gives zeros.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use crate::abi::PermuteColumnsParams;

/// Blocks of the launch's grid: one a slot of a token.
pub fn blocks(params: &PermuteColumnsParams) -> usize {
    params.tokens as usize * params.slots as usize
}

/// The kernel over [`PermuteColumnsParams`]; gathering needs no instruction set.
pub fn select() -> CpuKernel {
    run
}

/// # Safety
/// As [`CpuKernel`]; indexes and experts may be any numbers.
unsafe fn run(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
    // SAFETY: the caller passes this kernel's parameters, valid for the extents they state; `out` is no operand.
    unsafe {
        let p = &*params.cast::<PermuteColumnsParams>();
        let cols = p.cols as usize;
        for row in blocks.start..blocks.end.min(self::blocks(p)) {
            let from = if p.slots_share_x != 0 { row / p.slots as usize } else { row };
            let x = std::slice::from_raw_parts(p.x.add(from * cols), cols);
            let out = std::slice::from_raw_parts_mut(p.out.add(row * cols), cols);
            let expert = if p.experts.is_null() { 0 } else { *p.experts.add(row) };
            match usize::try_from(expert).ok().filter(|e| *e < p.matrices as usize) {
                Some(expert) => gather(x, std::slice::from_raw_parts(p.index.add(expert * cols), cols), out),
                None => out.fill(0.0),
            }
        }
    }
}

fn gather(x: &[f32], index: &[i32], out: &mut [f32]) {
    for (out, &i) in out.iter_mut().zip(index) {
        // A negative index is past every column as well.
        *out = x.get(i as u32 as usize).copied().unwrap_or(0.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::matmul::testing::{Random, launch};

    /// Any number, most often one below `count`.
    fn index(random: &mut Random, count: usize) -> i32 {
        if random.bits().is_multiple_of(8) {
            random.bits() as i32
        } else {
            (random.bits() % count.max(1) as u64) as i32
        }
    }

    proptest! {
        #[test]
        fn columns_are_permuted(
            (tokens, slots, matrices, cols) in (0usize..6, 1usize..4, 1usize..5, 1usize..70), share: bool, plain: bool, seed: u64,
        ) {
            let (slots, matrices) = if plain { (1, 1) } else { (slots, matrices) };
            let mut random = Random(seed);
            let x = random.values(tokens * if share { 1 } else { slots } * cols);
            let indexes: Vec<i32> = (0..matrices * cols).map(|_| index(&mut random, cols)).collect();
            let experts: Vec<i32> = (0..tokens * slots).map(|_| index(&mut random, matrices)).collect();
            let mut out = vec![f32::NAN; tokens * slots * cols];
            let params = PermuteColumnsParams {
                x: x.as_ptr(),
                index: indexes.as_ptr(),
                experts: if plain { std::ptr::null() } else { experts.as_ptr() },
                out: out.as_mut_ptr(),
                tokens: tokens as u32,
                slots: slots as u32,
                matrices: matrices as u32,
                cols: cols as u32,
                slots_share_x: share.into(),
                reserved: 0,
            };
            let ranges: Vec<_> = (0..blocks(&params)).rev().map(|b| b..b + 1).collect();
            // SAFETY: the buffers have the sizes the parameters say.
            unsafe { launch(select(), &params, &ranges, 0) };
            for (at, out) in out.iter().enumerate() {
                let (row, c) = (at / cols, at % cols);
                let expert = if plain { 0 } else { experts[row] };
                let column = if (0..matrices as i32).contains(&expert) { indexes[expert as usize * cols + c] } else { -1 };
                let from = if share { row / slots } else { row } * cols;
                let expected = if (0..cols as i32).contains(&column) { x[from + column as usize] } else { 0.0 };
                prop_assert_eq!(*out, expected, "row {} column {}", row, c);
            }
        }
    }
}
