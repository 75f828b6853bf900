//! Activations as the register tiles read them.
//!
//! A tile of `T` tokens walks the columns with one pointer: scratch memory holds, group after group, `T` records side by
//! side. A row is copied once a call and token block and serves all its panels; columns and tokens that a tile has beyond
//! the matrix are zeros, so that the tiles know few remainders.

use ir::quant::activations::{SUM_COLUMNS, row_bytes};

use super::weights::GROUP;
use crate::cpu::simd::Simd;

/// 32 columns of one token as f32.
pub(crate) type Numbers = [f32; GROUP];

/// 32 columns of one token as 8-bit integers.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Integers {
    /// The integers, 4 a lane.
    pub q: [i32; GROUP / 4],
    /// Where the integer sum begins: minus the weights' zero times the sum of `q`. If the halves of a group have steps of
    /// their own, of each half; otherwise the first is for the whole group.
    pub start: [i32; 2],
    /// The scale.
    pub d: f32,
    /// The sum of the values.
    pub sum: f32,
}

/// Copies a row of `cols` f32 to every `stride`-th record from `to` on, padded with zeros.
///
/// # Safety
/// `row` and the records must be valid.
#[inline(always)]
pub(crate) unsafe fn stage_numbers(row: *const f32, cols: usize, to: *mut Numbers, stride: usize) {
    // SAFETY: the row has `cols` columns, and there is a record for each group of them.
    unsafe {
        for group in 0..cols / GROUP {
            *to.add(group * stride) = row.add(group * GROUP).cast::<Numbers>().read_unaligned();
        }
        if !cols.is_multiple_of(GROUP) {
            let whole = cols / GROUP * GROUP;
            let mut record = [0.0; GROUP];
            row.add(whole).copy_to_nonoverlapping(record.as_mut_ptr(), cols - whole);
            *to.add(cols / GROUP * stride) = record;
        }
    }
}

/// Bytes of a q8x32 row.
#[inline(always)]
pub(crate) fn integer_row_bytes(cols: usize) -> usize {
    cols.div_ceil(GROUP) * row_bytes(GROUP as u64).map_or(0, |bytes| bytes as usize)
}

/// Copies a q8x32 row of `groups` groups to every `stride`-th record from `to` on, for weights of integers about `zero`
/// with one step a group, or one each `halves`.
///
/// # Safety
/// `row` and the records must be valid.
#[inline(always)]
pub(crate) unsafe fn stage_integers<S: Simd>(
    row: *const u8,
    groups: usize,
    (zero, halves): (i32, bool),
    to: *mut Integers,
    stride: usize,
) {
    // SAFETY: the row has three parts: integers, scales, and two sums a group.
    unsafe {
        let scales = row.add(groups * GROUP).cast::<f32>();
        let sums = scales.add(groups);
        for group in 0..groups {
            let from = row.add(group * GROUP);
            let start = if zero == 0 { [0; 2] } else { starts::<S>(from.cast(), zero, halves) };
            let q = from.cast::<[i32; GROUP / 4]>().read_unaligned();
            let d = scales.add(group).read_unaligned();
            let sum = sums.add(2 * group).read_unaligned() + sums.add(2 * group + 1).read_unaligned();
            *to.add(group * stride) = Integers { q, start, d, sum };
        }
    }
}

/// Where the integer sums of the 32 integers at `q` begin.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn starts<S: Simd>(q: *const i8, zero: i32, halves: bool) -> [i32; 2] {
    // SAFETY: both halves are valid.
    let [first, second] = unsafe { [S::sum_i8(q), S::sum_i8(q.add(SUM_COLUMNS))] };
    if halves { [-zero * first, -zero * second] } else { [-zero * (first + second), 0] }
}
