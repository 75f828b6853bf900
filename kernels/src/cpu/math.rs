//! Elementary functions in single precision, the same bits on every instruction set.
//!
//! Written as straight-line code over [`f32::mul_add`] so that the compiler vectorises loops over them wherever a fused
//! multiply-add is an instruction; a libm's own would differ from machine to machine.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, the first exact in few bits (Cody and Waite).
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding it rounds a small number to an integer, held in the low bits.
const ROUND: f32 = 12_582_912.0;

/// e^x with relative error below 2e-7 for x in -87..=88; 0 below, infinite above, where f32 is about to end. NaN stays NaN.
/// Cody-Waite reduction and a polynomial of degree 6.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = (-n).mul_add(LN2_LOW, (-n).mul_add(LN2_HIGH, clamped));
    let p = 1.987_569_1e-4f32
        .mul_add(r, 1.398_2e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 1.666_666_5e-1)
        .mul_add(r, 5e-1);
    let e = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    let finite = if x > 88.0 { f32::INFINITY } else { e * scale };
    if x < -87.0 { 0.0 } else { finite }
}

/// x / (1 + e^-x).
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// tanh(x) with absolute error below 3e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let t = exp(-2.0 * x.abs());
    ((1.0 - t) / (1.0 + t)).copysign(x)
}

/// Sine and cosine of an angle in radians, absolute error below 1e-6 for angles up to 2^30. The angle is reduced in f64: a
/// position times a frequency has no more digits to lose.
#[inline(always)]
pub(crate) fn sin_cos(angle: f64) -> (f32, f32) {
    let quarter = (angle * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = (-quarter).mul_add(std::f64::consts::FRAC_PI_2, angle) as f32;
    let s = r * r;
    let sin = (-1.951_529_6e-4f32).mul_add(s, 8.332_161e-3).mul_add(s, -1.666_665_5e-1).mul_add(s * r, r);
    let cos = 2.443_315_7e-5f32
        .mul_add(s, -1.388_731_6e-3)
        .mul_add(s, 4.166_664_6e-2)
        .mul_add(s * s, (-0.5f32).mul_add(s, 1.0));
    match quarter as i64 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// The sum of 16 lanes in a fixed tree.
#[inline(always)]
pub(crate) fn tree_sum(lanes: [f32; 16]) -> f32 {
    let mut lanes = lanes;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_as_accurate_as_they_say() {
        for i in -1_000_000..=1_000_000i32 {
            let x = i as f32 * 8.7e-5;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2e-7, "exp({x})");
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 3e-7, "tanh({x})");
            let angle = f64::from(i) * 1.3;
            let (sin, cos) = sin_cos(angle);
            assert!((f64::from(sin) - angle.sin()).abs() < 1e-6, "sin({angle})");
            assert!((f64::from(cos) - angle.cos()).abs() < 1e-6, "cos({angle})");
        }
    }

    #[test]
    fn edges_are_finite() {
        assert_eq!((exp(f32::NEG_INFINITY), exp(-1e30), exp(0.0)), (0.0, 0.0, 1.0));
        assert_eq!((exp(1e30), exp(f32::INFINITY)), (f32::INFINITY, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
        assert_eq!((tanh(50.0), tanh(-50.0), tanh(0.0)), (1.0, -1.0, 0.0));
        assert_eq!((silu(0.0), silu(-1e38), silu(1e38)), (0.0, 0.0, 1e38));
    }
}
