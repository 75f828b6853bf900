//! Rounds rows of f32 to q8x32, bit for bit as `ir::quant::activations` defines, or to f16 as f32, as `ir::quant::half_rows` does.
//!
//! The parameters are [`QuantizeRowsParams`]; the variant says how, by the granularities' words. A block of the grid is [`BLOCK_ROWS`] rows.
//! No scratch memory.

use std::ffi::c_void;
use std::ops::Range;

use ir::quant::activations::{ROW_SMALLEST, SMALLEST};

use super::CpuKernel;
use super::isa::Isa;
use super::matmul::prologue::Rounding;
use super::simd::{self, Body, LANES, Simd};
use crate::abi::QuantizeRowsParams;

/// Rows of a block of the grid.
pub const BLOCK_ROWS: usize = 4;

/// Columns of a group.
const GROUP: usize = ir::quant::GROUP;

/// What shares a scale, by variant name: 32 columns or the row; `half` is a row's f16.
pub const VARIANTS: &[&str] = &["block", "row", "half"];

/// The kernel of a variant; `None` if there is none or this machine lacks the instruction set.
pub fn select(variant: &str, isa: Isa) -> Option<CpuKernel> {
    match Rounding::from_word(variant)? {
        Rounding::None => None,
        Rounding::Block => simd::select::<QuantizeRows<1>>(isa),
        Rounding::Row => simd::select::<QuantizeRows<2>>(isa),
        Rounding::Half => simd::select::<QuantizeRows<3>>(isa),
    }
}

/// Blocks of the launch's grid.
pub fn blocks(params: &QuantizeRowsParams) -> usize {
    (params.rows as usize).div_ceil(BLOCK_ROWS)
}

/// Bytes of scratch memory: none.
pub fn scratch_bytes() -> usize {
    0
}

/// Rounds as [`Rounding::from_number`] says.
struct QuantizeRows<const ROUNDING: u8>;

impl<const ROUNDING: u8> Body for QuantizeRows<ROUNDING> {
    #[inline(always)]
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        // SAFETY: the caller passes valid parameters; a row is written by its block alone.
        unsafe {
            let params = &*params.cast::<QuantizeRowsParams>();
            let (rows, cols) = (params.rows as usize, params.cols as usize);
            let rounding = Rounding::from_number(ROUNDING);
            let row_bytes = rounding.row_bytes(cols);
            for row in blocks.start * BLOCK_ROWS..rows.min(blocks.end * BLOCK_ROWS) {
                let x = params.x.add(row * cols);
                rounding.apply::<S>(x, cols, params.out.cast::<u8>().add(row * row_bytes));
            }
        }
    }
}

/// Rounds the `cols` values at `x` to the q8x32 row at `out`; with `SHARED`, one scale serves the row.
///
/// # Safety
/// Needs the instruction set `S`; both are valid, the row for the bytes of `cols` columns.
#[inline(always)]
pub(super) unsafe fn quantize<S: Simd, const SHARED: bool>(x: *const f32, cols: usize, out: *mut u8) {
    // SAFETY: passed on.
    unsafe {
        let shared = if SHARED { Some(row_greatest::<S>(x, cols).max(ROW_SMALLEST)) } else { None };
        quantize_row::<S>(x, cols, shared, out);
    }
}

/// The greatest magnitude of the `cols` values at `x`.
///
/// # Safety
/// They are valid.
#[inline(always)]
unsafe fn row_greatest<S: Simd>(x: *const f32, cols: usize) -> f32 {
    let (whole, mut greatest) = (cols / GROUP * GROUP, 0f32);
    // SAFETY: as the caller says.
    unsafe {
        for at in (0..whole).step_by(GROUP) {
            greatest = greatest.max(S::greatest(S::load(x.add(at)), S::load(x.add(at + LANES))));
        }
        for at in whole..cols {
            greatest = greatest.max((*x.add(at)).abs());
        }
    }
    greatest
}

