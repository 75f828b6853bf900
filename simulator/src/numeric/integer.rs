//! Integer operations. PTX leaves division by zero to the machine; the machine returns all ones (and the dividend as remainder).

/// Sign-extends the low `bits` of `x`.
pub(crate) fn sign_extend(x: u64, bits: u32) -> i64 {
    ((x << (64 - bits)) as i64) >> (64 - bits)
}

fn zero_extend(x: u64, bits: u32) -> u64 {
    x << (64 - bits) >> (64 - bits)
}

/// Reads an operand of `BITS` bits as a 128-bit number by its type.
fn wide<const BITS: u32, const SIGNED: bool>(x: u64) -> i128 {
    if SIGNED { i128::from(sign_extend(x, BITS)) } else { i128::from(zero_extend(x, BITS)) }
}

pub(crate) fn add(_: u32, a: u64, b: u64, _: u64) -> u64 {
    a.wrapping_add(b)
}

/// `add.sat.s32`
pub(crate) fn add_sat(_: u32, a: u64, b: u64, _: u64) -> u64 {
    (a as i32).saturating_add(b as i32) as u32 as u64
}

pub(crate) fn sub(_: u32, a: u64, b: u64, _: u64) -> u64 {
    a.wrapping_sub(b)
}

/// `sub.sat.s32`
pub(crate) fn sub_sat(_: u32, a: u64, b: u64, _: u64) -> u64 {
    (a as i32).saturating_sub(b as i32) as u32 as u64
}

pub(crate) fn mul_lo(_: u32, a: u64, b: u64, _: u64) -> u64 {
    a.wrapping_mul(b)
}

pub(crate) fn mul_hi<const BITS: u32, const SIGNED: bool>(_: u32, a: u64, b: u64, _: u64) -> u64 {
    (wide::<BITS, SIGNED>(a).wrapping_mul(wide::<BITS, SIGNED>(b)) as u128 >> BITS) as u64
}

pub(crate) fn mul_wide<const BITS: u32, const SIGNED: bool>(_: u32, a: u64, b: u64, _: u64) -> u64 {
    wide::<BITS, SIGNED>(a).wrapping_mul(wide::<BITS, SIGNED>(b)) as u64
}

pub(crate) fn mad_lo(_: u32, a: u64, b: u64, c: u64) -> u64 {
    a.wrapping_mul(b).wrapping_add(c)
}

pub(crate) fn mad_hi<const BITS: u32, const SIGNED: bool>(m: u32, a: u64, b: u64, c: u64) -> u64 {
    mul_hi::<BITS, SIGNED>(m, a, b, 0).wrapping_add(c)
}

pub(crate) fn mad_wide<const BITS: u32, const SIGNED: bool>(m: u32, a: u64, b: u64, c: u64) -> u64 {
    mul_wide::<BITS, SIGNED>(m, a, b, 0).wrapping_add(c)
}

/// `mul24.lo`: the low 24 bits of each operand, the low 32 of the product.
pub(crate) fn mul24<const SIGNED: bool, const HIGH: bool>(_: u32, a: u64, b: u64, c: u64) -> u64 {
    let product = wide::<24, SIGNED>(a) * wide::<24, SIGNED>(b);
    ((if HIGH { product >> 16 } else { product }) as u64).wrapping_add(c)
}

pub(crate) fn div<const BITS: u32, const SIGNED: bool>(_: u32, a: u64, b: u64, _: u64) -> u64 {
    match wide::<BITS, SIGNED>(b) {
        0 => u64::MAX,
        b => (wide::<BITS, SIGNED>(a) / b) as u64,
    }
}

pub(crate) fn rem<const BITS: u32, const SIGNED: bool>(_: u32, a: u64, b: u64, _: u64) -> u64 {
    match wide::<BITS, SIGNED>(b) {
        0 => a,
        b => (wide::<BITS, SIGNED>(a) % b) as u64,
    }
}

pub(crate) fn min<const BITS: u32, const SIGNED: bool>(_: u32, a: u64, b: u64, _: u64) -> u64 {
    wide::<BITS, SIGNED>(a).min(wide::<BITS, SIGNED>(b)) as u64
}

pub(crate) fn max<const BITS: u32, const SIGNED: bool>(_: u32, a: u64, b: u64, _: u64) -> u64 {
    wide::<BITS, SIGNED>(a).max(wide::<BITS, SIGNED>(b)) as u64
}

/// `abs`; the most negative number stays itself.
pub(crate) fn abs<const BITS: u32>(_: u32, a: u64, _: u64, _: u64) -> u64 {
    sign_extend(a, BITS).unsigned_abs()
}

pub(crate) fn neg(_: u32, a: u64, _: u64, _: u64) -> u64 {
    a.wrapping_neg()
}

/// c + |a − b|
pub(crate) fn sad<const BITS: u32, const SIGNED: bool>(_: u32, a: u64, b: u64, c: u64) -> u64 {
    ((wide::<BITS, SIGNED>(a) - wide::<BITS, SIGNED>(b)).unsigned_abs() as u64).wrapping_add(c)
}

