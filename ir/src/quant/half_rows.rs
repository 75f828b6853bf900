//! Rows of activations rounded to f16 under a power of two of their own: what tensor cores multiply.
//!
//! f16 has 11 significant bits from 2^-14 to 2^16. A row is brought to the upper end of that range by an exact factor, so that no
//! row overflows and its small elements keep their bits: `e = floor(log2(max |x|))`, value = `f16(x · 2^(14-e)) · 2^(e-14)`,
//! to nearest, ties to even, subnormals kept. The price beside 8 bits is that a product is no integer; the gain is a rounding of one
//! part in 2048 of each element, not of its block's largest.
//!
//! `e` is at least -112, so that both factors are normal f32. It changes no value: numbers below 2^-112 that have more than
//! 11 bits are not yet f16 subnormals when multiplied by 2^126. Rows of zeros and rows with an infinity or a NaN have factor 1.

/// Significant bits of a magnitude's pattern: all but the sign.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// Bits of the mantissa.
const MANTISSA_BITS: u32 = 23;

/// The pattern of the greatest magnitude of a row; NaN and infinities are greater than every number.
#[inline(always)]
pub fn greatest_bits(row: &[f32]) -> u32 {
    row.iter().fold(0, |greatest, x| greatest.max(x.to_bits() & MAGNITUDE))
}

/// `2^(14-e)` and `2^(e-14)` of a row whose greatest magnitude has that pattern.
#[inline(always)]
pub fn factors(greatest: u32) -> (f32, f32) {
    let exponent = greatest >> MANTISSA_BITS;
    if greatest == 0 || exponent == 255 {
        return (1.0, 1.0);
    }
    // Biased by 127: e + 127, then 14 - e + 127 and e - 14 + 127.
    let exponent = exponent.max(15);
    (f32::from_bits((268 - exponent) << MANTISSA_BITS), f32::from_bits((exponent - 14) << MANTISSA_BITS))
}

/// What is left of a row after rounding.
pub fn round_row(row: &[f32]) -> Vec<f32> {
    let (up, down) = factors(greatest_bits(row));
    row.iter().map(|x| half::f16::from_f32(x * up).to_f32() * down).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition in f64, which holds every factor and product: `e` as it is, however small.
    fn defined(row: &[f32]) -> Vec<f64> {
        let greatest = row.iter().fold(0f64, |a, x| a.max(f64::from(x.abs())));
        if greatest == 0.0 {
            return vec![0.0; row.len()];
        }
        let e = (-1074..1024).rev().find(|e| 2f64.powi(*e) <= greatest).unwrap();
        let round = |x: &f32| {
            let scaled = f64::from(*x) * 2f64.powi(14 - e);
            // To a multiple of the last place: 11 bits, or 2^-24.
            let place = if scaled == 0.0 { 1.0 } else { 2f64.powi((scaled.abs().log2().floor() as i32 - 10).max(-24)) };
            (scaled / place).round_ties_even() * place * 2f64.powi(e - 14)
        };
        row.iter().map(round).collect()
    }

    #[test]
    fn known_row() {
        // e = 2: ties are multiples of 2^-9 for elements of 2..4, of 2^-8 for those of 4..8.
        let tie = 2f32.powi(-10);
        assert_eq!(
            round_row(&[7.0, 2.0 + tie, -(2.0 + 3.0 * tie), 0.0, 4.0 + tie]),
            [7.0, 2.0, -(2.0 + 4.0 * tie), 0.0, 4.0]
        );
        // The least f16 is 2^-24, here 2^-36; half of it is a tie that goes to zero.
        assert_eq!(
            round_row(&[4.0, 2f32.powi(-36), 2f32.powi(-37), 3.0 * 2f32.powi(-37)])[1..],
            [2f32.powi(-36), 0.0, 2f32.powi(-35)]
        );
    }

    #[test]
    fn rows_without_a_scale() {
        assert_eq!(round_row(&[]), Vec::<f32>::new());
        assert_eq!(round_row(&[0.0, -0.0]).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [0, 1 << 31]);
        let row = round_row(&[f32::INFINITY, 1.0 + 2f32.powi(-11), 65520.0]);
        assert_eq!(row, [f32::INFINITY, 1.0, f32::INFINITY]);
        let row = round_row(&[f32::NAN, 3.0, 2f32.powi(-25)]);
        assert!(row[0].is_nan() && row[1..] == [3.0, 0.0]);
    }

    /// Rounding up at the end of the range of f32 leaves it, as it does in f32.
    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(round_row(&[f32::MAX]), [f32::INFINITY]);
        let least = f32::from_bits(1);
        assert_eq!(round_row(&[least, f32::from_bits(5)]), [least, f32::from_bits(5)]);
    }

    proptest! {
        #[test]
        fn rows_are_those_of_the_definition(
            exponent in -149i32..126, spread in 0i32..60, seeds in prop::collection::vec((any::<i32>(), 0i32..60), 1..40),
        ) {
            let value = |(bits, down): &(i32, i32)| *bits as f32 / 2f32.powi(31) * 2f32.powi((exponent - down % (spread + 1)).max(-149));
            let row: Vec<f32> = seeds.iter().map(value).collect();
            let expected = defined(&row);
            for (found, expected) in round_row(&row).iter().zip(&expected) {
                prop_assert_eq!(f64::from(*found), *expected);
            }
        }

        /// A power of two passes through, and rounding again changes nothing.
        #[test]
        fn rounding_commutes_with_powers_of_two(values in prop::collection::vec(-8f32..8.0, 1..50), power in -20i32..20) {
            let (factor, once) = (2f32.powi(power), round_row(&values));
            let scaled: Vec<f32> = values.iter().map(|x| x * factor).collect();
            let expected: Vec<f32> = once.iter().map(|x| x * factor).collect();
            prop_assert_eq!(round_row(&scaled), expected);
            prop_assert_eq!(round_row(&once), once);
        }
    }
}