/// Rounds the `cols` values at `x` to the row at `out`; `shared` is the greatest magnitude that stands for each group's own.
///
/// # Safety
/// Both are valid.
#[inline(always)]
unsafe fn quantize_row<S: Simd>(x: *const f32, cols: usize, shared: Option<f32>, out: *mut u8) {
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
            let (d, [first, second]) = quantize_group::<S>(values, shared, out.add(at).cast());
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
unsafe fn quantize_group<S: Simd>(values: *const f32, shared: Option<f32>, q: *mut i8) -> (f32, [f32; 2]) {
    // SAFETY: passed on.
    unsafe {
        let halves = [S::load(values), S::load(values.add(LANES))];
        let greatest = match shared {
            Some(greatest) => greatest,
            None => S::greatest(halves[0], halves[1]),
        };
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
    use ir::quant::activations::{self, Granularity};
    use ir::quant::half_rows;
    use proptest::prelude::*;

    use super::*;

    fn row_bytes(variant: &str, cols: usize) -> usize {
        Rounding::from_word(variant).unwrap().row_bytes(cols)
    }

    fn run(variant: &str, isa: Isa, x: &[f32], rows: usize, cols: usize, split: usize) -> Vec<u8> {
        let mut out = vec![0xaaaa_aaaau32; rows * row_bytes(variant, cols) / 4];
        let params =
            QuantizeRowsParams { x: x.as_ptr(), out: out.as_mut_ptr().cast(), rows: rows as u32, cols: cols as u32 };
        let kernel = select(variant, isa).unwrap();
        let blocks = blocks(&params);
        for range in [split.min(blocks)..blocks, 0..split.min(blocks)] {
            // SAFETY: the buffers have the sizes the parameters say.
            unsafe { kernel((&raw const params).cast(), range, &mut []) };
        }
        out.into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    /// A row by its definition.
    fn expected_row(variant: &str, row: &[f32]) -> Vec<u8> {
        let granularity = match variant {
            "half" => return half_rows::round_row(row).iter().flat_map(|x| x.to_ne_bytes()).collect(),
            "row" => Granularity::Row,
            _ => Granularity::Block,
        };
        let mut out = vec![0; activations::row_bytes(row.len() as u64).unwrap() as usize];
        activations::quantize_row(row, granularity, &mut out).unwrap();
        out
    }

    fn expected(variant: &str, x: &[f32], cols: usize) -> Vec<u8> {
        x.chunks(cols).flat_map(|row| expected_row(variant, row)).collect()
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
            for variant in VARIANTS {
                let expected = expected(variant, x, cols);
                for &isa in Isa::available() {
                    prop_assert_eq!(&run(variant, isa, x, rows, cols, split), &expected, "{} {}", variant, isa);
                }
            }
        }

        /// Ties, f16 subnormals and tiny rows: the rows of few bits about any power of two.
        #[test]
        fn rows_of_few_bits_round_alike_everywhere(
            exponent in -149i32..116, row in prop::collection::vec((-8192i32..8192, 0i32..40), 1..40),
        ) {
            let value = |(q, down): &(i32, i32)| (f64::from(*q) * 2f64.powi(exponent - down)) as f32;
            let x: Vec<f32> = row.iter().map(value).collect();
            let expected = expected("half", &x, x.len());
            for &isa in Isa::available() {
                prop_assert_eq!(&run("half", isa, &x, 1, x.len(), 0), &expected, "{}", isa);
            }
        }
    }

    #[test]
    fn groups_of_tiny_values_are_zero() {
        for x in [SMALLEST, -SMALLEST, SMALLEST.next_down(), f32::from_bits(1), f32::MAX, f32::MIN] {
            let values = [x; 33];
            for &isa in Isa::available() {
                for variant in VARIANTS {
                    let expected = expected(variant, &values, 33);
                    assert_eq!(run(variant, isa, &values, 1, 33, 0), expected, "{variant} {isa} {x}");
                }
            }
        }
    }

    /// A row with an infinity or a NaN is rounded as it stands.
    #[test]
    fn rows_that_are_not_finite_have_no_factor() {
        for special in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut values = [1.0 + 2f32.powi(-11); 37];
            (values[20], values[3], values[36]) = (special, 65520.0, 2f32.powi(-25));
            for &isa in Isa::available() {
                let out = run("half", isa, &values, 1, 37, 0);
                let found = |i: usize| f32::from_ne_bytes(out[4 * i..4 * i + 4].try_into().unwrap());
                assert_eq!([found(0), found(3), found(36)], [1.0, f32::INFINITY, 0.0], "{isa}");
                assert!(if special.is_nan() { found(20).is_nan() } else { found(20) == special }, "{isa} {special}");
            }
        }
    }
}
