//! Rounds rows of f32 to f16 under a power of two of their own, bit for bit as `ir::quant::half_rows` defines: the one place where
//! kernels do.

use super::simd::{LANES, Simd};
use ir::quant::half_rows::{factors, greatest_bits};

/// Rounds the `cols` values at `x` to as many at `out`, which may be the same.
///
/// # Safety
/// Needs the instruction set `S`; both are valid.
#[inline(always)]
pub(super) unsafe fn round<S: Simd>(x: *const f32, cols: usize, out: *mut f32) {
    // SAFETY: as the caller says; a last partial vector goes by way of a whole one.
    unsafe {
        let (up, down) = factors(greatest_bits(std::slice::from_raw_parts(x, cols)));
        let (up, down) = (S::splat(up), S::splat(down));
        let whole = cols / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            S::store(out.add(at), rounded::<S>(S::load(x.add(at)), up, down));
        }
        if whole < cols {
            let mut lanes = [0f32; LANES];
            x.add(whole).copy_to_nonoverlapping(lanes.as_mut_ptr(), cols - whole);
            let last = rounded::<S>(S::load(lanes.as_ptr()), up, down);
            S::store(lanes.as_mut_ptr(), last);
            lanes.as_ptr().copy_to_nonoverlapping(out.add(whole), cols - whole);
        }
    }
}

/// `f16(x · up) · down`.
///
/// # Safety
/// Needs the instruction set `S`.
#[inline(always)]
unsafe fn rounded<S: Simd>(x: S::F, up: S::F, down: S::F) -> S::F {
    // SAFETY: passed on.
    unsafe { S::mul(S::round_f16(S::mul(x, up)), down) }
}
