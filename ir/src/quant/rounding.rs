//! Round-to-nearest quantisation of one block: range, scale, integer.
//!
//! Integers are chosen against the scale as it is stored, rounded to f16, not against the exact one: it costs nothing and
//! is closer where the scale is an f16 subnormal. A search tries ranges that are a little smaller than a block's own and
//! keeps the one with the least squared error; what activations make of it is the compiler's matter.

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

/// The smallest and the largest value, moved towards their middle so that `shrink` of the range is left.
pub(super) fn range(values: &[f32], shrink: f32) -> (f32, f32) {
    let (low, high) =
        values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    // A whole range is not computed anew: its span may overflow.
    let margin = if shrink == 1.0 { 0.0 } else { 0.5 * (1.0 - shrink) * (high - low) };
    (low + margin, high - margin)
}

/// What a search multiplies ranges by: 1 first, for it wins where nothing is better, then down to 0.6.
pub(super) const SHRINKS: [f32; 21] = shrinks(-0.02);

/// Steps of `step` from 1 on.
pub(super) const fn shrinks(step: f32) -> [f32; 21] {
    let mut out = [1.0; 21];
    let mut i = 0;
    while i < out.len() {
        out[i] = 1.0 + i as f32 * step;
        i += 1;
    }
    out
}

/// The squared error of `got` for `values`, each weighted by its importance (1 where there is none). Values that became
/// infinite or NaN make it infinite, so that no search keeps them.
pub(super) fn error(values: &[f32], importance: Option<&[f32]>, got: impl Iterator<Item = f32>) -> f64 {
    let mut sum = 0.0;
    for (i, (&x, y)) in values.iter().zip(got).enumerate() {
        let weight = importance.map_or(1.0, |importance| f64::from(importance[i]));
        sum += weight * (f64::from(x) - f64::from(y)).powi(2);
    }
    if sum.is_nan() { f64::INFINITY } else { sum }
}

/// The factor of `shrinks` under which `trial`, which rounds and returns the error, is least; the first among equals.
pub(super) fn search(shrinks: &[f32], mut trial: impl FnMut(f32) -> f64) -> f32 {
    let mut best = (f64::INFINITY, 1.0);
    for &shrink in shrinks {
        let error = trial(shrink);
        if error < best.0 {
            best = (error, shrink);
        }
    }
    best.1
}

/// The integer in `0..=max` nearest to `value · inverse + zero`, ties to even before `zero` is added.
#[inline(always)]
pub(super) fn code(value: f32, inverse: f32, zero: f32, max: f32) -> u8 {
    ((value * inverse).round_ties_even() + zero).clamp(0.0, max) as u8
}
