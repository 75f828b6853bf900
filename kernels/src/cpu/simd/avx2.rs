//! AVX2 with FMA and F16C: two registers a vector, lanes 0..8 and 8..16; byte dot products by two multiply-adds.

use std::arch::x86_64::*;
use std::ffi::c_void;
use std::ops::Range;

use super::{Body, Simd, intrinsics};

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// [`super::CpuKernel`] of `B`.
///
/// # Safety
/// As [`Body::run`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn launch<B: Body>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
    // SAFETY: passed on; this function's features are those of `Avx2`.
    unsafe { B::run::<Avx2>(params, blocks, scratch) }
}

impl Avx2 {
    intrinsics! {
        fn widen_bf16(from: *const u16) -> __m256 {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()))))
        }
        fn widen_u8(from: *const u8) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())))
        }
        fn widen_i8(from: *const i8) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())))
        }
        /// Adds the pairs of 16-bit numbers to the lanes they stand in.
        fn widen_pairs(acc: __m256i, pairs: __m256i) -> __m256i {
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
        /// `(u[2i] - 128) · x[2i] + (u[2i + 1] - 128) · x[2i + 1]`: the sign of the first factor moves to the second.
        fn signed_pairs(u: __m256i, x: __m256i) -> __m256i {
            let signed = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
            _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed))
        }
    }

    /// Chunks whose 16-bit sums of two products each cannot saturate when added: `2 · 127 · (2^BITS - 1)` a chunk, of
    /// 32767. (The signed 8-bit products come to `2 · 127 · 128`.)
    const fn chunks_without_saturation(bits: u32) -> usize {
        match bits {
            ..=4 => 8,
            5 => 4,
            6 => 2,
            _ => 1,
        }
    }
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];

    const TILES: &'static [usize] = &[1, 4, 6];
    const WIDE_SHIFT: i32 = 128;

    #[inline(always)]
    unsafe fn call<B: Body>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: passed on.
        unsafe { launch::<B>(params, blocks, scratch) }
    }

    intrinsics! {
        fn zero() -> [__m256; 2] { [_mm256_setzero_ps(); 2] }
        fn splat(x: f32) -> [__m256; 2] { [_mm256_set1_ps(x); 2] }
        fn load(from: *const f32) -> [__m256; 2] { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
        fn store(to: *mut f32, a: [__m256; 2]) {
            _mm256_storeu_ps(to, a[0]);
            _mm256_storeu_ps(to.add(8), a[1]);
        }
        fn load_f16(from: *const u16) -> [__m256; 2] {
            [_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast()))]
        }
        fn round_f16(a: [__m256; 2]) -> [__m256; 2] {
            [
                _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[0])),
                _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[1])),
            ]
        }
        fn load_bf16(from: *const u16) -> [__m256; 2] { [Avx2::widen_bf16(from), Avx2::widen_bf16(from.add(8))] }
        fn load_u8(from: *const u8) -> [__m256; 2] { [Avx2::widen_u8(from), Avx2::widen_u8(from.add(8))] }
        fn load_i8(from: *const i8) -> [__m256; 2] { [Avx2::widen_i8(from), Avx2::widen_i8(from.add(8))] }
        fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        fn sub(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        fn fma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn min(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
        fn max(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        fn greatest(a: [__m256; 2], b: [__m256; 2]) -> f32 {
            let all = _mm256_max_ps(_mm256_max_ps(a[0], a[1]), _mm256_max_ps(b[0], b[1]));
            let least = _mm256_min_ps(_mm256_min_ps(a[0], a[1]), _mm256_min_ps(b[0], b[1]));
            let eight = _mm256_max_ps(all, _mm256_sub_ps(_mm256_setzero_ps(), least));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
        fn round(a: [__m256; 2]) -> [__m256i; 2] { [_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])] }
        fn splat_i32(x: i32) -> [__m256i; 2] { [_mm256_set1_epi32(x); 2] }
        fn load_bytes(from: *const u8) -> [__m256i; 2] {
            [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
        }
        fn store_i8(to: *mut i8, a: [__m256i; 2]) {
            // Packing works within 128-bit halves: lanes 0-3, 8-11, 4-7, 12-15 until the permutation.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a[0], a[1]));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes)
        }
        fn widen_bytes(from: *const u8) -> [__m256i; 2] {
            [_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())), _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(8).cast()))]
        }
        fn look_up(table: &[u8; 16], a: [__m256i; 2]) -> [__m256i; 2] {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, a[0]), _mm256_shuffle_epi8(table, a[1])]
        }
        fn from_bits(a: [__m256i; 2]) -> [__m256; 2] { [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])] }
        fn to_f32(a: [__m256i; 2]) -> [__m256; 2] { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
        fn sum(a: [__m256i; 2]) -> i32 {
            let eight = _mm256_add_epi32(a[0], a[1]);
            let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        }
        fn sum_i8(from: *const i8) -> i32 {
            // Sums of 8 unsigned bytes each, of the numbers + 128.
            let shifted = _mm_xor_si128(_mm_loadu_si128(from.cast()), _mm_set1_epi8(-128));
            let sums = _mm_sad_epu8(shifted, _mm_setzero_si128());
            _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 128 * 16
        }
        fn and(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])]
        }
        fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])]
        }
        fn shr(a: [__m256i; 2], bits: u32) -> [__m256i; 2] {
            let bits = _mm_cvtsi32_si128(bits as i32);
            [_mm256_srl_epi32(a[0], bits), _mm256_srl_epi32(a[1], bits)]
        }
        fn shl(a: [__m256i; 2], bits: u32) -> [__m256i; 2] {
            let bits = _mm_cvtsi32_si128(bits as i32);
            [_mm256_sll_epi32(a[0], bits), _mm256_sll_epi32(a[1], bits)]
        }
        fn prefetch(address: *const u8) { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn dot<const BITS: u32>(start: i32, u: &[[__m256i; 2]], x: &[i32]) -> [__m256i; 2] {
        let run = const { Self::chunks_without_saturation(BITS) };
        // SAFETY: the caller has the instruction set.
        unsafe {
            let mut sum = [_mm256_set1_epi32(start); 2];
            for (u, x) in u.chunks(run).zip(x.chunks(run)) {
                let mut pairs = [_mm256_setzero_si256(); 2];
                for (u, &x) in u.iter().zip(x) {
                    let x = _mm256_set1_epi32(x);
                    for half in 0..2 {
                        let products =
                            if BITS == 8 { Avx2::signed_pairs(u[half], x) } else { _mm256_maddubs_epi16(u[half], x) };
                        pairs[half] = _mm256_add_epi16(pairs[half], products);
                    }
                }
                sum = [Avx2::widen_pairs(sum[0], pairs[0]), Avx2::widen_pairs(sum[1], pairs[1])];
            }
            sum
        }
    }
}