pub(crate) fn and(_: u32, a: u64, b: u64, _: u64) -> u64 {
    a & b
}

pub(crate) fn or(_: u32, a: u64, b: u64, _: u64) -> u64 {
    a | b
}

pub(crate) fn xor(_: u32, a: u64, b: u64, _: u64) -> u64 {
    a ^ b
}

pub(crate) fn not(_: u32, a: u64, _: u64, _: u64) -> u64 {
    !a
}

/// `cnot`: 1 if a is 0.
pub(crate) fn cnot<const BITS: u32>(_: u32, a: u64, _: u64, _: u64) -> u64 {
    u64::from(zero_extend(a, BITS) == 0)
}

/// Shift amounts are 32-bit and clamp: beyond the width nothing, or only sign, is left.
pub(crate) fn shl<const BITS: u32>(_: u32, a: u64, b: u64, _: u64) -> u64 {
    if b as u32 >= BITS { 0 } else { a << (b as u32) }
}

pub(crate) fn shr<const BITS: u32, const SIGNED: bool>(_: u32, a: u64, b: u64, _: u64) -> u64 {
    let amount = b as u32;
    if SIGNED {
        (sign_extend(a, BITS) >> amount.min(BITS - 1)) as u64
    } else if amount >= BITS {
        0
    } else {
        zero_extend(a, BITS) >> amount
    }
}

/// `shf.l`: the high word of {b, a} << c; `m` = 1 clamps c to 32, 0 wraps it.
pub(crate) fn shf_left(clamp: u32, a: u64, b: u64, c: u64) -> u64 {
    let amount = if clamp == 1 { (c as u32).min(32) } else { c as u32 & 31 };
    let pair = (b & 0xffff_ffff) << 32 | (a & 0xffff_ffff);
    pair << amount >> 32
}

/// `shf.r`: the low word of {b, a} >> c.
pub(crate) fn shf_right(clamp: u32, a: u64, b: u64, c: u64) -> u64 {
    let amount = if clamp == 1 { (c as u32).min(32) } else { c as u32 & 31 };
    ((b & 0xffff_ffff) << 32 | (a & 0xffff_ffff)) >> amount
}

pub(crate) fn popc<const BITS: u32>(_: u32, a: u64, _: u64, _: u64) -> u64 {
    u64::from(zero_extend(a, BITS).count_ones())
}

pub(crate) fn clz<const BITS: u32>(_: u32, a: u64, _: u64, _: u64) -> u64 {
    u64::from(zero_extend(a, BITS).leading_zeros() - (64 - BITS))
}

pub(crate) fn brev<const BITS: u32>(_: u32, a: u64, _: u64, _: u64) -> u64 {
    a.reverse_bits() >> (64 - BITS)
}

/// Position of the highest bit that is not a sign bit, all ones if none; `m` = 1 (`.shiftamt`): how far to shift it to the top.
pub(crate) fn bfind<const BITS: u32, const SIGNED: bool>(shift_amount: u32, a: u64, _: u64, _: u64) -> u64 {
    let value = if SIGNED && sign_extend(a, BITS) < 0 { zero_extend(!a, BITS) } else { zero_extend(a, BITS) };
    match value {
        0 => u64::from(u32::MAX),
        v if shift_amount == 1 => u64::from(v.leading_zeros() - (64 - BITS)),
        v => u64::from(63 - v.leading_zeros()),
    }
}

/// Bit field of `a` from b (low 8 bits), c bits long; past the top come zeros, or copies of the field's sign.
pub(crate) fn bfe<const BITS: u32, const SIGNED: bool>(_: u32, a: u64, b: u64, c: u64) -> u64 {
    let (position, length) = (b as u32 & 255, c as u32 & 255);
    let bit = |i: u32| a >> i & 1;
    let sign = match (SIGNED, length) {
        (false, _) | (_, 0) => 0,
        _ => bit((position + length - 1).min(BITS - 1)),
    };
    (0..BITS).fold(0, |all, i| {
        let from = position + i;
        all | (if i < length && from < BITS { bit(from) } else { sign }) << i
    })
}

/// Inserts `a`'s low bits into `b` at position, length packed as c = position | length << 32.
pub(crate) fn bfi<const BITS: u32>(_: u32, a: u64, b: u64, c: u64) -> u64 {
    let (position, length) = (c as u32 & 255, (c >> 32) as u32 & 255);
    (0..BITS).fold(0, |all, i| {
        let inside = i >= position && i - position < length;
        all | (if inside { a >> (i - position) } else { b >> i } & 1) << i
    })
}

/// `bmsk`: `length` ones from `position`; `m` = 1 clamps, 0 wraps modulo 32.
pub(crate) fn bmsk(clamp: u32, a: u64, b: u64, _: u64) -> u64 {
    let limit = |x: u64| if clamp == 1 { (x as u32).min(32) } else { x as u32 & 31 };
    let (position, length) = (limit(a), limit(b));
    (((1u64 << length) - 1) << position) & 0xffff_ffff
}

