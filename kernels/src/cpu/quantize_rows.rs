//! Rounds rows of f32 to q8x32, bit for bit as `ir::quant::activations` defines.
//!
//! The parameters are [`QuantizeRowsParams`]. A block of the grid is [`BLOCK_ROWS`] rows. No scratch memory.

use std::ffi::c_void;
use std::ops::Range;

use ir::quant::activations::SMALLEST;

use super::CpuKernel;
use super::isa::Isa;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::QuantizeRowsParams;

/// Rows of a block of the grid.
pub const BLOCK_ROWS: usize = 4;

/// Columns of a group.
const GROUP: usize = ir::quant::GROUP;

/// The kernel; `None` if this machine lacks the instruction set.
pub fn select(isa: Isa) -> Option<CpuKernel> {
    simd::select::<QuantizeRows>(isa)
}

/// Blocks of the launch's grid.
pub fn blocks(params: &QuantizeRowsParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// Bytes of scratch memory: none.
pub fn scratch_bytes() -> usize {
    0
}

struct QuantizeRows;

impl Body for QuantizeRows {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes valid parameters; a row is written by its block alone.
        unsafe {
            let params = &*params.cast::<QuantizeRowsParams>();
            let (rows, cols) = (params.rows as usize, params.cols as usize);
            let row_bytes = super::matmul::integer_row_bytes(cols);
            for row in blocks.start * BLOCK_ROWS..rows.min(blocks.end * BLOCK_ROWS) {
                quantize_row::<S>(params.x.add(row * cols), cols, params.out.cast::<u8>().add(row * row_bytes));
            }
        }
    }
}

/// Rounds the `cols` values at `x` to the row at `out`.
///
/// # Safety
/// Both are valid.
#[inline(always)]
unsafe fn quantize_row<S: Simd>(x: *const f32, cols: usize, out: *mut u8) {
    let groups = cols.div_ceil(GROUP);
    // SAFETY: the row has integers, scales and sums of `groups` groups.
    unsafe {
        let scales = out.add(groups * GROUP).cast::<f32>();
        let sums = scales.add(groups);
        for group in 0..groups {
            let at = group * GROUP;
            let mut padded = [0.0; GROUP];
            let values = if cols - at < GROUP {
                x.add(at).copy_to_nonoverlapping(padded.as_mut_ptr(), cols - at);
                padded.as_ptr()
            } else {
                x.add(at)
            };
            let (d, [first, second]) = quantize_group::<S>(values, out.add(at).cast());
            scales.add(group).write_unaligned(d);
            sums.add(2 * group).write_unaligned(first);
            sums.add(2 * group + 1).write_unaligned(second);
        }
    }
}

/// Rounds 32 values; returns their scale and the sums of both halves.
///
/// # Safety
/// Both pointers are valid for 32 elements.
#[inline(always)]
unsafe fn quantize_group<S: Simd>(values: *const f32, q: *mut i8) -> (f32, [f32; 2]) {
    // SAFETY: passed on.
    unsafe {
        let halves = [S::load(values), S::load(values.add(LANES))];
        let greatest = S::greatest(halves[0], halves[1]);
        if greatest < SMALLEST {
            q.write_bytes(0, GROUP);
            return (0.0, [0.0; 2]);
        }
        let (d, inverse) = (greatest / 127.0, S::splat(127.0 / greatest));
        let mut sums = [0.0; 2];
        for half in 0..2 {
            let rounded = S::round(S::mul(halves[half], inverse));
            S::store_i8(q.add(half * LANES), rounded);
            sums[half] = d * S::sum(rounded) as f32;
        }
        (d, sums)
    }
}

#[cfg(test)]
mod tests {
    use ir::quant::activations;
    use proptest::prelude::*;

    use super::*;

    fn run(isa: Isa, x: &[f32], rows: usize, cols: usize, split: usize) -> Vec<u8> {
        let mut out = vec![0xaa; rows * activations::row_bytes(cols as u64).unwrap() as usize];
        let params =
            QuantizeRowsParams { x: x.as_ptr(), out: out.as_mut_ptr().cast(), rows: rows as u32, cols: cols as u32 };
        let kernel = select(isa).unwrap();
        let blocks = blocks(&params);
        for range in [split.min(blocks)..blocks, 0..split.min(blocks)] {
            // SAFETY: the buffers have the sizes the parameters say.
            unsafe { kernel((&raw const params).cast(), range, &mut []) };
        }
        out
    }

    fn expected(x: &[f32], cols: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for row in x.chunks(cols) {
            let at = out.len();
            out.resize(at + activations::row_bytes(cols as u64).unwrap() as usize, 0);
            activations::quantize_row(row, &mut out[at..]).unwrap();
        }
        out
    }

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            6 => -4.0f32..4.0,
            1 => Just(0.0f32),
            1 => Just(-0.0f32),
            1 => (-12.0f32..38.0).prop_map(|e| 10.0f32.powf(e)),
            1 => (-45.0f32..-30.0).prop_map(|e| -(10.0f32.powf(e))),
            2 => (-127i32..=127).prop_map(|q| q as f32 * 0.5),
        ]
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_defined_bits(
            rows in 0usize..11, cols in 1usize..100, split in 0usize..3, values in prop::collection::vec(value(), 1000),
        ) {
            let x = &values[..rows * cols.min(values.len() / rows.max(1))];
            let cols = cols.min(values.len() / rows.max(1));
            let expected = expected(x, cols);
            for &isa in Isa::available() {
                prop_assert_eq!(&run(isa, x, rows, cols, split), &expected, "{}", isa);
            }
        }
    }

    #[test]
    fn groups_of_tiny_values_are_zero() {
        for x in [SMALLEST, -SMALLEST, SMALLEST.next_down(), f32::from_bits(1), f32::MAX, f32::MIN] {
            let values = [x; 33];
            for &isa in Isa::available() {
                assert_eq!(run(isa, &values, 1, 33, 0), expected(&values, 33), "{isa} {x}");
            }
        }
    }
}
