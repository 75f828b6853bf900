//! Q8X32: activations rounded to 8 bits for integer dot products, one f32 scale a group of 32 columns.
//!
//! Every kernel that makes such rows must give these bits, so each step is one IEEE 754 operation in f32, in this order,
//! for a group `x` of 32 (columns past the end are 0):
//!
//! 1. `a = max |x|`. If `a < SMALLEST`, then `d = 0`, all `q = 0` and both sums are 0.
//! 2. `d = a / 127`, `inverse = 127 / a`: two correctly rounded divisions, not a reciprocal.
//! 3. `q = round(x · inverse)`, ties to even, as `cvtps2dq` and `cvt.rni.s32.f32` round: within -127..=127.
//! 4. `sums[h] = d · Σq` of columns `16h..16h + 16` of the group: the integer sum is exact, then one product.
//!
//! The sums serve the affine weight formats, whose minimum multiplies `Σx`. A group with a value that is not finite has
//! unspecified bits.

use super::{GROUP, QuantError};
use crate::types::DType;

/// What shares one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// Each group of 32 columns.
    Block,
    /// All groups of a row: `a` of step 1 is the row's, at least [`ROW_SMALLEST`] (BitNet b1.58).
    Row,
}

/// The least `a` of a row with one scale.
pub const ROW_SMALLEST: f32 = 1e-5;

/// Greatest magnitude below which a group counts as zero: 127 times the smallest normal f32, so that no scale is subnormal
/// and no inverse infinite.
pub const SMALLEST: f32 = 127.0 * f32::MIN_POSITIVE;

/// Columns of one sum.
pub const SUM_COLUMNS: usize = 16;

/// Bytes of one group over all three parts of a row: integers, scale, two sums.
pub const GROUP_BYTES: usize = GROUP + 4 + 8;

/// Bytes of a row of `cols` values; `None` on overflow.
pub fn row_bytes(cols: u64) -> Option<u64> {
    cols.div_ceil(GROUP as u64).checked_mul(GROUP_BYTES as u64)
}

/// Rounds a row of any length to `out`, [`row_bytes`] long: `i8 × 32·G`, scales `f32 × G`, sums `f32 × 2·G`,
/// little-endian, with `G = ceil(cols / 32)`.
///
/// # Errors
/// `out` of the wrong length.
pub fn quantize_row(values: &[f32], granularity: Granularity, out: &mut [u8]) -> Result<(), QuantError> {
    let greatest = row_greatest(values, granularity);
    let groups = values.len().div_ceil(GROUP);
    expect_row(out.len(), groups)?;
    let (codes, rest) = out.split_at_mut(GROUP * groups);
    let (scales, sums) = rest.split_at_mut(4 * groups);
    let scales = scales.as_chunks_mut::<4>().0.iter_mut().zip(sums.as_chunks_mut::<8>().0);
    let codes = codes.as_chunks_mut::<GROUP>().0;
    for ((values, codes), (scale, sums)) in values.chunks(GROUP).zip(codes).zip(scales) {
        let group = quantize_group(values, greatest);
        *codes = group.codes.map(|q| q as u8);
        *scale = group.scale.to_le_bytes();
        sums[..4].copy_from_slice(&group.sums[0].to_le_bytes());
        sums[4..].copy_from_slice(&group.sums[1].to_le_bytes());
    }
    Ok(())
}

/// Values `d · q` of the first `out.len()` columns of a row.
///
/// # Errors
/// `row` of the wrong length.
pub fn dequantize_row(row: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    let groups = out.len().div_ceil(GROUP);
    expect_row(row.len(), groups)?;
    let (codes, rest) = row.split_at(GROUP * groups);
    let scales = rest.as_chunks::<4>().0;
    for ((out, codes), scale) in out.chunks_mut(GROUP).zip(codes.chunks_exact(GROUP)).zip(scales) {
        let d = f32::from_le_bytes(*scale);
        for (out, &q) in out.iter_mut().zip(codes) {
            *out = d * f32::from(q as i8);
        }
    }
    Ok(())
}

/// What is left of a row after rounding: [`dequantize_row`] of [`quantize_row`], without the bytes between.
pub fn round_row(values: &[f32], granularity: Granularity) -> Vec<f32> {
    let greatest = row_greatest(values, granularity);
    let mut out = Vec::with_capacity(values.len());
    for group in values.chunks(GROUP) {
        let Group { codes, scale, .. } = quantize_group(group, greatest);
        out.extend(codes[..group.len()].iter().map(|&q| scale * f32::from(q)));
    }
    out
}

/// One rounded group.
struct Group {
    codes: [i8; GROUP],
    scale: f32,
    sums: [f32; 2],
}

/// The row's `a` where its groups share it.
fn row_greatest(values: &[f32], granularity: Granularity) -> Option<f32> {
    (granularity == Granularity::Row).then(|| greatest(values).max(ROW_SMALLEST))
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |a: f32, x| a.max(x.abs()))
}

