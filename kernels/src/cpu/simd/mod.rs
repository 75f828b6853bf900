//! Vectors of 16 lanes, one implementation an instruction set, and the launch of a kernel body on each.
//!
//! A kernel is written once, as a [`Body`] generic over [`Simd`], and compiled once an instruction set inside a function
//! that enables the set's features. Everything between that function and the intrinsics must be `#[inline(always)]` (no
//! closures), or the intrinsics become calls. Every operation here is exact or rounded once, as IEEE 754 says, on every
//! set: equal bodies give equal bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use super::isa::Isa;

/// Lanes of a vector: the rows of a panel of packed weights.
pub(crate) const LANES: usize = 16;

/// Vectors of 16 lanes of 32 bits and what the kernels do with them.
///
/// # Safety
/// All functions need a machine that has the instruction set; pointers must be valid for the 16 lanes (or the bytes)
/// they stand for, of any alignment.
pub(crate) trait Simd: Copy {
    /// 16 × f32.
    type F: Copy;
    /// 16 × i32, also seen as 64 × u8: byte `4r + i` is byte `i` of lane `r`.
    type I: Copy;

    /// Sizes of register tiles in tokens, ascending from 1; the last has as many accumulators as the registers hold beside
    /// weights. Among 1, 4, 6, 8 and 16.
    const TILES: &'static [usize];

    /// Of 8-bit `u`, [`Simd::dot`] takes the products of `u - WIDE_SHIFT`.
    const WIDE_SHIFT: i32;

    /// All lanes 0.
    unsafe fn zero() -> Self::F;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::F;
    /// 16 values from memory.
    unsafe fn load(from: *const f32) -> Self::F;
    /// 16 values to memory.
    unsafe fn store(to: *mut f32, a: Self::F);
    /// 16 IEEE binary16 values, widened.
    unsafe fn load_f16(from: *const u16) -> Self::F;
    /// Each rounded to IEEE binary16, ties to even, and widened again.
    unsafe fn round_f16(a: Self::F) -> Self::F;
    /// 16 bfloat16 values, widened.
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    /// 16 unsigned bytes as numbers.
    unsafe fn load_u8(from: *const u8) -> Self::F;
    /// 16 signed bytes as numbers.
    unsafe fn load_i8(from: *const i8) -> Self::F;
    /// `a + b`.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b`.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The lesser of each two, neither of them NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// The greater of each two, neither of them NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The greatest magnitude of 32 values.
    unsafe fn greatest(a: Self::F, b: Self::F) -> f32;
    /// To the nearest integers, ties to even.
    unsafe fn round(a: Self::F) -> Self::I;

    /// All lanes `x`.
    unsafe fn splat_i32(x: i32) -> Self::I;
    /// 64 bytes from memory.
    unsafe fn load_bytes(from: *const u8) -> Self::I;
    /// The lowest byte of each lane, which is within the range of i8, to 16 bytes of memory.
    unsafe fn store_i8(to: *mut i8, a: Self::I);
    /// 16 unsigned bytes of memory, one a lane.
    unsafe fn widen_bytes(from: *const u8) -> Self::I;
    /// Each byte, of 0..16, replaced by that entry of the table.
    unsafe fn look_up(table: &[u8; 16], a: Self::I) -> Self::I;
    /// The integers as numbers.
    unsafe fn to_f32(a: Self::I) -> Self::F;
    /// The integers as the bits of numbers.
    unsafe fn from_bits(a: Self::I) -> Self::F;
    /// The sum of the lanes.
    unsafe fn sum(a: Self::I) -> i32;
    /// The sum of 16 signed bytes of memory.
    unsafe fn sum_i8(from: *const i8) -> i32;
    /// Bitwise and.
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// Each lane shifted right by `bits` of 0..32, zeros shifted in.
    unsafe fn shr(a: Self::I, bits: u32) -> Self::I;
    /// Each lane shifted left by `bits` of 0..32.
    unsafe fn shl(a: Self::I, bits: u32) -> Self::I;
    /// `start + Σ u[c][4r + i] · x[c][i]` for each lane `r`, over the at most 8 chunks `c` and their 4 columns `i`; `u` are
    /// of `BITS` bits (4, 5, 6 or 8), `x` 4 bytes of -127..=127 each. Exact.
    unsafe fn dot<const BITS: u32>(start: i32, u: &[Self::I], x: &[i32]) -> Self::I;
    /// Asks for the cache line of an address, which need not be valid.
    unsafe fn prefetch(address: *const u8);

    /// Executes the body `B` compiled for this instruction set, as a call: bodies that share it do not repeat its code.
    unsafe fn call<B: Body>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]);
}

/// A kernel generic over the instruction set.
pub(crate) trait Body {
    /// Executes `blocks` of the launch. Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// As [`CpuKernel`], on a machine that has the instruction set `S`.
    unsafe fn run<S: Simd>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]);
}

/// The kernel `B` for `isa`; `None` where this machine cannot execute it.
pub(crate) fn select<B: Body>(isa: Isa) -> Option<CpuKernel> {
    if !isa.is_available() {
        return None;
    }
    Some(match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512::launch::<B>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::launch::<B>,
        _ => portable::launch::<B>,
    })
}

/// The methods of a [`Simd`] implementation whose bodies are single expressions of intrinsics.
macro_rules! intrinsics {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? $body:block)+) => {
        $(
            $(#[$attribute])*
            #[inline(always)]
            unsafe fn $name($($argument: $type),*) $(-> $result)? {
                // SAFETY: the caller has the instruction set, and pointers that are valid for what is accessed.
                unsafe { $body }
            }
        )+
    };
}
use intrinsics;
