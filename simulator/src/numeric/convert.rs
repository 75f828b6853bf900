//! `cvt`: between integers and floats of all widths, with each rounding and with saturation.

use super::float::{double, finish, flush, single};
use super::formats::{BF16, E2M1, E2M3, E3M2, E4M3, E5M2, F16, Format, TF32};
use super::integer::sign_extend;
use super::modifier::{AWAY, FTZ, INTEGRAL, RELU, SAT};
use super::rounding::{Rounding, integral, to_f32};

/// A type that `cvt` reads or writes. Codes are packed into the modifier word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    U(u32),
    S(u32),
    F16,
    Bf16,
    F32,
    F64,
}

impl Kind {
    const ALL: [Kind; 12] = [
        Kind::U(8),
        Kind::U(16),
        Kind::U(32),
        Kind::U(64),
        Kind::S(8),
        Kind::S(16),
        Kind::S(32),
        Kind::S(64),
        Kind::F16,
        Kind::Bf16,
        Kind::F32,
        Kind::F64,
    ];

    pub fn named(word: &str) -> Option<Kind> {
        Some(match word {
            "u8" => Kind::U(8),
            "u16" => Kind::U(16),
            "u32" => Kind::U(32),
            "u64" => Kind::U(64),
            "s8" => Kind::S(8),
            "s16" => Kind::S(16),
            "s32" => Kind::S(32),
            "s64" => Kind::S(64),
            "f16" => Kind::F16,
            "bf16" => Kind::Bf16,
            "f32" => Kind::F32,
            "f64" => Kind::F64,
            _ => return None,
        })
    }

    pub fn bits(self) -> u32 {
        match self {
            Kind::U(n) | Kind::S(n) => n,
            Kind::F16 | Kind::Bf16 => 16,
            Kind::F32 => 32,
            Kind::F64 => 64,
        }
    }

    pub fn is_float(self) -> bool {
        !matches!(self, Kind::U(_) | Kind::S(_))
    }

    fn code(self) -> u32 {
        Self::ALL.iter().position(|&k| k == self).unwrap_or(0) as u32
    }

    fn from_code(code: u32) -> Kind {
        Self::ALL[code as usize % Self::ALL.len()]
    }
}

/// The modifier word of [`convert`].
pub(crate) fn modifiers(to: Kind, from: Kind, flags: u32) -> u32 {
    flags | to.code() << 16 | from.code() << 20
}

/// Any scalar conversion; a float becomes an integer by saturation, an integer a narrower one by truncation unless `.sat`.
pub(crate) fn convert(m: u32, a: u64, _: u64, _: u64) -> u64 {
    let (to, from) = (Kind::from_code(m >> 16 & 15), Kind::from_code(m >> 20 & 15));
    match (to.is_float(), from.is_float()) {
        (false, false) => integer_to_integer(m, to, from, a),
        (true, false) => integer_to_float(m, to, integer(from, a)),
        (false, true) => float_to_integer(m, to, from, a),
        (true, true) => float_to_float(m, to, from, a),
    }
}

fn integer(kind: Kind, bits: u64) -> i128 {
    match kind {
        Kind::S(n) => i128::from(sign_extend(bits, n)),
        other => i128::from(bits << (64 - other.bits()) >> (64 - other.bits())),
    }
}

fn range(kind: Kind) -> (i128, i128) {
    match kind {
        Kind::S(n) => (-(1 << (n - 1)), (1 << (n - 1)) - 1),
        other => (0, (1 << other.bits()) - 1),
    }
}

fn integer_to_integer(m: u32, to: Kind, from: Kind, bits: u64) -> u64 {
    let value = integer(from, bits);
    let (low, high) = range(to);
    (if m & SAT != 0 { value.clamp(low, high) } else { integer(to, value as u64) }) as u64
}

/// An integer as an f64 rounded to odd, so that the second rounding is right.
fn integer_to_odd(value: i128) -> f64 {
    let magnitude = value.unsigned_abs();
    let spare = (128 - magnitude.leading_zeros()).saturating_sub(53);
    let sticky = u128::from(spare > 0 && magnitude & ((1 << spare) - 1) != 0);
    let odd = ((magnitude >> spare | sticky) as f64) * 2f64.powi(spare as i32);
    if value < 0 { -odd } else { odd }
}

fn integer_to_float(m: u32, to: Kind, value: i128) -> u64 {
    let direction = Rounding::of(m);
    match to {
        Kind::F64 => integer_to_f64(value, direction).to_bits(),
        Kind::F32 => finish(m, to_f32(integer_to_odd(value), direction)),
        _ => narrow(m, to, integer_to_odd(value)),
    }
}

fn integer_to_f64(value: i128, direction: Rounding) -> f64 {
    let nearest = value as f64;
    let error = value - nearest as i128;
    match direction {
        Rounding::Up if error > 0 => nearest.next_up(),
        Rounding::Down if error < 0 => nearest.next_down(),
        Rounding::Zero if error < 0 && value > 0 => nearest.next_down(),
        Rounding::Zero if error > 0 && value < 0 => nearest.next_up(),
        _ => nearest,
    }
}

fn value(m: u32, kind: Kind, bits: u64) -> f64 {
    match kind {
        Kind::F16 => F16.decode(bits as u32 & 0xffff),
        Kind::Bf16 => BF16.decode(bits as u32 & 0xffff),
        Kind::F64 => double(bits),
        _ => f64::from(if m & FTZ != 0 { flush(single(bits)) } else { single(bits) }),
    }
}

