//! PTX's approximations (`ex2.approx` and its like). Hardware's exact bits are not documented; each function here is the correctly
//! rounded value (computed in f64), which lies within every bound that PTX documents, with its flushing and special cases.

use super::float::{finish, flush, single};
use super::modifier::FTZ;

fn of(m: u32, bits: u64, f: impl Fn(f64) -> f64) -> u64 {
    let x = single(bits);
    let x = if m & FTZ != 0 { flush(x) } else { x };
    finish(m, f(f64::from(x)) as f32)
}

pub(crate) fn ex2(m: u32, a: u64, _: u64, _: u64) -> u64 {
    of(m, a, f64::exp2)
}

/// NaN below zero, −∞ at ±0.
pub(crate) fn lg2(m: u32, a: u64, _: u64, _: u64) -> u64 {
    of(m, a, f64::log2)
}

pub(crate) fn rsqrt(m: u32, a: u64, _: u64, _: u64) -> u64 {
    of(m, a, |x| if x == 0.0 { f64::INFINITY.copysign(x) } else { 1.0 / x.sqrt() })
}

pub(crate) fn sqrt(m: u32, a: u64, _: u64, _: u64) -> u64 {
    of(m, a, f64::sqrt)
}

pub(crate) fn rcp(m: u32, a: u64, _: u64, _: u64) -> u64 {
    of(m, a, |x| 1.0 / x)
}

/// `div.approx` gives 0 where the divisor exceeds 2^126, as documented.
pub(crate) fn div(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let (mut x, mut y) = (single(a), single(b));
    if m & FTZ != 0 {
        (x, y) = (flush(x), flush(y));
    }
    let huge = y.abs() > 2f32.powi(126) && y.is_finite();
    let quotient = match huge {
        true if x.is_infinite() => f32::NAN,
        true if !x.is_nan() => 0f32.copysign(if x.is_sign_negative() == y.is_sign_negative() { 1.0 } else { -1.0 }),
        _ => (f64::from(x) / f64::from(y)) as f32,
    };
    finish(m, quotient)
}

/// `div.full`: within 2 ulp over the whole range.
pub(crate) fn div_full(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let (mut x, mut y) = (single(a), single(b));
    if m & FTZ != 0 {
        (x, y) = (flush(x), flush(y));
    }
    finish(m, (f64::from(x) / f64::from(y)) as f32)
}

pub(crate) fn sin(m: u32, a: u64, _: u64, _: u64) -> u64 {
    of(m, a, f64::sin)
}

pub(crate) fn cos(m: u32, a: u64, _: u64, _: u64) -> u64 {
    of(m, a, f64::cos)
}

pub(crate) fn tanh(m: u32, a: u64, _: u64, _: u64) -> u64 {
    of(m, a, f64::tanh)
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64` see and give only the upper 32 bits.
pub(crate) fn rcp_f64(_: u32, a: u64, _: u64, _: u64) -> u64 {
    (1.0 / f64::from_bits(a & !0xffff_ffff)).to_bits() & !0xffff_ffff
}

pub(crate) fn rsqrt_f64(_: u32, a: u64, _: u64, _: u64) -> u64 {
    (1.0 / f64::from_bits(a & !0xffff_ffff).sqrt()).to_bits() & !0xffff_ffff
}
