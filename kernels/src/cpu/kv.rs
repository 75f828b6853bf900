//! The paged KV cache: element types and where a head lies in a page.

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
        f16::from_f32(x)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Elements of a page of one layer.
#[inline(always)]
pub(crate) fn page_elements(kv_heads: usize, head_dim: usize) -> usize {
    2 * kv_heads * head_dim * PAGE
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
