//! Vectors of 16 scales, one a row, as the scale region of a panel holds them.
//!
//! Scales move as bytes, never as numbers, so that NaN payloads and negative zeros survive packing.

use half::f16;

/// Bytes of a vector of 16 f16.
pub(super) const F16_LANES: usize = 32;

/// Copies the f16 in `bytes` to lane `r` of f16 vector `vector`.
#[inline(always)]
pub(super) fn put_f16(scales: &mut [u8], vector: usize, r: usize, bytes: &[u8]) {
    let at = F16_LANES * vector + 2 * r;
    scales[at..at + 2].copy_from_slice(bytes);
}

/// The bytes of lane `r` of f16 vector `vector`.
#[inline(always)]
pub(super) fn f16_bytes(scales: &[u8], vector: usize, r: usize) -> &[u8] {
    let at = F16_LANES * vector + 2 * r;
    &scales[at..at + 2]
}

/// The f16 at byte `at` of a block, as f32.
#[inline(always)]
pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The little-endian u32 at byte `at` of a block.
#[inline(always)]
pub(super) fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}