/// Steps 1 to 4 for at most 32 values, `a` given or their own.
fn quantize_group(values: &[f32], shared: Option<f32>) -> Group {
    let mut codes = [0i8; GROUP];
    let greatest = shared.unwrap_or_else(|| greatest(values));
    if greatest < SMALLEST {
        return Group { codes, scale: 0.0, sums: [0.0; 2] };
    }
    let (scale, inverse) = (greatest / 127.0, 127.0 / greatest);
    for (q, &x) in codes.iter_mut().zip(values) {
        *q = (x * inverse).round_ties_even() as i8;
    }
    let sum = |half: usize| -> i32 { codes[SUM_COLUMNS * half..][..SUM_COLUMNS].iter().map(|&q| i32::from(q)).sum() };
    let sums = [scale * sum(0) as f32, scale * sum(1) as f32];
    Group { codes, scale, sums }
}

fn expect_row(got: usize, groups: usize) -> Result<(), QuantError> {
    super::checks::expect_length(DType::Q8X32, "row in bytes", got, groups * GROUP_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantized(values: &[f32]) -> Vec<u8> {
        let mut row = vec![0xaa; row_bytes(values.len() as u64).unwrap() as usize];
        quantize_row(values, Granularity::Block, &mut row).unwrap();
        row
    }

    fn f32_at(row: &[u8], at: usize) -> f32 {
        f32::from_le_bytes(row[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn known_group() {
        let mut values = [0.0; 40];
        // 254 = 2 · 127 makes the scale 2, so that odd values are ties: to even they go.
        (values[0], values[1], values[2], values[17], values[39]) = (254.0, 1.0, -3.0, 5.0, -1.0);
        let row = quantized(&values);
        assert_eq!(row.len(), 88);
        assert_eq!([row[0], row[1], row[2], row[17]], [127, 0, -2i8 as u8, 2]);
        assert_eq!(row[39], -127i8 as u8);
        assert!(row[40..64].iter().all(|&q| q == 0));
        assert_eq!((f32_at(&row, 64), f32_at(&row, 68)), (2.0, 1.0 / 127.0));
        let sums: Vec<f32> = (0..4).map(|i| f32_at(&row, 72 + 4 * i)).collect();
        assert_eq!(sums, [250.0, 4.0, -127.0 * (1.0 / 127.0), 0.0]);
    }

    #[test]
    fn tiny_groups_are_zero() {
        for x in [0.0, f32::from_bits(1), f32::MIN_POSITIVE, 100.0 * f32::MIN_POSITIVE] {
            assert!(quantized(&[x; 32]).iter().all(|&byte| byte == 0), "{x}");
        }
        assert_eq!(quantized(&[SMALLEST])[0], 127);
        assert_eq!(quantized(&[f32::MAX])[0], 127);
    }

    #[test]
    fn a_row_may_share_one_scale() {
        let mut values = [1.0f32; 70];
        values[69] = -254.0;
        let mut row = vec![0; row_bytes(70).unwrap() as usize];
        quantize_row(&values, Granularity::Row, &mut row).unwrap();
        assert_eq!([row[0], row[69]], [0, -127i8 as u8]);
        assert!((0..3).all(|g| f32_at(&row, 96 + 4 * g) == 2.0));
        assert_eq!(round_row(&[0.0, 1e-6], Granularity::Row), [0.0, 13.0 * (1e-5f32 / 127.0)]);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        assert!(quantize_row(&[0.0; 33], Granularity::Block, &mut [0; 44]).is_err());
        assert!(dequantize_row(&[0; 44], &mut [0.0; 33]).is_err());
        assert_eq!(row_bytes(u64::MAX), None);
    }

    proptest! {
        /// Against a definition in f64, element by element.
        #[test]
        fn rows_are_near(values in prop::collection::vec(-1e3f32..1e3, 0..130)) {
            let row = quantized(&values);
            let groups = values.len().div_ceil(32);
            let mut back = vec![f32::NAN; values.len()];
            dequantize_row(&row, &mut back).unwrap();
            prop_assert_eq!(&back, &round_row(&values, Granularity::Block));
            for g in 0..groups {
                let group = &values[32 * g..values.len().min(32 * g + 32)];
                let greatest = group.iter().fold(0.0, |a: f64, &x| a.max(f64::from(x).abs()));
                for (i, &x) in group.iter().enumerate() {
                    let error = (f64::from(x) - f64::from(back[32 * g + i])).abs();
                    prop_assert!(error <= greatest / 254.0 * 1.0001, "{x} became {}", back[32 * g + i]);
                }
                for h in 0..2 {
                    let expected: f64 = (0..16).map(|i| f64::from(row[32 * g + 16 * h + i] as i8)).sum::<f64>()
                        * f64::from(f32_at(&row, 32 * groups + 4 * g));
                    prop_assert_eq!(f32_at(&row, 36 * groups + 8 * g + 4 * h), expected as f32);
                }
            }
        }
    }
}
