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

/// 1 / (1 + e^-x), to 3 ulp for x of at least -1; relative error below 3e-7 for x in -87..=88.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh(x) to 2 ulp. Near 0, where the exponentials would cancel, a polynomial of degree 11 (Chebyshev fit over x² in 0..=0.4).
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let (t, s) = (exp(-2.0 * x.abs()), x * x);
    let far = ((1.0 - t) / (1.0 + t)).copysign(x);
    let p = (-6.045_165e-3f32)
        .mul_add(s, 2.096_133e-2)
        .mul_add(s, -5.384_326_4e-2)
        .mul_add(s, 1.333_271_9e-1)
        .mul_add(s, -3.333_332_8e-1);
    let near = (p * s).mul_add(x, x);
    if x.abs() < 0.6 { near } else { far }
}

/// x · Φ(x), the Gaussian error linear unit (Hendrycks and Gimpel, 2016), to 6 ulp for x above -13; 0 below, where f32 is about
/// to end. Φ(-|x|) = e^(-x²/2) · Q(1 / (1 + |x|/4)) with Q / t a polynomial of degree 9 (Chebyshev fit): neither tail cancels.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / a.mul_add(0.25, 1.0);
    let q = 1.499_363_2e-2f32
        .mul_add(t, -5.412_951e-2)
        .mul_add(t, 3.114_304_5e-2)
        .mul_add(t, 5.601_269_4e-2)
        .mul_add(t, -1.045_506_6e-2)
        .mul_add(t, 9.924_573e-2)
        .mul_add(t, 6.758_127e-2)
        .mul_add(t, 9.648_022e-2)
        .mul_add(t, 9.937_381e-2)
        .mul_add(t, 9.975_418_4e-2);
    let s = a * a;
    // What squaring rounded away, as the exponential would magnify it.
    let low = a.mul_add(a, -s);
    let e = exp(-0.5 * s);
    let tail = (-0.5 * low).mul_add(e, e) * (q * t);
    let positive = if x < 0.0 { 0.0 } else { x };
    let unit = (-a).mul_add(tail, positive);
    // Past this, e is 0, and squares and products of what is left may be infinite.
    if a > 13.0 { positive } else { unit }
}

/// 0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))), written as x · sigmoid of twice the argument, which does not cancel: to 3 ulp
/// for x of at least -1, absolute error below 2e-7 · |x| elsewhere.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    const TWICE: f32 = 1.595_769_2;
    const CUBIC: f32 = 7.135_481_6e-2;
    x / (1.0 + exp(-(x * (x * x).mul_add(CUBIC, TWICE))))
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
    // Comparisons of whole numbers and no conversion: a loop over angles becomes vectors.
    let turn = quarter - 4.0 * (quarter * 0.25).floor();
    let (sin, cos) = if turn == 1.0 || turn == 3.0 { (cos, sin) } else { (sin, cos) };
    (if turn >= 2.0 { -sin } else { sin }, if turn == 1.0 || turn == 2.0 { -cos } else { cos })
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
pub(crate) mod tests {
    use super::*;

    #[test]
    fn functions_are_as_accurate_as_they_say() {
        for i in -1_000_000..=1_000_000i32 {
            let x = i as f32 * 8.7e-5;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2e-7, "exp({x})");
            assert!((f64::from(sigmoid(x)) * (1.0 + (-f64::from(x)).exp()) - 1.0).abs() < 3e-7, "sigmoid({x})");
            let angle = f64::from(i) * 1.3;
            let (sin, cos) = sin_cos(angle);
            assert!((f64::from(sin) - angle.sin()).abs() < 1e-6, "sin({angle})");
            assert!((f64::from(cos) - angle.cos()).abs() < 1e-6, "cos({angle})");
        }
    }

    /// Distance of two numbers in units of the last place of the exact one.
    fn ulps(got: f32, exact: f64) -> f64 {
        let rounded = (exact as f32).abs();
        (f64::from(got) - exact).abs() / f64::from(rounded.next_up() - rounded)
    }

    /// Φ(x) by the series of Φ(x) - 1/2 near 0 and the continued fraction of its tail elsewhere (Abramowitz and Stegun 26.2.11,
    /// 26.2.14).
    pub(crate) fn normal(x: f64) -> f64 {
        let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x.abs() < 2.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                term *= x * x / f64::from(2 * n + 1);
                sum += term;
            }
            return 0.5 + density * sum;
        }
        let fraction = (1..=120).rev().fold(x.abs(), |f, n| x.abs() + f64::from(n) / f);
        if x > 0.0 { 1.0 - density / fraction } else { density / fraction }
    }

    #[test]
    fn activations_are_as_accurate_as_they_say() {
        for i in -260_000..=260_000i32 {
            let x = i as f32 * 5e-5;
            let exact = f64::from(x);
            assert!(ulps(tanh(x), exact.tanh()) <= 2.0, "tanh({x})");
            assert!(ulps(gelu(x), exact * normal(exact)) <= 6.0, "gelu({x}) = {} {}", gelu(x), exact * normal(exact));
            let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (exact + 0.044715 * exact.powi(3));
            let expected = exact / (1.0 + (-twice).exp());
            assert!((f64::from(gelu_tanh(x)) - expected).abs() <= 2e-7 * exact.abs(), "gelu_tanh({x})");
            if x >= -1.0 {
                assert!(ulps(gelu_tanh(x), expected) <= 3.0, "gelu_tanh({x})");
                assert!(ulps(sigmoid(x), 1.0 / (1.0 + (-exact).exp())) <= 3.0, "sigmoid({x})");
            }
        }
    }

    #[test]
    fn edges_are_finite() {
        assert_eq!((exp(f32::NEG_INFINITY), exp(-1e30), exp(0.0)), (0.0, 0.0, 1.0));
        assert_eq!((exp(1e30), exp(f32::INFINITY)), (f32::INFINITY, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
        assert_eq!((tanh(50.0), tanh(-50.0), tanh(0.0)), (1.0, -1.0, 0.0));
        assert_eq!((silu(0.0), silu(-1e38), silu(1e38)), (0.0, 0.0, 1e38));
        for gelu in [gelu, gelu_tanh] {
            assert_eq!((gelu(0.0), gelu(-1e38), gelu(-20.0), gelu(20.0), gelu(1e38)), (0.0, 0.0, 0.0, 20.0, 1e38));
            assert!(gelu(f32::NAN).is_nan());
        }
        assert_eq!((sigmoid(f32::NEG_INFINITY), sigmoid(f32::INFINITY)), (0.0, 1.0));
        assert!(tanh(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
    }
}