/// NaN becomes 0, except that 64-bit results (and those from f64) get the sign bit alone, as the hardware does.
fn float_to_integer(m: u32, to: Kind, from: Kind, bits: u64) -> u64 {
    let x = value(m, from, bits);
    let (low, high) = range(to);
    if x.is_nan() {
        return if to.bits() == 64 || from == Kind::F64 { 1 << (to.bits() - 1) } else { 0 };
    }
    // `as` saturates, which matters only beyond i128.
    (integral(x, Rounding::of(m)) as i128).clamp(low, high) as u64
}

fn narrow(m: u32, to: Kind, x: f64) -> u64 {
    let format = if to == Kind::F16 { F16 } else { BF16 };
    let x = match m {
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
    u64::from(format.encode(x, Rounding::of(m), false, false))
}

fn float_to_float(m: u32, to: Kind, from: Kind, bits: u64) -> u64 {
    let mut x = value(m, from, bits);
    if m & INTEGRAL != 0 {
        x = integral(x, Rounding::of(m));
    }
    match to {
        Kind::F64 if x.is_nan() => 0x7fff_ffff_ffff_ffff,
        Kind::F64 if m & SAT != 0 => (if x > 0.0 { x.min(1.0) } else { 0.0 }).to_bits(),
        Kind::F64 => x.to_bits(),
        Kind::F32 => finish(m, to_f32(x, Rounding::of(m))),
        _ => narrow(m, to, x),
    }
}

/// Packed pairs: `a` becomes the upper half, `b` the lower one. `m` bit 16: bf16 instead of f16.
pub(crate) fn pair_from_f32(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let to = if m >> 16 & 1 == 1 { Kind::Bf16 } else { Kind::F16 };
    let one = |x: u64| narrow_f32(m, to, x);
    one(a) << 16 | one(b)
}

/// f32 → f16 or bf16 with `.relu` and `.satfinite`.
fn narrow_f32(m: u32, to: Kind, bits: u64) -> u64 {
    let x = value(m, Kind::F32, bits);
    let format = if to == Kind::F16 { F16 } else { BF16 };
    if m & RELU != 0 && x <= 0.0 {
        return 0;
    }
    u64::from(format.encode(x, Rounding::of(m), false, m & SATFINITE != 0))
}

/// One f32 → f16/bf16 with `.relu` or `.satfinite`; `m` bit 16: bf16.
pub(crate) fn half_from_f32(m: u32, a: u64, _: u64, _: u64) -> u64 {
    narrow_f32(m, if m >> 16 & 1 == 1 { Kind::Bf16 } else { Kind::F16 }, a)
}

/// `.satfinite`, above the shared modifiers.
pub(crate) const SATFINITE: u32 = 1 << 9;

/// fp8 and narrower formats by the code in bits 16 up.
const SMALL: [Format; 5] = [E4M3, E5M2, E2M3, E3M2, E2M1];

/// Code of a packed small format.
pub(crate) fn small_format(word: &str) -> Option<u32> {
    Some(match word {
        "e4m3x2" => 0,
        "e5m2x2" => 1,
        "e2m3x2" => 2,
        "e3m2x2" => 3,
        "e2m1x2" => 4,
        _ => return None,
    })
}

fn small(m: u32) -> (Format, u32) {
    let code = (m >> 16 & 7) as usize % SMALL.len();
    (SMALL[code], if code == 4 { 4 } else { 8 })
}

fn encode_small(m: u32, x: f64) -> u64 {
    let (format, _) = small(m);
    let x = if m & RELU != 0 && x <= 0.0 { 0.0 } else { x };
    u64::from(format.encode(x, Rounding::Nearest, false, true))
}

/// Two f32 → two small floats, `a` above `b`, always `.satfinite`.
pub(crate) fn small_from_f32(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let width = small(m).1;
    encode_small(m, value(0, Kind::F32, a)) << width | encode_small(m, value(0, Kind::F32, b))
}

/// f16x2 → two small floats.
pub(crate) fn small_from_f16x2(m: u32, a: u64, _: u64, _: u64) -> u64 {
    let width = small(m).1;
    encode_small(m, F16.decode((a >> 16) as u32 & 0xffff)) << width | encode_small(m, F16.decode(a as u32 & 0xffff))
}

/// Two small floats → f16x2, which is exact.
pub(crate) fn f16x2_from_small(m: u32, a: u64, _: u64, _: u64) -> u64 {
    let (format, width) = small(m);
    let one = |bits: u64| {
        let x = format.decode(bits as u32 & (2 * format.sign_bit() - 1));
        let x = if m & RELU != 0 && x <= 0.0 { 0.0 } else { x };
        u64::from(F16.encode(x, Rounding::Nearest, false, false))
    };
    one(a >> width) << 16 | one(a)
}

/// f32 → tf32: an f32 whose 13 lowest bits are zero.
pub(crate) fn tf32(m: u32, a: u64, _: u64, _: u64) -> u64 {
    let x = value(0, Kind::F32, a);
    if x.is_nan() {
        return 0x7fff_ffff;
    }
    if m & RELU != 0 && x <= 0.0 {
        return 0;
    }
    u64::from(TF32.encode(x, Rounding::of(m), m & AWAY != 0, m & SATFINITE != 0)) << 13
}

/// [`convert`] into a register wider than its signed type: the sign goes on.
pub(crate) fn convert_extended(m: u32, a: u64, b: u64, c: u64) -> u64 {
    sign_extend(convert(m, a, b, c), Kind::from_code(m >> 16 & 15).bits()) as u64
}
