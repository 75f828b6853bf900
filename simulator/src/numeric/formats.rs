//! Small float formats (f16, bf16, tf32, fp8, fp6, fp4): decoding to f64, which is exact, and encoding from f64 with one rounding.

use super::rounding::{Rounding, integral};

/// What the all-ones exponent means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Specials {
    /// Infinity and NaNs, as IEEE has it.
    Ieee,
    /// One NaN (all ones), no infinity: e4m3.
    NanOnly,
    /// Neither: fp6, fp4.
    None,
}

/// A float format of at most 32 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub exponent_bits: u32,
    pub mantissa_bits: u32,
    pub specials: Specials,
    /// Canonical NaN that encoding returns.
    pub nan: u32,
}

pub(crate) const F16: Format = Format { exponent_bits: 5, mantissa_bits: 10, specials: Specials::Ieee, nan: 0x7fff };
pub(crate) const BF16: Format = Format { exponent_bits: 8, mantissa_bits: 7, specials: Specials::Ieee, nan: 0x7fff };
/// tf32 keeps an f32's exponent and 10 bits of mantissa; its 19 bits stand at the top of an f32.
pub(crate) const TF32: Format = Format { exponent_bits: 8, mantissa_bits: 10, specials: Specials::Ieee, nan: 0x3ffff };
pub(crate) const E4M3: Format = Format { exponent_bits: 4, mantissa_bits: 3, specials: Specials::NanOnly, nan: 0x7f };
pub(crate) const E5M2: Format = Format { exponent_bits: 5, mantissa_bits: 2, specials: Specials::Ieee, nan: 0x7f };
pub(crate) const E2M3: Format = Format { exponent_bits: 2, mantissa_bits: 3, specials: Specials::None, nan: 0x1f };
pub(crate) const E3M2: Format = Format { exponent_bits: 3, mantissa_bits: 2, specials: Specials::None, nan: 0x1f };
pub(crate) const E2M1: Format = Format { exponent_bits: 2, mantissa_bits: 1, specials: Specials::None, nan: 0x7 };

/// 2^e for −1074 ≤ e ≤ 1023, exactly.
fn power(e: i32) -> f64 {
    if e >= -1022 { f64::from_bits(((e + 1023) as u64) << 52) } else { f64::from_bits(1 << (e + 1074)) }
}

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    pub fn sign_bit(self) -> u32 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    fn top_exponent(self) -> u32 {
        (1 << self.exponent_bits) - 1
    }

    /// Bits of the largest finite value.
    pub fn largest(self) -> u32 {
        match self.specials {
            Specials::Ieee => (self.top_exponent() << self.mantissa_bits) - 1,
            Specials::NanOnly => self.sign_bit() - 2,
            Specials::None => self.sign_bit() - 1,
        }
    }

    pub fn is_nan(self, bits: u32) -> bool {
        let magnitude = bits & (self.sign_bit() - 1);
        match self.specials {
            Specials::Ieee => magnitude > self.top_exponent() << self.mantissa_bits,
            Specials::NanOnly => magnitude == self.sign_bit() - 1,
            Specials::None => false,
        }
    }

    pub fn decode(self, bits: u32) -> f64 {
        let sign = if bits & self.sign_bit() != 0 { -1.0 } else { 1.0 };
        let exponent = (bits >> self.mantissa_bits) & self.top_exponent();
        let mantissa = bits & ((1 << self.mantissa_bits) - 1);
        if self.is_nan(bits) {
            return f64::NAN;
        }
        if self.specials == Specials::Ieee && exponent == self.top_exponent() {
            return sign * f64::INFINITY;
        }
        let scale = exponent.max(1) as i32 - self.bias() - self.mantissa_bits as i32;
        let whole = if exponent == 0 { mantissa } else { mantissa | 1 << self.mantissa_bits };
        sign * f64::from(whole) * power(scale)
    }

    /// Rounds once, in `direction`, or to nearest with ties away from zero. Beyond the largest value comes infinity (or NaN where the
    /// format has none) when rounding to nearest or outwards, or the largest value when `saturate` is set.
    pub fn encode(self, x: f64, direction: Rounding, away: bool, saturate: bool) -> u32 {
        if x.is_nan() {
            return self.nan;
        }
        let sign = if x.is_sign_negative() { self.sign_bit() } else { 0 };
        let smallest = 1 - self.bias();
        let magnitude = x.abs();
        let exponent =
            if magnitude == 0.0 { smallest } else { (((magnitude.to_bits() >> 52) as i32) - 1023).max(smallest) };
        if x.is_infinite() {
            return sign | self.overflow(direction, sign != 0, saturate, true);
        }
        let quantum = exponent - self.mantissa_bits as i32;
        let scaled = x * power(-quantum / 2) * power(-quantum - -quantum / 2);
        let whole = if away { scaled.round() } else { integral(scaled, direction) }.abs() as u64;
        // A carry out of the mantissa raises the exponent by itself in this sum.
        let biased = (exponent + self.bias()) as u64;
        let bits = whole + ((biased - 1) << self.mantissa_bits);
        if bits > u64::from(self.largest()) {
            return sign | self.overflow(direction, sign != 0, saturate, false);
        }
        sign | bits as u32
    }

    fn overflow(self, direction: Rounding, negative: bool, saturate: bool, infinite: bool) -> u32 {
        let inwards = match direction {
            Rounding::Nearest => false,
            Rounding::Zero => true,
            Rounding::Down => !negative,
            Rounding::Up => negative,
        };
        match self.specials {
            _ if saturate || (inwards && !infinite) || self.specials == Specials::None => self.largest(),
            Specials::Ieee => self.top_exponent() << self.mantissa_bits,
            _ => self.nan,
        }
    }
}
