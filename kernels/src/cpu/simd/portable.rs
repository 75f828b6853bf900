//! Plain Rust over arrays of 16, for any architecture: the definition the intrinsics are tested against, and fast where
//! the compiler vectorises it and a fused multiply-add is an instruction (aarch64).

use std::array::from_fn;
use std::ffi::c_void;
use std::ops::Range;

use half::{bf16, f16};

use super::{Body, LANES, Simd, intrinsics};

/// No particular instruction set.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// [`super::CpuKernel`] of `B`.
///
/// # Safety
/// As [`Body::run`].
pub(super) unsafe fn launch<B: Body>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
    // SAFETY: passed on; `Portable` needs no features.
    unsafe { B::run::<Portable>(params, blocks, scratch) }
}

impl Simd for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];

    // Where a multiply-add is a call, sharing weights gains nothing and costs code.
    const TILES: &'static [usize] =
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { &[1, 4] } else { &[1] };
    const WIDE_SHIFT: i32 = 128;

    #[inline(always)]
    unsafe fn call<B: Body>(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: passed on.
        unsafe { launch::<B>(params, blocks, scratch) }
    }

    intrinsics! {
        fn load(from: *const f32) -> [f32; LANES] { from.cast::<[f32; LANES]>().read_unaligned() }
        fn store(to: *mut f32, a: [f32; LANES]) { to.cast::<[f32; LANES]>().write_unaligned(a) }
        fn load_f16(from: *const u16) -> [f32; LANES] {
            from.cast::<[u16; LANES]>().read_unaligned().map(|bits| f16::from_bits(bits).to_f32())
        }
        fn load_bf16(from: *const u16) -> [f32; LANES] {
            from.cast::<[u16; LANES]>().read_unaligned().map(|bits| bf16::from_bits(bits).to_f32())
        }
        fn load_u8(from: *const u8) -> [f32; LANES] { from.cast::<[u8; LANES]>().read().map(f32::from) }
        fn load_i8(from: *const i8) -> [f32; LANES] { from.cast::<[i8; LANES]>().read().map(f32::from) }
        fn sum_i8(from: *const i8) -> i32 { from.cast::<[i8; LANES]>().read().map(i32::from).iter().sum() }
        fn widen_bytes(from: *const u8) -> [i32; LANES] { from.cast::<[u8; LANES]>().read().map(i32::from) }
        fn load_bytes(from: *const u8) -> [i32; LANES] {
            from.cast::<[[u8; 4]; LANES]>().read().map(i32::from_le_bytes)
        }
        fn store_i8(to: *mut i8, a: [i32; LANES]) { to.cast::<[i8; LANES]>().write(a.map(|q| q as i8)) }
    }

    #[inline(always)]
    unsafe fn zero() -> [f32; LANES] {
        [0.0; LANES]
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; LANES] {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn add(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|r| a[r] + b[r])
    }

    #[inline(always)]
    unsafe fn sub(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|r| a[r] - b[r])
    }

    #[inline(always)]
    unsafe fn round_f16(a: [f32; LANES]) -> [f32; LANES] {
        a.map(|x| f16::from_f32(x).to_f32())
    }

    #[inline(always)]
    unsafe fn mul(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|r| a[r] * b[r])
    }

    // Calls on x86-64, where this is the reference alone: inlining these into every kernel would double the crate's code.
    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    unsafe fn fma(a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        from_fn(|r| a[r].mul_add(b[r], c[r]))
    }

    #[inline(always)]
    unsafe fn min(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|r| a[r].min(b[r]))
    }

    #[inline(always)]
    unsafe fn max(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|r| a[r].max(b[r]))
    }

    #[inline(always)]
    unsafe fn greatest(a: [f32; LANES], b: [f32; LANES]) -> f32 {
        a.into_iter().chain(b).fold(0.0, |greatest: f32, x| greatest.max(x.abs()))
    }

    #[inline(always)]
    unsafe fn round(a: [f32; LANES]) -> [i32; LANES] {
        a.map(|x| x.round_ties_even() as i32)
    }

    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> [i32; LANES] {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn to_f32(a: [i32; LANES]) -> [f32; LANES] {
        a.map(|x| x as f32)
    }

    #[inline(always)]
    unsafe fn look_up(table: &[u8; 16], a: [i32; LANES]) -> [i32; LANES] {
        a.map(|lane| i32::from_le_bytes(lane.to_le_bytes().map(|byte| table[usize::from(byte & 15)])))
    }

    #[inline(always)]
    unsafe fn from_bits(a: [i32; LANES]) -> [f32; LANES] {
        a.map(|bits| f32::from_bits(bits as u32))
    }

    #[inline(always)]
    unsafe fn sum(a: [i32; LANES]) -> i32 {
        a.into_iter().sum()
    }

    #[inline(always)]
    unsafe fn and(a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        from_fn(|r| a[r] & b[r])
    }

    #[inline(always)]
    unsafe fn or(a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        from_fn(|r| a[r] | b[r])
    }

    #[inline(always)]
    unsafe fn shr(a: [i32; LANES], bits: u32) -> [i32; LANES] {
        a.map(|x| (x as u32 >> bits) as i32)
    }

    #[inline(always)]
    unsafe fn shl(a: [i32; LANES], bits: u32) -> [i32; LANES] {
        a.map(|x| x << bits)
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    unsafe fn dot<const BITS: u32>(start: i32, u: &[[i32; LANES]], x: &[i32]) -> [i32; LANES] {
        let shift = if BITS == 8 { Self::WIDE_SHIFT } else { 0 };
        let mut sums = [start; LANES];
        for (u, x) in u.iter().zip(x) {
            let x = x.to_le_bytes().map(|x| i32::from(x as i8));
            for (sum, u) in sums.iter_mut().zip(u) {
                let u = u.to_le_bytes().map(|u| i32::from(u) - shift);
                *sum += u[0] * x[0] + u[1] * x[1] + u[2] * x[2] + u[3] * x[3];
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
