//! MXFP4: E2M1 in blocks of 32: `e` u8, `qs` 16 bytes (GGUF's `block_mxfp4`).
//!
//! Low nibbles of `qs` are elements 0..16, high nibbles 16..32. Value: `2 · e2m1(q)`, a whole number, times
//! `2^(e - 127) / 2`: the same real number, and the integer is what 8-bit dot products want. Negative zero is zero.

use super::blocks::{BlockFormat, Head};
use super::codes::Codes;
use super::minifloat::{power, to_e2m1, twice_e2m1};
use super::planes::Planes;
use super::{PANEL_ROWS, rounding};
use crate::types::DType;

pub(super) struct Mxfp4;

impl BlockFormat for Mxfp4 {
    const DTYPE: DType = DType::MXFP4;
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 17;
    const PLANES: Planes = Planes::U4;
    const SCALE_BYTES: usize = PANEL_ROWS;
    const HEAD: Option<Head> = Some(Head::Exponent);
    // The neighbouring powers of two.
    const SHRINKS: &'static [f32] = &[1.0, 2.0, 0.5];

    #[inline(always)]
    fn codes(block: &[u8], _group: usize) -> Codes {
        Codes::from_nibble_halves(&block[1..])
    }

    #[inline(always)]
    fn set_codes(block: &mut [u8], _group: usize, codes: Codes) {
        codes.write_nibble_halves(&mut block[1..]);
    }

    #[inline(always)]
    fn pack_scales(block: &[u8], scales: &mut [u8], r: usize) {
        scales[r] = block[0];
    }

    #[inline(always)]
    fn unpack_scales(scales: &[u8], r: usize, block: &mut [u8]) {
        block[0] = scales[r];
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let half = 0.5 * power(block[0]);
        for (out, q) in out.iter_mut().zip(Self::codes(block, 0).bytes()) {
            *out = f32::from(twice_e2m1(q)) * half;
        }
    }

    /// The scale of OCP's rule, `2^(floor(log2(max |x|)) - 2)`: the greatest value lies within 4..8 steps, and what is
    /// beyond 6 is cut off.
    fn quantize(values: &[f32], shrink: f32, block: &mut [u8]) {
        let greatest = (shrink * rounding::extreme(values)).abs();
        let e = (greatest.to_bits() >> 23).saturating_sub(2).min(252) as u8;
        let inverse = power(254 - e);
        let mut codes = [0; 32];
        for (q, &x) in codes.iter_mut().zip(values) {
            *q = to_e2m1(x * inverse);
        }
        block[0] = e;
        Self::set_codes(block, 0, Codes::from_bytes(&codes));
    }
}
