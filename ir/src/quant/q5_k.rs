//! Q5_K: 5 bits, affine, blocks of 256 in 8 groups of 32: a head of 16 bytes
//! ([`super::affine_k`]), `qh` 32 bytes, `qs` 128 bytes.
//!
//! Groups `2j` and `2j + 1` are the low and the high nibbles of bytes `32j..32j + 32` of `qs`. Bit 4 of element `l` of group `g`
//! is bit `g` of `qh[l]`.
//! Value: `(d · sc) · q - (dmin · m)`.

use super::GROUP;
use super::affine_k;
use super::blocks::BlockFormat;
use super::codes::Codes;
use super::planes::Planes;
use crate::types::DType;

/// Where `qs` begins in a block.
const QS: usize = affine_k::HEAD + 32;

/// The greatest integer.
const MAX: f32 = 31.0;

pub(super) struct Q5K;

impl BlockFormat for Q5K {
    const DTYPE: DType = DType::Q5_K;
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 176;
    const PLANES: Planes = Planes::U4U1;
    const SCALE_BYTES: usize = affine_k::SCALE_BYTES;

    #[inline(always)]
    fn codes(block: &[u8], group: usize) -> Codes {
        let low = Codes::from_field(&block[QS + 32 * (group / 2)..], 4 * (group % 2), 4);
        low.with_high(Codes::from_field(&block[affine_k::HEAD..], group, 1))
    }

    #[inline(always)]
    fn set_codes(block: &mut [u8], group: usize, codes: Codes) {
        codes.write_field(0, 4, &mut block[QS + 32 * (group / 2)..], 4 * (group % 2));
        codes.write_field(4, 1, &mut block[affine_k::HEAD..], group);
    }

    #[inline(always)]
    fn pack_scales(block: &[u8], scales: &mut [u8], r: usize) {
        affine_k::pack(block, scales, r);
    }

    #[inline(always)]
    fn unpack_scales(scales: &[u8], r: usize, block: &mut [u8]) {
        affine_k::unpack(scales, r, block);
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        for (g, (step, minimum)) in affine_k::steps(block).into_iter().enumerate() {
            for (out, q) in out[GROUP * g..].iter_mut().zip(Self::codes(block, g).bytes()) {
                *out = step * f32::from(q) - minimum;
            }
        }
    }

    fn quantize(values: &[f32], shrink: f32, block: &mut [u8]) {
        affine_k::quantize(values, shrink, MAX, block);
        for (g, group) in values.chunks_exact(GROUP).enumerate() {
            let codes = affine_k::round_group(group, affine_k::steps(block)[g], MAX);
            Self::set_codes(block, g, Codes::from_bytes(&codes));
        }
    }
}
