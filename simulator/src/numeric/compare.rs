//! Comparisons of `setp` and `set`. `m` is the [`Comparison`]; unordered ones (`ltu` …) hold if an operand is NaN.

use super::formats::{BF16, F16};

/// Comparison operators; the integer ones double as ordered float ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

impl Comparison {
    pub const ALL: [Comparison; 14] = {
        use Comparison::*;
        [Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan]
    };

    pub fn named(word: &str) -> Option<Comparison> {
        use Comparison::*;
        Some(match word {
            "eq" => Eq,
            "ne" => Ne,
            "lt" | "lo" => Lt,
            "le" | "ls" => Le,
            "gt" | "hi" => Gt,
            "ge" | "hs" => Ge,
            "equ" => Equ,
            "neu" => Neu,
            "ltu" => Ltu,
            "leu" => Leu,
            "gtu" => Gtu,
            "geu" => Geu,
            "num" => Num,
            "nan" => Nan,
            _ => return None,
        })
    }

    fn of(m: u32) -> Comparison {
        Self::ALL[(m & 15) as usize % Self::ALL.len()]
    }

    fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        use Comparison::*;
        let order = a.partial_cmp(&b);
        match self {
            Eq => order.is_some_and(|o| o.is_eq()),
            Ne => order.is_some_and(|o| o.is_ne()),
            Lt => order.is_some_and(|o| o.is_lt()),
            Le => order.is_some_and(|o| o.is_le()),
            Gt => order.is_some_and(|o| o.is_gt()),
            Ge => order.is_some_and(|o| o.is_ge()),
            Equ => order.is_none_or(|o| o.is_eq()),
            Neu => order.is_none_or(|o| o.is_ne()),
            Ltu => order.is_none_or(|o| o.is_lt()),
            Leu => order.is_none_or(|o| o.is_le()),
            Gtu => order.is_none_or(|o| o.is_gt()),
            Geu => order.is_none_or(|o| o.is_ge()),
            Num => order.is_some(),
            Nan => order.is_none(),
        }
    }
}

/// Flushes f32 operands; the comparison stands in the bits below.
pub(crate) const FLUSH: u32 = 1 << 4;

pub(crate) fn signed<const BITS: u32>(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let read = |x| super::integer::sign_extend(x, BITS);
    u64::from(Comparison::of(m).holds(read(a), read(b)))
}

pub(crate) fn unsigned<const BITS: u32>(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let read = |x: u64| x << (64 - BITS) >> (64 - BITS);
    u64::from(Comparison::of(m).holds(read(a), read(b)))
}

pub(crate) fn f32s(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let read = |x: u64| {
        let x = f32::from_bits(x as u32);
        if m & FLUSH != 0 { super::float::flush(x) } else { x }
    };
    u64::from(Comparison::of(m).holds(read(a), read(b)))
}

pub(crate) fn f64s(m: u32, a: u64, b: u64, _: u64) -> u64 {
    u64::from(Comparison::of(m).holds(f64::from_bits(a), f64::from_bits(b)))
}

pub(crate) fn f16s(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let read = |x: u64| F16.decode(x as u32 & 0xffff);
    u64::from(Comparison::of(m).holds(read(a), read(b)))
}

pub(crate) fn bf16s(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let read = |x: u64| BF16.decode(x as u32 & 0xffff);
    u64::from(Comparison::of(m).holds(read(a), read(b)))
}

/// What `set` writes for "holds": all ones, or 1.0 of a format, for the low lane and (packed) the high one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Ones,
    F32,
    F16,
    Bf16,
}

impl Truth {
    /// Bits above the comparison and [`FLUSH`].
    pub fn bits(self) -> u32 {
        (self as u32) << 5
    }

    fn value(m: u32, holds: u64, bits: u32) -> u64 {
        match (holds, m >> 5 & 3) {
            (0, _) => 0,
            (_, 0) => u64::MAX >> (64 - bits),
            (_, 1) => 0x3f80_0000,
            (_, 2) => 0x3c00,
            _ => 0x3f80,
        }
    }
}

macro_rules! set {
    ($($name:ident = $test:expr),*) => { $(
        pub(crate) fn $name(m: u32, a: u64, b: u64, c: u64) -> u64 {
            Truth::value(m, $test(m, a, b, c), 32)
        }
    )* };
}

set!(
    set_s32 = signed::<32>,
    set_u32 = unsigned::<32>,
    set_f32 = f32s,
    set_f64 = f64s,
    set_s64 = signed::<64>,
    set_u64 = unsigned::<64>,
    set_s16 = signed::<16>,
    set_u16 = unsigned::<16>
);

pub(crate) fn set_half<const BF: bool>(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let test = if BF { bf16s(m, a, b, 0) } else { f16s(m, a, b, 0) };
    Truth::value(m, test, if m >> 5 & 3 == 0 { 32 } else { 16 })
}

pub(crate) fn set_half2<const BF: bool>(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let one = |a, b| {
        let test = if BF { bf16s(m, a, b, 0) } else { f16s(m, a, b, 0) };
        Truth::value(m, test, 16)
    };
    one(a >> 16, b >> 16) << 16 | one(a, b)
}

/// One half of packed operands; `m` bit 8: the upper one.
pub(crate) fn half_of_pair<const BF: bool>(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let shift = if m >> 8 & 1 == 1 { 16 } else { 0 };
    let (a, b) = (a >> shift & 0xffff, b >> shift & 0xffff);
    if BF { bf16s(m, a, b, 0) } else { f16s(m, a, b, 0) }
}
