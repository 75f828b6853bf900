//! Correct rounding in every direction without touching the machine's rounding mode.
//!
//! Trick: a sum or product is computed in f64 together with its exact error, and folded into an f64 "rounded to odd". At least two bits
//! more precise than the destination, such a value then rounds correctly in any direction (Boldo and Melquiond, "Emulation of FMA and
//! correctly rounded sums: proved algorithms using rounding to odd", 2008).

/// IEEE directions, in the order of PTX's `.rn .rz .rm .rp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest = 0,
    Zero = 1,
    Down = 2,
    Up = 3,
}

impl Rounding {
    /// From the low bits of a modifier word.
    pub fn of(m: u32) -> Rounding {
        match m & super::modifier::ROUNDING {
            0 => Rounding::Nearest,
            1 => Rounding::Zero,
            2 => Rounding::Down,
            _ => Rounding::Up,
        }
    }
}

/// `value + error`, where `error` is below half an ulp of `value`, as an f64 rounded to odd.
pub(crate) fn to_odd(value: f64, error: f64) -> f64 {
    if error == 0.0 || !value.is_finite() || value.to_bits() & 1 == 1 {
        return value;
    }
    let away = (error > 0.0) == (value >= 0.0);
    if value == 0.0 { error } else { f64::from_bits(if away { value.to_bits() + 1 } else { value.to_bits() - 1 }) }
}

/// a + b rounded to odd (Knuth's TwoSum).
pub(crate) fn sum_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    let b_part = sum - a;
    to_odd(sum, (a - (sum - b_part)) + (b - b_part))
}

/// a / b rounded to odd, for operands with at most 26 bits of mantissa.
pub(crate) fn quotient_to_odd(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    if !quotient.is_finite() || b.is_infinite() || quotient == 0.0 {
        return quotient;
    }
    let remainder = quotient.mul_add(-b, a);
    to_odd(quotient, if b < 0.0 { -remainder } else { remainder })
}

/// √x rounded to odd.
pub(crate) fn root_to_odd(x: f64) -> f64 {
    let root = x.sqrt();
    if !root.is_finite() || root == 0.0 {
        return root;
    }
    to_odd(root, root.mul_add(-root, x))
}

/// An f64 as f32 in the given direction.
pub(crate) fn to_f32(x: f64, direction: Rounding) -> f32 {
    let nearest = x as f32;
    if nearest.is_nan() {
        return f32::from_bits(CANONICAL_NAN);
    }
    let wide = f64::from(nearest);
    match direction {
        Rounding::Zero if wide.abs() > x.abs() => step_toward_zero(nearest),
        Rounding::Down if wide > x => nearest.next_down(),
        Rounding::Up if wide < x => nearest.next_up(),
        _ => nearest,
    }
}

fn step_toward_zero(x: f32) -> f32 {
    f32::from_bits(x.to_bits() - 1)
}

/// The sign of an exact zero sum depends on the direction: −0 when rounding down, unless both operands are +0.
pub(crate) fn zero_sum(a_negative: bool, b_negative: bool, direction: Rounding) -> f32 {
    let negative = if a_negative == b_negative { a_negative } else { direction == Rounding::Down };
    if negative { -0.0 } else { 0.0 }
}

/// The NaN that f32 arithmetic of the hardware returns.
pub(crate) const CANONICAL_NAN: u32 = 0x7fff_ffff;

/// Rounds to an integral value.
pub(crate) fn integral(x: f64, direction: Rounding) -> f64 {
    match direction {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}
