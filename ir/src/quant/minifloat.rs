//! The small floats of the Open Compute Project's formats: E4M3 (OCP 8-bit floating point, 1.0), E2M1 and the power-of-two
//! scales E8M0 (OCP microscaling formats, 1.0).
//!
//! Decoding is exact and needs no table: the fields of a code, moved to where f32 has them, are its value times a power of
//! two, subnormals included. NaN codes have no use in weights: E4M3's count as ±480 here and are refused where rows are
//! made from integers.

/// The code of E4M3's NaN, without sign.
pub const E4M3_NAN: u8 = 0x7f;

/// The greatest finite value of E4M3.
pub const E4M3_MAX: f32 = 448.0;

/// `2^exponent` for a normal f32.
const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// The value of an E4M3 code.
#[inline(always)]
pub fn e4m3(code: u8) -> f32 {
    let magnitude = f32::from_bits(u32::from(code & 0x7f) << 20) * power_of_two(120);
    f32::from_bits(magnitude.to_bits() | u32::from(code & 0x80) << 24)
}

/// The E4M3 code nearest to `value`, ties to the even code; beyond ±448 the greatest, as OCP's saturating conversion.
pub fn to_e4m3(value: f32) -> u8 {
    let magnitude = value.abs().min(E4M3_MAX);
    let code = if magnitude < power_of_two(-6) {
        // Subnormals are multiples of 2^-9; 8 of them are the code of the smallest normal.
        (magnitude * power_of_two(9)).round_ties_even() as u32
    } else {
        rounded_field(magnitude, 20) - (120 << 3)
    };
    code.min(0x7e) as u8 | sign_bit(value, 7)
}

/// Twice the value of an E2M1 code, a whole number of -12..=12.
#[inline(always)]
pub const fn twice_e2m1(code: u8) -> i8 {
    const TWICE: [i8; 8] = [0, 1, 2, 3, 4, 6, 8, 12];
    let magnitude = TWICE[(code & 7) as usize];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// The E2M1 code nearest to `value`, ties to the even code; beyond ±6 the greatest.
pub fn to_e2m1(value: f32) -> u8 {
    let magnitude = value.abs().min(6.0);
    let code = if magnitude < 1.0 {
        (magnitude * 2.0).round_ties_even() as u32
    } else {
        rounded_field(magnitude, 22) - (126 << 1)
    };
    code.min(7) as u8 | sign_bit(value, 3)
}

/// The power of two of an E8M0 scale, `2^(e - 127)`; 255, its NaN, gives infinity.
#[inline(always)]
pub fn power(e: u8) -> f32 {
    f32::from_bits(u32::from(e) << 23).max(f32::MIN_POSITIVE / 2.0)
}

/// The E8M0 scale that is `value`; `None` if it is none of `2^-127..=2^127`.
pub fn exponent(value: f32) -> Option<u8> {
    let e = if value == f32::MIN_POSITIVE / 2.0 { 0 } else { (value.to_bits() >> 23) as u8 };
    (value.is_finite() && power(e) == value).then_some(e)
}

/// The bits of a normal f32 from bit `low` on, the rest rounded to nearest, ties to even.
fn rounded_field(magnitude: f32, low: u32) -> u32 {
    let bits = magnitude.to_bits();
    (bits + (1 << (low - 1)) - 1 + (bits >> low & 1)) >> low
}

fn sign_bit(value: f32, bit: u32) -> u8 {
    u8::from(value.is_sign_negative()) << bit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value from the fields, as the specifications write it.
    fn from_fields(sign: u8, exponent: i32, mantissa: u8, bias: i32, mantissa_bits: i32) -> f64 {
        let fraction = f64::from(mantissa) / 2f64.powi(mantissa_bits);
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(1 - bias),
            _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
        };
        if sign == 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn values_are_those_of_the_fields() {
        for code in 0..=255u8 {
            let expected = from_fields(code >> 7, i32::from(code >> 3 & 15), code & 7, 7, 3);
            assert_eq!(f64::from(e4m3(code)), expected, "{code:#x}");
        }
        for code in 0..16u8 {
            let expected = from_fields(code >> 3, i32::from(code >> 1 & 3), code & 1, 1, 1);
            assert_eq!(f64::from(twice_e2m1(code)), 2.0 * expected, "{code:#x}");
        }
        for e in 0..=254u8 {
            assert_eq!(f64::from(power(e)), 2f64.powi(i32::from(e) - 127));
            assert_eq!(exponent(power(e)), Some(e));
        }
        assert_eq!(power(255), f32::INFINITY);
        for value in [0.0, -1.0, 3.0, f32::NAN, f32::INFINITY, f32::from_bits(1), f32::MIN_POSITIVE * 1.5] {
            assert_eq!(exponent(value), None, "{value}");
        }
    }

    /// The nearest of all codes by comparing with each, ties to the even one.
    fn nearest(value: f32, codes: std::ops::RangeInclusive<u8>, decode: impl Fn(u8) -> f32) -> u8 {
        let distance = |code: u8| (f64::from(decode(code)) - f64::from(value.abs())).abs();
        codes.min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1)))).unwrap()
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        // Every representable value and every tie, a hair to either side, and far out.
        let around = |x: f32| [x.next_down(), x, x.next_up(), -x];
        let half_e2m1 = |code: u8| f32::from(twice_e2m1(code)) / 2.0;
        for code in 0..0x7eu8 {
            let (a, b) = (e4m3(code), e4m3(code + 1));
            for value in [a, (a + b) / 2.0].into_iter().flat_map(around) {
                let sign = u8::from(value.is_sign_negative()) << 7;
                assert_eq!(to_e4m3(value), nearest(value, 0..=0x7e, e4m3) | sign, "{value:e}");
            }
        }
        for code in 0..7u8 {
            let (a, b) = (half_e2m1(code), half_e2m1(code + 1));
            for value in [a, (a + b) / 2.0].into_iter().flat_map(around) {
                let sign = u8::from(value.is_sign_negative()) << 3;
                assert_eq!(to_e2m1(value), nearest(value, 0..=7, half_e2m1) | sign, "{value:e}");
            }
        }
        assert_eq!([to_e4m3(1e9), to_e4m3(-449.0), to_e2m1(1e9), to_e2m1(-7.0)], [0x7e, 0xfe, 7, 15]);
    }
}
