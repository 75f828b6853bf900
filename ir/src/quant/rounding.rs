//! Round-to-nearest quantisation of one block: range, scale, integer.
//!
//! Integers are chosen against the scale as it is stored, rounded to f16, not against the exact one: it costs nothing and
//! is closer where the scale is an f16 subnormal. No search over scales is made; calibration is the compiler's matter.

use half::f16;

/// The finite f16 next to `exact` that is not smaller in magnitude: the end of the range is never cut off, which rounding to
/// nearest would do where scales are f16 subnormals, and only zero becomes zero.
pub(super) fn scale(exact: f32) -> f16 {
    let nearest = offset(exact);
    let too_small = nearest.to_f32().abs() < exact.abs() && nearest.to_f32().abs() < f16::MAX.to_f32();
    f16::from_bits(nearest.to_bits() + u16::from(too_small))
}

/// The nearest finite f16.
pub(super) fn offset(exact: f32) -> f16 {
    f16::from_f32(exact.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

/// `1 / step`, or 0 for a step of 0, which sends every value to the offset.
pub(super) fn inverse(step: f32) -> f32 {
    if step == 0.0 { 0.0 } else { 1.0 / step }
}

/// The value of greatest magnitude, with its sign.
pub(super) fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |found: f32, &x| if x.abs() > found.abs() { x } else { found })
}

/// The smallest and the largest value.
pub(super) fn range(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)))
}

/// The integer in `0..=max` nearest to `value · inverse + zero`, ties to even before `zero` is added.
#[inline(always)]
pub(super) fn code(value: f32, inverse: f32, zero: f32, max: f32) -> u8 {
    ((value * inverse).round_ties_even() + zero).clamp(0.0, max) as u8
}