/// `szext`: keeps the low b bits; `m` bit 0 clamps b, bit 1 extends the sign.
pub(crate) fn szext(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let width = if m & 1 == 1 { (b as u32).min(32) } else { b as u32 & 31 };
    match width {
        0 => 0,
        n if m & 2 != 0 => sign_extend(a, n) as u64,
        n => zero_extend(a, n),
    }
}

/// Byte permute; `m` is the mode: 0 default, then f4e b4e rc8 ecl ecr rc16.
pub(crate) fn prmt(mode: u32, a: u64, b: u64, c: u64) -> u64 {
    let bytes = ((b & 0xffff_ffff) << 32 | (a & 0xffff_ffff)).to_le_bytes();
    let step = (c & 3) as u32;
    (0..4u32).fold(0, |all, i| {
        let selector = match mode {
            0 => (c >> (4 * i) & 15) as u32,
            1 => step + i,
            2 => (step + 8 - i) & 7,
            3 => step,
            4 => i.max(step),
            5 => i.min(step),
            _ => (step & 1) * 2 + (i & 1),
        };
        let byte = bytes[(selector & 7) as usize];
        let byte = if selector & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        all | u64::from(byte) << (8 * i)
    })
}

/// Four-way byte dot product; `m` bit 0: a is signed, bit 1: b is signed.
pub(crate) fn dp4a(m: u32, a: u64, b: u64, c: u64) -> u64 {
    let pick = |x: u64, i: u32, signed: bool| {
        let byte = (x >> (8 * i)) as u8;
        if signed { i64::from(byte as i8) } else { i64::from(byte) }
    };
    (0..4).fold(c, |sum, i| sum.wrapping_add((pick(a, i, m & 1 != 0) * pick(b, i, m & 2 != 0)) as u64))
}

/// Two-way dot product of a's halfwords with two bytes of b; `m` as dp4a, bit 2: the upper bytes.
pub(crate) fn dp2a(m: u32, a: u64, b: u64, c: u64) -> u64 {
    let half = |i: u32| {
        let h = (a >> (16 * i)) as u16;
        if m & 1 != 0 { i64::from(h as i16) } else { i64::from(h) }
    };
    let byte = |i: u32| {
        let v = (b >> (8 * (i + if m & 4 != 0 { 2 } else { 0 }))) as u8;
        if m & 2 != 0 { i64::from(v as i8) } else { i64::from(v) }
    };
    (0..2).fold(c, |sum, i| sum.wrapping_add((half(i) * byte(i)) as u64))
}

/// Position of the n-th set bit of a counted from bit b; all ones if there is none.
pub(crate) fn fns(_: u32, mask: u64, base: u64, offset: u64) -> u64 {
    let (base, offset) = (base as u32 & 31, offset as i32);
    let set = |i: u32| mask >> i & 1 == 1;
    let mut left = offset.unsigned_abs().max(1);
    let places: Vec<u32> = match offset {
        0 => vec![base],
        1.. => (base..32).collect(),
        _ => (0..=base).rev().collect(),
    };
    for place in places {
        if set(place) {
            left -= 1;
            if left == 0 {
                return u64::from(place);
            }
        }
    }
    u64::from(u32::MAX)
}

/// `slct`: a if c ≥ 0 (`m` = 0: c is s32; 1: f32, where NaN picks b).
pub(crate) fn slct(float: u32, a: u64, b: u64, c: u64) -> u64 {
    let first = if float & 1 == 1 { f32::from_bits(c as u32) >= 0.0 } else { c as i32 >= 0 };
    if first { a } else { b }
}

/// Byte lanes of `vadd4`-like emulations are not PTX of sm_80; this is `add` of two halves (`add.u16x2`).
pub(crate) fn add16x2(_: u32, a: u64, b: u64, _: u64) -> u64 {
    let low = (a as u16).wrapping_add(b as u16);
    let high = ((a >> 16) as u16).wrapping_add((b >> 16) as u16);
    u64::from(high) << 16 | u64::from(low)
}

/// `min`/`max` of two halves; `m` bit 0: signed, bit 1: max.
pub(crate) fn extreme16x2(m: u32, a: u64, b: u64, _: u64) -> u64 {
    let one = |x: u16, y: u16| {
        let less = if m & 1 != 0 { (x as i16) < (y as i16) } else { x < y };
        if less == (m & 2 == 0) { x } else { y }
    };
    u64::from(one((a >> 16) as u16, (b >> 16) as u16)) << 16 | u64::from(one(a as u16, b as u16))
}

/// Joins bytes: a, b, and c with a fourth above bit 32, as `bfi` packs its last two.
pub(crate) fn bytes(_: u32, a: u64, b: u64, c: u64) -> u64 {
    (a & 255) | (b & 255) << 8 | (c & 255) << 16 | (c >> 32 & 255) << 24
}
