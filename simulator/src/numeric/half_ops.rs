//! f16 and bf16 arithmetic, single and packed. Every operation is computed in f64 (rounded to odd where it is inexact there) and rounded
//! once to the format.

use super::formats::{BF16, F16, Format};
use super::modifier::{FTZ, NAN, RELU, SAT, XORSIGN_ABS};
use super::rounding::{Rounding, sum_to_odd};

/// The format of an operation, as a const parameter: f16, or bf16.
const fn format<const BF: bool>() -> Format {
    if BF { BF16 } else { F16 }
}

fn read<const BF: bool>(m: u32, bits: u64) -> f64 {
    let format = format::<BF>();
    let x = format.decode(bits as u32 & 0xffff);
    let subnormal = bits as u32 & (0x7fff >> format.mantissa_bits << format.mantissa_bits) == 0;
    if m & FTZ != 0 && subnormal { 0f64.copysign(x) } else { x }
}

fn write<const BF: bool>(m: u32, x: f64) -> u64 {
    let format = format::<BF>();
    let x = match m {
        _ if x.is_nan() && m & SAT != 0 => 0.0,
        _ if x.is_nan() => return u64::from(format.nan),
        _ if m & SAT != 0 => {
            if x > 0.0 {
                x.min(1.0)
            } else {
                0.0
            }
        }
        _ if m & RELU != 0 && x <= 0.0 => 0.0,
        _ => x,
    };
    let bits = format.encode(x, Rounding::Nearest, false, false);
    let subnormal = bits & (0x7fff >> format.mantissa_bits << format.mantissa_bits) == 0;
    u64::from(if m & FTZ != 0 && subnormal { bits & 0x8000 } else { bits })
}

pub(crate) fn add<const BF: bool>(m: u32, a: u64, b: u64, _: u64) -> u64 {
    write::<BF>(m, sum_to_odd(read::<BF>(m, a), read::<BF>(m, b)))
}

pub(crate) fn sub<const BF: bool>(m: u32, a: u64, b: u64, _: u64) -> u64 {
    write::<BF>(m, sum_to_odd(read::<BF>(m, a), -read::<BF>(m, b)))
}

pub(crate) fn mul<const BF: bool>(m: u32, a: u64, b: u64, _: u64) -> u64 {
    write::<BF>(m, read::<BF>(m, a) * read::<BF>(m, b))
}

pub(crate) fn fma<const BF: bool>(m: u32, a: u64, b: u64, c: u64) -> u64 {
    write::<BF>(m, sum_to_odd(read::<BF>(m, a) * read::<BF>(m, b), read::<BF>(m, c)))
}

pub(crate) fn neg<const BF: bool>(m: u32, a: u64, _: u64, _: u64) -> u64 {
    flushed::<BF>(m, (a ^ 0x8000) & 0xffff)
}

pub(crate) fn abs<const BF: bool>(m: u32, a: u64, _: u64, _: u64) -> u64 {
    flushed::<BF>(m, a & 0x7fff)
}

fn flushed<const BF: bool>(m: u32, bits: u64) -> u64 {
    let exponent = u64::from(0x7fffu32 >> format::<BF>().mantissa_bits << format::<BF>().mantissa_bits);
    if m & FTZ != 0 && bits & exponent == 0 { bits & 0x8000 } else { bits }
}

fn extreme<const BF: bool>(m: u32, a: u64, b: u64, max: bool) -> u64 {
    let format = format::<BF>();
    let (mut a, mut b) = (flushed::<BF>(m, a & 0xffff), flushed::<BF>(m, b & 0xffff));
    let sign = (a ^ b) & 0x8000;
    if m & XORSIGN_ABS != 0 {
        (a, b) = (a & 0x7fff, b & 0x7fff);
    }
    let (nan_a, nan_b) = (format.is_nan(a as u32), format.is_nan(b as u32));
    if (nan_a && nan_b) || (m & NAN != 0 && (nan_a || nan_b)) {
        return u64::from(format.nan);
    }
    // Order of the bits as signed magnitude: −0 below +0.
    let key = |x: u64| if x & 0x8000 != 0 { -((x & 0x7fff) as i32) - 1 } else { x as i32 };
    let result = match (nan_a, nan_b) {
        (true, _) => b,
        (_, true) => a,
        _ if (key(a) < key(b)) != max => a,
        _ => b,
    };
    if m & XORSIGN_ABS != 0 { result | sign } else { result }
}

pub(crate) fn min<const BF: bool>(m: u32, a: u64, b: u64, _: u64) -> u64 {
    extreme::<BF>(m, a, b, false)
}

pub(crate) fn max<const BF: bool>(m: u32, a: u64, b: u64, _: u64) -> u64 {
    extreme::<BF>(m, a, b, true)
}

pub(crate) fn ex2<const BF: bool>(m: u32, a: u64, _: u64, _: u64) -> u64 {
    write::<BF>(m, read::<BF>(m, a).exp2())
}

pub(crate) fn tanh<const BF: bool>(m: u32, a: u64, _: u64, _: u64) -> u64 {
    write::<BF>(m, read::<BF>(m, a).tanh())
}

type LaneFn = fn(u32, u64, u64, u64) -> u64;

/// Both halves of a packed operation.
fn twice(f: LaneFn, m: u32, a: u64, b: u64, c: u64) -> u64 {
    let half = |x: u64| x >> 16 & 0xffff;
    f(m, half(a), half(b), half(c)) << 16 | f(m, a & 0xffff, b & 0xffff, c & 0xffff)
}

macro_rules! packed {
    ($($name:ident = $scalar:ident),*) => { $(
        pub(crate) fn $name<const BF: bool>(m: u32, a: u64, b: u64, c: u64) -> u64 {
            twice($scalar::<BF>, m, a, b, c)
        }
    )* };
}

packed!(
    add2 = add,
    sub2 = sub,
    mul2 = mul,
    fma2 = fma,
    neg2 = neg,
    abs2 = abs,
    min2 = min,
    max2 = max,
    ex2_2 = ex2,
    tanh2 = tanh
);
