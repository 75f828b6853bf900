//! INT8: rows of the KV cache rounded to 8 bits, one f16 scale a row. A row is one head's key or value of one token.
//!
//! A row of its own scale is what makes the cache's bits independent of the batch: nothing but the vector itself decides how it is rounded,
//! and no later token rounds it again. The scale is f16, not f32: it costs half as much beside 64 integers, and a GPU multiplies by it in
//! pairs. Every kernel must give these bits; each step is one IEEE 754 operation in f32:
//!
//! 1. `a = max |x|`, at most 65504, beyond which an f16 cache would hold infinities.
//! 2. `d = f16(a / 127)`, rounded up, so that the largest element keeps its place even where `d` is subnormal, and only zeros are zero.
//! 3. `inverse = 1 / d`, or 0 where `d` is 0.
//! 4. `q = round(x · inverse)`, ties to even, cut to -127..=127. The value is `q · d`, which f32 holds exactly.
//!
//! A row with a value that is not finite has `d` = NaN and integers 0: all its values are NaN.

use half::f16;

use super::QuantError;
use super::half_rows::greatest_bits;
use crate::types::DType;

/// Bytes of a row's scale.
pub const SCALE_BYTES: u64 = 2;

/// Greatest integer.
pub const LARGEST: f32 = 127.0;

/// The pattern of infinity, above which are the NaNs.
const INFINITY: u32 = 0x7f80_0000;

/// Bytes of a row of `cols` values; `None` on overflow.
pub const fn row_bytes(cols: u64) -> Option<u64> {
    cols.checked_add(SCALE_BYTES)
}

/// Scale and its inverse (steps 2 and 3) of a row whose greatest magnitude has the bits `greatest`, as [`greatest_bits`] gives them.
#[inline(always)]
pub fn scale_of(greatest: u32) -> (f16, f32) {
    if greatest >= INFINITY {
        return (f16::NAN, 0.0);
    }
    let exact = f32::from_bits(greatest).min(f16::MAX.to_f32()) / LARGEST;
    let nearest = f16::from_f32(exact);
    let scale = f16::from_bits(nearest.to_bits() + u16::from(nearest.to_f32() < exact));
    (scale, if scale.to_bits() == 0 { 0.0 } else { 1.0 / scale.to_f32() })
}

/// The integer of a value (step 4); 0 where the product is NaN.
#[inline(always)]
pub fn integer(x: f32, inverse: f32) -> i8 {
    (x * inverse).clamp(-LARGEST, LARGEST).round_ties_even() as i8
}

/// Rounds a row of any length to `out`, [`row_bytes`] long: integers, then the scale, little-endian.
///
/// # Errors
/// `out` of the wrong length.
pub fn quantize_row(values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    expect_row(out.len(), values.len())?;
    let (integers, scale) = out.split_at_mut(values.len());
    let (d, inverse) = scale_of(greatest_bits(values));
    scale.copy_from_slice(&d.to_le_bytes());
    for (q, &x) in integers.iter_mut().zip(values) {
        *q = integer(x, inverse) as u8;
    }
    Ok(())
}

/// The values of a row of `out.len()` columns.
///
/// # Errors
/// `row` of the wrong length.
pub fn dequantize_row(row: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    expect_row(row.len(), out.len())?;
    let (integers, scale) = row.split_at(out.len());
    let d = f16::from_le_bytes([scale[0], scale[1]]).to_f32();
    for (x, &q) in out.iter_mut().zip(integers) {
        *x = f32::from(q as i8) * d;
    }
    Ok(())
}

/// What is left of a row after rounding: [`dequantize_row`] of [`quantize_row`], without the bytes between.
pub fn round_row(values: &[f32]) -> Vec<f32> {
    let (d, inverse) = scale_of(greatest_bits(values));
    values.iter().map(|x| f32::from(integer(*x, inverse)) * d.to_f32()).collect()
}

fn expect_row(got: usize, cols: usize) -> Result<(), QuantError> {
    super::checks::expect_length(DType::INT8, "row in bytes", got, cols + SCALE_BYTES as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantized(values: &[f32]) -> Vec<u8> {
        let mut row = vec![0xaa; row_bytes(values.len() as u64).unwrap() as usize];
        quantize_row(values, &mut row).unwrap();
        row
    }

    fn values_of(row: &[u8]) -> Vec<f32> {
        let mut out = vec![f32::NAN; row.len() - 2];
        dequantize_row(row, &mut out).unwrap();
        out
    }

    #[test]
    fn known_row() {
        // 254 = 2 · 127 makes the scale 2, so that odd values are ties: to even they go.
        let row = quantized(&[254.0, 1.0, -3.0, 5.0, -254.0]);
        assert_eq!(row, [127, 0, -2i8 as u8, 2, -127i8 as u8, 0x00, 0x40]);
        assert_eq!(values_of(&row), [254.0, 0.0, -4.0, 4.0, -254.0]);
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(quantized(&[0.0, -0.0]), [0; 4]);
        assert_eq!(quantized(&[]), [0; 2]);
        // Only zeros become zero: the least scale is f16's least number.
        let least = f16::from_bits(1).to_f32();
        assert_eq!(values_of(&quantized(&[least, -3.0 * least, 1e-30])), [least, -3.0 * least, 0.0]);
        let large = values_of(&quantized(&[1e30, -1e30, 65504.0]));
        assert!(large.iter().all(|x| (65504.0..65540.0).contains(&x.abs())), "{large:?}");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(values_of(&quantized(&[1.0, bad, -2.0])).iter().all(|x| x.is_nan()));
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        assert!(quantize_row(&[0.0; 5], &mut [0; 6]).is_err());
        assert!(dequantize_row(&[0; 6], &mut [0.0; 5]).is_err());
        assert_eq!(row_bytes(u64::MAX), None);
    }

    proptest! {
        /// Within half a step of the value, the step at most one f16 above a 127th of the greatest magnitude.
        #[test]
        fn rows_are_near(values in prop::collection::vec(-1e3f32..1e3, 1..130), exponent in -40i32..6) {
            let values: Vec<f32> = values.iter().map(|x| x * 2f32.powi(exponent)).collect();
            let row = quantized(&values);
            let back = values_of(&row);
            prop_assert_eq!(&back, &round_row(&values));
            let greatest = values.iter().fold(0f64, |a, &x| a.max(f64::from(x).abs()));
            let step = greatest / 127.0 * (1.0 + 2f64.powi(-10)) + f64::from(f16::from_bits(1).to_f32());
            for (x, y) in values.iter().zip(&back) {
                prop_assert!((f64::from(*x) - f64::from(*y)).abs() <= 0.5001 * step, "{x} became {y}, step {step}");
            }
        }

        #[test]
        fn rounding_keeps_order_and_sign(values in prop::collection::vec(-10f32..10.0, 1..70)) {
            let mut pairs: Vec<(f32, f32)> = values.iter().copied().zip(round_row(&values)).collect();
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            prop_assert!(pairs.windows(2).all(|w| w[0].1 <= w[1].1), "{pairs:?}");
            prop_assert!(pairs.iter().all(|(x, y)| x * y >= 0.0), "{pairs:?}");
        }
    }
}
