//! Q4_1: 4 bits, affine, blocks of 32: `d` f16, `m` f16, `qs` 16 bytes.
//!
//! Low nibbles of `qs` are elements 0..16, high nibbles 16..32. Value: `q · d + m`.

use super::blocks::{BlockFormat, Head};
use super::codes::Codes;
use super::lanes;
use super::planes::Planes;
use super::rounding;
use crate::types::DType;

pub(super) struct Q4_1;

impl BlockFormat for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 20;
    const PLANES: Planes = Planes::U4;
    const SCALE_BYTES: usize = 2 * lanes::F16_LANES;
    const HEAD: Option<Head> = Some(Head::HalfAndMinimum);

    #[inline(always)]
    fn codes(block: &[u8], _group: usize) -> Codes {
        Codes::from_nibble_halves(&block[4..])
    }

    #[inline(always)]
    fn set_codes(block: &mut [u8], _group: usize, codes: Codes) {
        codes.write_nibble_halves(&mut block[4..]);
    }

    #[inline(always)]
    fn pack_scales(block: &[u8], scales: &mut [u8], r: usize) {
        lanes::put_f16(scales, 0, r, &block[..2]);
        lanes::put_f16(scales, 1, r, &block[2..4]);
    }

    #[inline(always)]
    fn unpack_scales(scales: &[u8], r: usize, block: &mut [u8]) {
        block[..2].copy_from_slice(lanes::f16_bytes(scales, 0, r));
        block[2..4].copy_from_slice(lanes::f16_bytes(scales, 1, r));
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, m) = (lanes::f16_at(block, 0), lanes::f16_at(block, 2));
        for (out, q) in out.iter_mut().zip(Self::codes(block, 0).bytes()) {
            *out = f32::from(q) * d + m;
        }
    }

    fn quantize(values: &[f32], shrink: f32, block: &mut [u8]) {
        let (low, high) = rounding::range(values, shrink);
        let m = rounding::offset(low);
        let d = rounding::scale((high - m.to_f32()).max(0.0) / 15.0);
        let inverse = rounding::inverse(d.to_f32());
        let mut codes = [0; 32];
        for (q, &x) in codes.iter_mut().zip(values) {
            *q = rounding::code(x - m.to_f32(), inverse, 0.0, 15.0);
        }
        block[..2].copy_from_slice(&d.to_le_bytes());
        block[2..4].copy_from_slice(&m.to_le_bytes());
        Self::set_codes(block, 0, Codes::from_bytes(&codes));
    }
}
