//! Q8_0: 8 bits, symmetric, blocks of 32: `d` f16, `qs` 32 signed bytes.
//!
//! Value: `q · d`. Packed integers carry an offset of 128, as dot-product instructions want one unsigned operand.

use super::blocks::{BlockFormat, Head};
use super::codes::Codes;
use super::lanes;
use super::planes::Planes;
use super::rounding;
use crate::types::DType;

pub(super) struct Q8_0;

/// Flipping the sign bit of a byte adds or takes away 128.
#[inline(always)]
fn flip_signs(codes: Codes) -> Codes {
    Codes(codes.0.map(|word| word ^ 0x8080_8080))
}

impl BlockFormat for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 34;
    const PLANES: Planes = Planes::U8;
    const SCALE_BYTES: usize = lanes::F16_LANES;
    const HEAD: Option<Head> = Some(Head::Half);
    const GREATEST: u8 = 255;

    #[inline(always)]
    fn codes(block: &[u8], _group: usize) -> Codes {
        flip_signs(Codes::from_field(&block[2..], 0, 8))
    }

    #[inline(always)]
    fn set_codes(block: &mut [u8], _group: usize, codes: Codes) {
        block[2..].copy_from_slice(&flip_signs(codes).bytes());
    }

    #[inline(always)]
    fn pack_scales(block: &[u8], scales: &mut [u8], r: usize) {
        lanes::put_f16(scales, 0, r, &block[..2]);
    }

    #[inline(always)]
    fn unpack_scales(scales: &[u8], r: usize, block: &mut [u8]) {
        block[..2].copy_from_slice(lanes::f16_bytes(scales, 0, r));
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = lanes::f16_at(block, 0);
        for (out, &q) in out.iter_mut().zip(&block[2..]) {
            *out = f32::from(q as i8) * d;
        }
    }

    /// Integers stay in -127..=127: -128 is read but never made.
    fn quantize(values: &[f32], shrink: f32, block: &mut [u8]) {
        let d = rounding::scale(shrink * rounding::extreme(values).abs() / 127.0);
        let inverse = rounding::inverse(d.to_f32());
        block[..2].copy_from_slice(&d.to_le_bytes());
        for (q, &x) in block[2..].iter_mut().zip(values) {
            *q = rounding::code(x, inverse, 127.0, 254.0).wrapping_sub(127);
        }
    }
}
