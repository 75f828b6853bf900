//! The paged KV cache: element types and where a head lies in a page. A page has keys and then values, or keys alone, of
//! which latent attention takes its values as well.

use half::f16;

use super::simd::Simd;

/// Tokens in a page.
pub(crate) const PAGE: usize = 16;

/// An element type of the cache.
pub(crate) trait KvElement: Copy + 'static {
    /// 16 elements, widened.
    ///
    /// # Safety
    /// Needs the instruction set `S`; `from` is valid for 16 elements.
    unsafe fn load<S: Simd>(from: *const Self) -> S::F;
    /// To the nearest representable value, ties to even.
    fn round(x: f32) -> Self;
    /// The value.
    fn widen(self) -> f32;
}

impl KvElement for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::F {
        // SAFETY: passed on.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    fn round(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl KvElement for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f16) -> S::F {
        // SAFETY: passed on; f16 is its bits.
        unsafe { S::load_f16(from.cast()) }
    }

    #[inline(always)]
    fn round(x: f32) -> f16 {
        f16::from_bits(f16_bits(x))
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Planes of a page that holds keys alone.
pub(crate) const KEYS: usize = 1;

/// Planes of a page that holds keys and values.
pub(crate) const KEYS_AND_VALUES: usize = 2;

/// Elements of a page of one layer.
#[inline(always)]
pub(crate) fn page_elements(planes: usize, kv_heads: usize, head_dim: usize) -> usize {
    planes * kv_heads * head_dim * PAGE
}

/// Index of a head's keys `[head_dim][16]` in its page.
#[inline(always)]
pub(crate) fn keys(head: usize, head_dim: usize) -> usize {
    head * head_dim * PAGE
}

/// Index of a head's values `[16][head_dim]` in its page.
#[inline(always)]
pub(crate) fn values(head: usize, kv_heads: usize, head_dim: usize) -> usize {
    (kv_heads + head) * head_dim * PAGE
}

/// Bits of the nearest f16, ties to even, as [`f16::from_f32`] has them, without a branch, so that loops become vectors.
#[inline(always)]
fn f16_bits(x: f32) -> u16 {
    const INFINITY: u32 = 0x7f80_0000;
    /// 65520, half way between the greatest finite f16 and what would follow.
    const OVERFLOW: u32 = 0x477f_f000;
    /// 2^-14, the least normal f16.
    const NORMAL: u32 = 0x3880_0000;
    let (bits, sign) = (x.to_bits() & 0x7fff_ffff, x.to_bits() >> 16 & 0x8000);
    let normal = bits.wrapping_sub(112 << 23).wrapping_add(0xfff + (bits >> 13 & 1)) >> 13;
    // The numbers from 0.5 on are as far apart as subnormal f16s: the sum rounds to them.
    let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let nan = 0x7e00 | (bits >> 13 & 0x3ff);
    let finite = if bits < NORMAL { subnormal } else { normal };
    let number = if bits < OVERFLOW { finite } else { 0x7c00 };
    (if bits > INFINITY { nan } else { number } | sign) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each f16 (sign aside), the floats next to it, and those at and next to the middle of it and its successor.
    #[test]
    fn rounding_is_that_of_half() {
        for bits in 0..=0x7fffu16 {
            let here = f16::from_bits(bits).to_f32();
            let middle = (here + f16::from_bits((bits + 1) & 0x7fff).to_f32()) * 0.5;
            for x in [here, middle] {
                for x in [x, f32::from_bits(x.to_bits() + 1), f32::from_bits(x.to_bits().saturating_sub(1))] {
                    for x in [x, -x] {
                        assert_eq!(f16_bits(x), f16::from_f32(x).to_bits(), "{x:?} {:#x}", x.to_bits());
                    }
                }
            }
        }
        for x in [f32::MAX, f32::INFINITY, 65504.0, 65519.996, 65520.0, 1e-10, f32::from_bits(1)] {
            assert_eq!(f16_bits(x), f16::from_f32(x).to_bits(), "{x}");
        }
    }
}
