//! Q6_K: 6 bits, symmetric, blocks of 256 in 16 groups of 16: `ql` 128 bytes, `qh` 64 bytes, `sc` 16 signed bytes,
//! `d` f16.
//!
//! The block is two halves of 128 elements, each with 64 bytes of `ql` and 32 of `qh`. Element `32k + l` of a half has its
//! low 4 bits in byte `32 · (k % 2) + l` of `ql`, the low nibble for `k < 2`, and bits 4..6 in bits `2k..2k + 2` of
//! byte `l` of `qh`. Value: `(d · sc[i / 16]) · (q - 32)`.

use super::blocks::BlockFormat;
use super::codes::Codes;
use super::lanes::{self, F16_LANES};
use super::planes::Planes;
use super::{GROUP, PANEL_ROWS, rounding};
use crate::types::DType;

/// Where `qh`, `sc` and `d` begin in a block.
const QH: usize = 128;
const SC: usize = 192;
const D: usize = 208;

/// Elements that share one factor.
const SUBGROUP: usize = 16;

pub(super) struct Q6K;

/// Where the bits of a group of 32 stand: offset and shift of its low nibbles, offset and shift of its high bits.
#[inline(always)]
fn places(group: usize) -> (usize, usize, usize, usize) {
    let (half, k) = (group / 4, group % 4);
    (64 * half + 32 * (k % 2), 4 * (k / 2), QH + 32 * half, 2 * k)
}

/// The step of each group of 16.
fn steps(block: &[u8]) -> [f32; 16] {
    let d = lanes::f16_at(block, D);
    std::array::from_fn(|s| d * f32::from(block[SC + s] as i8))
}

impl BlockFormat for Q6K {
    const DTYPE: DType = DType::Q6_K;
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 210;
    const PLANES: Planes = Planes::U4U2;
    const SCALE_BYTES: usize = F16_LANES + 16 * PANEL_ROWS;
    const SCALE_COLUMNS: usize = SUBGROUP;

    #[inline(always)]
    fn codes(block: &[u8], group: usize) -> Codes {
        let (low, low_shift, high, high_shift) = places(group);
        Codes::from_field(&block[low..], low_shift, 4).with_high(Codes::from_field(&block[high..], high_shift, 2))
    }

    #[inline(always)]
    fn set_codes(block: &mut [u8], group: usize, codes: Codes) {
        let (low, low_shift, high, high_shift) = places(group);
        codes.write_field(0, 4, &mut block[low..], low_shift);
        codes.write_field(4, 2, &mut block[high..], high_shift);
    }

    #[inline(always)]
    fn pack_scales(block: &[u8], scales: &mut [u8], r: usize) {
        let (d, factors) = scales.split_at_mut(F16_LANES);
        lanes::put_f16(d, 0, r, &block[D..]);
        for (lane, &sc) in factors.as_chunks_mut::<PANEL_ROWS>().0.iter_mut().zip(&block[SC..D]) {
            lane[r] = sc;
        }
    }

    #[inline(always)]
    fn unpack_scales(scales: &[u8], r: usize, block: &mut [u8]) {
        let (d, factors) = scales.split_at(F16_LANES);
        block[D..].copy_from_slice(lanes::f16_bytes(d, 0, r));
        for (sc, lane) in block[SC..D].iter_mut().zip(factors.as_chunks::<PANEL_ROWS>().0) {
            *sc = lane[r];
        }
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let steps = steps(block);
        for (g, out) in out.chunks_exact_mut(GROUP).enumerate() {
            for (i, q) in Self::codes(block, g).bytes().into_iter().enumerate() {
                out[i] = steps[2 * g + i / SUBGROUP] * (f32::from(q) - 32.0);
            }
        }
    }

    /// In each group the value of greatest magnitude becomes -32, and of these steps the greatest a factor of -128: the
    /// ends of both ranges that have no opposite.
    fn quantize(values: &[f32], shrink: f32, block: &mut [u8]) {
        let mut exact = [0.0; 16];
        for (step, group) in exact.iter_mut().zip(values.chunks_exact(SUBGROUP)) {
            *step = shrink * rounding::extreme(group) / -32.0;
        }
        let d = rounding::scale(rounding::extreme(&exact) / -128.0);
        let inverse = rounding::inverse(d.to_f32());
        for (sc, step) in block[SC..D].iter_mut().zip(exact) {
            *sc = rounding::code(step, inverse, 128.0, 255.0).wrapping_sub(128);
        }
        block[D..].copy_from_slice(&d.to_le_bytes());

        let inverses = steps(block).map(rounding::inverse);
        for (g, group) in values.chunks_exact(GROUP).enumerate() {
            let mut codes = [0; GROUP];
            for (i, &x) in group.iter().enumerate() {
                codes[i] = rounding::code(x, inverses[2 * g + i / SUBGROUP], 32.0, 63.0);
            }
            Self::set_codes(block, g, Codes::from_bytes(&codes));
        }
    }
}
