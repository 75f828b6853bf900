//! AVX-512: one register a vector, byte dot products by VNNI, scalars broadcast by the memory operand.

use std::arch::x86_64::*;
use std::ffi::c_void;
use std::ops::Range;

use super::{Body, Simd, intrinsics};

/// AVX-512 F, BW, VL, DQ and VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// [`super::CpuKernel`] of `B`.
///
/// # Safety
/// As [`Body::run`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn launch<B: Body>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
    // SAFETY: passed on; this function's features are those of `Avx512`.
    unsafe { B::run::<Avx512>(params, blocks, scratch) }
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;

    const TILES: &'static [usize] = &[1, 4, 8, 16];
    const WIDE_SHIFT: i32 = 0;

    #[inline(always)]
    unsafe fn call<B: Body>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: passed on.
        unsafe { launch::<B>(params, blocks, scratch) }
    }

    intrinsics! {
        fn zero() -> __m512 { _mm512_setzero_ps() }
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
        fn store(to: *mut f32, a: __m512) { _mm512_storeu_ps(to, a) }
        fn load_f16(from: *const u16) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        fn round_f16(a: __m512) -> __m512 {
            _mm512_cvtph_ps(_mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
        }
        fn load_bf16(from: *const u16) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))))
        }
        fn load_u8(from: *const u8) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))
        }
        fn load_i8(from: *const i8) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))
        }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn greatest(a: __m512, b: __m512) -> f32 {
            _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)))
        }
        fn round(a: __m512) -> __m512i { _mm512_cvtps_epi32(a) }
        fn splat_i32(x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn load_bytes(from: *const u8) -> __m512i { _mm512_loadu_si512(from.cast()) }
        fn store_i8(to: *mut i8, a: __m512i) { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(a)) }
        fn widen_bytes(from: *const u8) -> __m512i { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
        fn look_up(table: &[u8; 16], a: __m512i) -> __m512i {
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), a)
        }
        fn from_bits(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
        fn to_f32(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
        fn sum(a: __m512i) -> i32 { _mm512_reduce_add_epi32(a) }
        fn sum_i8(from: *const i8) -> i32 {
            // Sums of 8 unsigned bytes each, of the numbers + 128.
            let shifted = _mm_xor_si128(_mm_loadu_si128(from.cast()), _mm_set1_epi8(-128));
            let sums = _mm_sad_epu8(shifted, _mm_setzero_si128());
            _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 128 * 16
        }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn shr(a: __m512i, bits: u32) -> __m512i { _mm512_srl_epi32(a, _mm_cvtsi32_si128(bits as i32)) }
        fn shl(a: __m512i, bits: u32) -> __m512i { _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits as i32)) }
        fn prefetch(address: *const u8) { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn dot<const BITS: u32>(start: i32, u: &[__m512i], x: &[i32]) -> __m512i {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let mut sum = _mm512_set1_epi32(start);
            for (&u, &x) in u.iter().zip(x) {
                sum = _mm512_dpbusd_epi32(sum, u, _mm512_set1_epi32(x));
            }
            sum
        }
    }
}
