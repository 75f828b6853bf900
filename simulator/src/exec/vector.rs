//! Arithmetic over 32 lanes in loops that compilers turn into vector instructions, and the f16 conversions that hot loops need without
//! branches.

use crate::numeric::rounding::CANONICAL_NAN;

/// The lanes of one row.
pub(crate) type Lanes = [u32; 32];

/// Writes the lanes of `mask`.
#[inline(always)]
pub(crate) fn store(row: &mut Lanes, out: &Lanes, mask: u32) {
    if mask == u32::MAX {
        *row = *out;
        return;
    }
    for i in 0..32 {
        let keep = 0u32.wrapping_sub(mask >> i & 1);
        row[i] = out[i] & keep | row[i] & !keep;
    }
}

/// The f32 whose bits are `x`, with any NaN made the one that hardware returns.
#[inline(always)]
pub(crate) fn canonical(x: f32) -> u32 {
    if x.is_nan() { CANONICAL_NAN } else { x.to_bits() }
}

/// f16 → f32, exactly; scaling by 2^112 moves the exponent and normalises subnormals.
#[inline(always)]
pub(crate) fn f32_from_f16(half: u32) -> f32 {
    let magnitude = (half & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = half & 0x7c00 == 0x7c00;
    let bits = if special { magnitude | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(bits | (half & 0x8000) << 16)
}

/// f32 → f16, to nearest even, NaN to 0x7fff.
#[inline(always)]
pub(crate) fn f16_from_f32(x: f32) -> u32 {
    let bits = x.to_bits();
    let sign = bits >> 16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Subnormal results: adding 0.5 puts the last place of f16 at the last place of the sum.
    let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(0x3800_0000).wrapping_add(0xfff + odd) >> 13;
    let finite = if magnitude < 0x3880_0000 { small } else { normal };
    let result = if magnitude >= 0x477f_f000 { 0x7c00 } else { finite };
    if magnitude > 0x7f80_0000 { 0x7fff } else { result | sign }
}

/// a·b + c of f16 operands, rounded once. The product is exact in f32; their sum is rounded to odd there, which a second rounding to f16
/// cannot spoil.
#[inline(always)]
pub(crate) fn fma_f16(a: u32, b: u32, c: u32) -> u32 {
    let product = f32_from_f16(a) * f32_from_f16(b);
    let addend = f32_from_f16(c);
    let sum = product + addend;
    let part = sum - product;
    let error = (product - (sum - part)) + (addend - part);
    let bits = sum.to_bits();
    let inexact = error != 0.0 && sum.is_finite() && bits & 1 == 0;
    let step = if (error > 0.0) == (sum >= 0.0) { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    f16_from_f32(f32::from_bits(if inexact { step } else { bits }))
}

/// min and max as PTX has them: a number wins over NaN, −0 is less than +0.
#[inline(always)]
pub(crate) fn min_f32(a: f32, b: f32) -> u32 {
    let less = a < b || (a == b && a.is_sign_negative()) || b.is_nan();
    canonical(if less { a } else { b })
}

#[inline(always)]
pub(crate) fn max_f32(a: f32, b: f32) -> u32 {
    let more = a > b || (a == b && a.is_sign_positive()) || b.is_nan();
    canonical(if more { a } else { b })
}

/// Both halves of packed operands.
#[inline(always)]
pub(crate) fn halves(a: u32, b: u32, f: impl Fn(f32, f32) -> f32) -> u32 {
    let low = f16_from_f32(f(f32_from_f16(a & 0xffff), f32_from_f16(b & 0xffff)));
    let high = f16_from_f32(f(f32_from_f16(a >> 16), f32_from_f16(b >> 16)));
    high << 16 | low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::formats::F16;
    use crate::numeric::half_ops;
    use crate::numeric::rounding::Rounding;

    #[test]
    fn every_f16_decodes_like_its_format_and_comes_back() {
        for bits in 0..=0xffffu32 {
            let fast = f32_from_f16(bits);
            let exact = F16.decode(bits);
            assert!(f64::from(fast) == exact || (fast.is_nan() && exact.is_nan()), "{bits:#x}");
            assert_eq!(f16_from_f32(fast), if exact.is_nan() { 0x7fff } else { bits }, "{bits:#x}");
        }
    }

    #[test]
    fn f32_rounds_to_f16_like_its_format() {
        // Around every f16 and every midpoint between two.
        for bits in (0..0x7c00u32).step_by(3) {
            let low = F16.decode(bits) as f32;
            let high = if bits == 0x7bff { 65536.0 } else { F16.decode(bits + 1) as f32 };
            let middle = (low + high) / 2.0;
            for x in [low, middle, middle.next_up(), middle.next_down(), high.next_down()] {
                for x in [x, -x] {
                    assert_eq!(f16_from_f32(x), F16.encode(f64::from(x), Rounding::Nearest, false, false), "{x:e}");
                }
            }
        }
    }

    #[test]
    fn fused_f16_agrees_with_the_scalar_definition() {
        let mut state = 12345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for _ in 0..200_000 {
            let (a, b, c) = (next(), next(), next());
            let expected = half_ops::fma::<false>(0, a.into(), b.into(), c.into()) as u32;
            assert_eq!(fma_f16(a, b, c), expected, "{a:#x} {b:#x} {c:#x}");
        }
        // A tie that a far smaller addend breaks.
        assert_eq!(fma_f16(0x3c01, 0x3c01, 0x0001), half_ops::fma::<false>(0, 0x3c01, 0x3c01, 1) as u32);
    }
}
