//! f32 and f64 arithmetic, correctly rounded in each direction PTX offers.

use super::modifier::{FTZ, NAN, SAT, XORSIGN_ABS};
use super::rounding::{CANONICAL_NAN, Rounding, quotient_to_odd, root_to_odd, sum_to_odd, to_f32, zero_sum};

pub(crate) fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

pub(crate) fn double(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// Subnormals become zeros of their sign.
pub(crate) fn flush(x: f32) -> f32 {
    if x.is_subnormal() { f32::from_bits(x.to_bits() & 1 << 31) } else { x }
}

fn operand(m: u32, bits: u64) -> f32 {
    if m & FTZ != 0 { flush(single(bits)) } else { single(bits) }
}

/// Flushes, saturates to [0, 1] (NaN becomes +0) and makes NaN canonical, as the modifiers ask.
pub(crate) fn finish(m: u32, x: f32) -> u64 {
    let x = if m & FTZ != 0 { flush(x) } else { x };
    let x = match m & SAT != 0 {
        true if x > 0.0 => x.min(1.0),
        true => 0.0,
        false => x,
    };
    u64::from(if x.is_nan() { CANONICAL_NAN } else { x.to_bits() })
}

fn sum(m: u32, a: f32, b: f32) -> u64 {
    let direction = Rounding::of(m);
    let wide = sum_to_odd(f64::from(a), f64::from(b));
    let result = if wide == 0.0 {
        zero_sum(a.is_sign_negative(), b.is_sign_negative(), direction)
    } else {
        to_f32(wide, direction)
    };
    finish(m, result)
}

pub(crate) fn add_f32(m: u32, a: u64, b: u64, _: u64) -> u64 {
    sum(m, operand(m, a), operand(m, b))
}

pub(crate) fn sub_f32(m: u32, a: u64, b: u64, _: u64) -> u64 {
    sum(m, operand(m, a), -operand(m, b))
}

pub(crate) fn mul_f32(m: u32, a: u64, b: u64, _: u64) -> u64 {
    finish(m, to_f32(f64::from(operand(m, a)) * f64::from(operand(m, b)), Rounding::of(m)))
}

/// a·b + c rounded once. The product of two f32 is exact in f64.
pub(crate) fn fma_f32(m: u32, a: u64, b: u64, c: u64) -> u64 {
    let product = f64::from(operand(m, a)) * f64::from(operand(m, b));
    let addend = operand(m, c);
    let direction = Rounding::of(m);
    let wide = sum_to_odd(product, f64::from(addend));
    let result = if wide == 0.0 {
        zero_sum(product.is_sign_negative(), addend.is_sign_negative(), direction)
    } else {
        to_f32(wide, direction)
    };
    finish(m, result)
}

pub(crate) fn div_f32(m: u32, a: u64, b: u64, _: u64) -> u64 {
    finish(m, to_f32(quotient_to_odd(f64::from(operand(m, a)), f64::from(operand(m, b))), Rounding::of(m)))
}

pub(crate) fn rcp_f32(m: u32, a: u64, _: u64, _: u64) -> u64 {
    finish(m, to_f32(quotient_to_odd(1.0, f64::from(operand(m, a))), Rounding::of(m)))
}

pub(crate) fn sqrt_f32(m: u32, a: u64, _: u64, _: u64) -> u64 {
    finish(m, to_f32(root_to_odd(f64::from(operand(m, a))), Rounding::of(m)))
}

pub(crate) fn neg_f32(m: u32, a: u64, _: u64, _: u64) -> u64 {
    u64::from((-operand(m, a)).to_bits())
}

pub(crate) fn abs_f32(m: u32, a: u64, _: u64, _: u64) -> u64 {
    u64::from(operand(m, a).abs().to_bits())
}

/// `copysign a, b`: b with the sign of a.
pub(crate) fn copysign_f32(_: u32, a: u64, b: u64, _: u64) -> u64 {
    (a & 0x8000_0000) | (b & 0x7fff_ffff)
}

/// The number, if one operand is NaN; −0 is less than +0.
fn extreme(m: u32, a: f32, b: f32, max: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        let both = m & NAN != 0 || (a.is_nan() && b.is_nan());
        return if both {
            f32::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    if a == b {
        let first = a.is_sign_negative() != max;
        return if first { a } else { b };
    }
    if (a < b) != max { a } else { b }
}

fn extreme_bits(m: u32, a: u64, b: u64, max: bool) -> u64 {
    let (x, y) = (operand(m, a), operand(m, b));
    if m & XORSIGN_ABS == 0 {
        return finish(m, extreme(m, x, y, max));
    }
    let sign = (x.to_bits() ^ y.to_bits()) & 1 << 31;
    let result = extreme(m, x.abs(), y.abs(), max);
    if result.is_nan() { finish(m, result) } else { u64::from(result.to_bits() | sign) }
}

pub(crate) fn min_f32(m: u32, a: u64, b: u64, _: u64) -> u64 {
    extreme_bits(m, a, b, false)
}

pub(crate) fn max_f32(m: u32, a: u64, b: u64, _: u64) -> u64 {
    extreme_bits(m, a, b, true)
}

/// `min`/`max` of three, as two steps.
pub(crate) fn min3_f32(m: u32, a: u64, b: u64, c: u64) -> u64 {
    min_f32(m, min_f32(m, a, b, 0), c, 0)
}

pub(crate) fn max3_f32(m: u32, a: u64, b: u64, c: u64) -> u64 {
    max_f32(m, max_f32(m, a, b, 0), c, 0)
}

/// Which class: `testp`; `m`: 0 finite, 1 infinite, 2 number, 3 NaN, 4 normal, 5 subnormal.
pub(crate) fn testp_f32(class: u32, a: u64, _: u64, _: u64) -> u64 {
    let x = single(a);
    u64::from(match class {
        0 => x.is_finite(),
        1 => x.is_infinite(),
        2 => !x.is_nan(),
        3 => x.is_nan(),
        4 => x.is_normal(),
        _ => x.is_subnormal(),
    })
}

pub(crate) fn testp_f64(class: u32, a: u64, _: u64, _: u64) -> u64 {
    let x = double(a);
    u64::from(match class {
        0 => x.is_finite(),
        1 => x.is_infinite(),
        2 => !x.is_nan(),
        3 => x.is_nan(),
        4 => x.is_normal(),
        _ => x.is_subnormal(),
    })
}

/// Both halves of 64 bits.
fn twice(f: fn(u32, u64, u64, u64) -> u64, m: u32, a: u64, b: u64, c: u64) -> u64 {
    let low = |x: u64| x & 0xffff_ffff;
    (f(m, a >> 32, b >> 32, c >> 32) << 32) | f(m, low(a), low(b), low(c))
}

pub(crate) fn add_f32x2(m: u32, a: u64, b: u64, c: u64) -> u64 {
    twice(add_f32, m, a, b, c)
}

pub(crate) fn sub_f32x2(m: u32, a: u64, b: u64, c: u64) -> u64 {
    twice(sub_f32, m, a, b, c)
}

pub(crate) fn mul_f32x2(m: u32, a: u64, b: u64, c: u64) -> u64 {
    twice(mul_f32, m, a, b, c)
}

pub(crate) fn fma_f32x2(m: u32, a: u64, b: u64, c: u64) -> u64 {
    twice(fma_f32, m, a, b, c)
}

fn finish_f64(x: f64) -> u64 {
    if x.is_nan() { 0x7fff_ffff_ffff_ffff } else { x.to_bits() }
}

/// The f64 nearest to `value + error`, moved by an ulp where the direction asks.
fn directed(value: f64, error: f64, direction: Rounding) -> f64 {
    if error == 0.0 || error.is_nan() {
        return value;
    }
    match direction {
        Rounding::Nearest => value,
        Rounding::Up if error > 0.0 => value.next_up(),
        Rounding::Down if error < 0.0 => value.next_down(),
        Rounding::Zero if value > 0.0 && error < 0.0 => value.next_down(),
        Rounding::Zero if value < 0.0 && error > 0.0 => value.next_up(),
        _ => value,
    }
}

fn sum_f64(m: u32, a: f64, b: f64) -> u64 {
    let sum = a + b;
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    if sum == 0.0 && a.is_finite() {
        return u64::from(zero_sum(a.is_sign_negative(), b.is_sign_negative(), Rounding::of(m)).is_sign_negative())
            << 63;
    }
    finish_f64(directed(sum, error, Rounding::of(m)))
}

pub(crate) fn add_f64(m: u32, a: u64, b: u64, _: u64) -> u64 {
    sum_f64(m, double(a), double(b))
}

pub(crate) fn sub_f64(m: u32, a: u64, b: u64, _: u64) -> u64 {
    sum_f64(m, double(a), -double(b))
}

pub(crate) fn mul_f64(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let (a, b) = (double(a), double(b));
    let product = a * b;
    finish_f64(directed(product, a.mul_add(b, -product), Rounding::of(m)))
}

/// Round to nearest only; the decoder refuses the other directions.
pub(crate) fn fma_f64(_: u32, a: u64, b: u64, c: u64) -> u64 {
    finish_f64(double(a).mul_add(double(b), double(c)))
}

pub(crate) fn div_f64(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let (a, b) = (double(a), double(b));
    let quotient = a / b;
    let remainder = quotient.mul_add(-b, a);
    finish_f64(directed(quotient, if b < 0.0 { -remainder } else { remainder }, Rounding::of(m)))
}

pub(crate) fn rcp_f64(m: u32, a: u64, _: u64, _: u64) -> u64 {
    div_f64(m, 1f64.to_bits(), a, 0)
}

pub(crate) fn sqrt_f64(m: u32, a: u64, _: u64, _: u64) -> u64 {
    let x = double(a);
    let root = x.sqrt();
    finish_f64(directed(root, root.mul_add(-root, x), Rounding::of(m)))
}

pub(crate) fn neg_f64(_: u32, a: u64, _: u64, _: u64) -> u64 {
    a ^ 1 << 63
}

pub(crate) fn abs_f64(_: u32, a: u64, _: u64, _: u64) -> u64 {
    a & !(1 << 63)
}

pub(crate) fn copysign_f64(_: u32, a: u64, b: u64, _: u64) -> u64 {
    (a & 1 << 63) | (b & !(1 << 63))
}

fn extreme_f64(a: f64, b: f64, max: bool) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => {
            if a.is_sign_negative() != max {
                a
            } else {
                b
            }
        }
        _ if (a < b) != max => a,
        _ => b,
    }
}

pub(crate) fn min_f64(_: u32, a: u64, b: u64, _: u64) -> u64 {
    finish_f64(extreme_f64(double(a), double(b), false))
}

pub(crate) fn max_f64(_: u32, a: u64, b: u64, _: u64) -> u64 {
    finish_f64(extreme_f64(double(a), double(b), true))
}
