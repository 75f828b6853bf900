//! The paged KV cache: element types and where a head lies in a page. A page has keys and then values, or keys alone, of
//! which latent attention takes its values as well; then the scales of its rows, if their type has any.

use half::f16;
use ir::quant::int8_rows;
use ir::types::DType;

use super::simd::Simd;

/// Tokens in a page.
pub(crate) const PAGE: usize = 16;

/// An element type of the cache. A row, one head's key or value of one token, may have a scale: its values are then elements times that.
pub(crate) trait KvElement: Copy + 'static {
    /// The type in programs.
    const DTYPE: DType;
    /// Whether rows have scales.
    const SCALED: bool = false;
    /// 16 elements, widened.
    ///
    /// # Safety
    /// Needs the instruction set `S`; `from` is valid for 16 elements.
    unsafe fn load<S: Simd>(from: *const Self) -> S::F;
    /// To the nearest representable value, ties to even, of a row whose scale has that inverse.
    fn round(x: f32, inverse: f32) -> Self;
    /// The value.
    fn widen(self) -> f32;
}

impl KvElement for f32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::F {
        // SAFETY: passed on.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    fn round(x: f32, _: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl KvElement for f16 {
    const DTYPE: DType = DType::F16;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f16) -> S::F {
        // SAFETY: passed on; f16 is its bits.
        unsafe { S::load_f16(from.cast()) }
    }

    #[inline(always)]
    fn round(x: f32, _: f32) -> f16 {
        f16::from_bits(f16_bits(x))
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl KvElement for i8 {
    const DTYPE: DType = DType::INT8;
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const i8) -> S::F {
        // SAFETY: passed on.
        unsafe { S::load_i8(from) }
    }

    #[inline(always)]
    fn round(x: f32, inverse: f32) -> i8 {
        int8_rows::integer(x, inverse)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
}

/// Planes of a page that holds keys alone.
pub(crate) const KEYS: usize = 1;

/// Planes of a page that holds keys and values.
pub(crate) const KEYS_AND_VALUES: usize = 2;

/// A page of one layer in elements, what its scales take included.
#[inline(always)]
pub(crate) fn page_elements<T: KvElement>(planes: usize, kv_heads: usize, head_dim: usize) -> usize {
    let bytes = ir::op::page_bytes(T::DTYPE, planes as u64, kv_heads as u64, head_dim as u64);
    bytes.map_or(0, |bytes| bytes as usize / size_of::<T>())
}

/// Index, in f16 from the page's start, of the scales `[16]` of a head's rows: of its keys (plane 0) or values (1).
#[inline(always)]
pub(crate) fn scales(planes: usize, plane: usize, head: usize, kv_heads: usize, head_dim: usize) -> usize {
    planes * kv_heads * head_dim * (PAGE / size_of::<f16>()) + (plane * kv_heads + head) * PAGE
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

    /// Elements, then scales, fill a page; both begin where 16 bytes do.
    #[test]
    fn scales_end_the_page() {
        for (planes, kv_heads, head_dim) in [(2, 3, 64), (1, 1, 576), (2, 5, 7), (1, 2, 1)] {
            let bytes = page_elements::<i8>(planes, kv_heads, head_dim);
            assert_eq!(bytes % 16, 0);
            assert_eq!(2 * scales(planes, 0, 0, kv_heads, head_dim), planes * kv_heads * head_dim * PAGE);
            assert_eq!(2 * scales(planes, planes - 1, kv_heads - 1, kv_heads, head_dim) + 2 * PAGE, bytes);
            assert_eq!(page_elements::<f16>(planes, kv_heads, head_dim), planes * kv_heads * head_dim * PAGE);
        }
    }

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
