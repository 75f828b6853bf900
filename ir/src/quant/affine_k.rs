//! The 16-byte head of Q4_K and Q5_K blocks: `d` f16, `dmin` f16, and 8 pairs of 6-bit `sc` and `m` in 12 bytes.
//!
//! A value of group `g` is `(d · sc[g]) · q - (dmin · m[g])`. The 12 bytes, as ggml defines them: for `g < 4`,
//! bits 0..6 of byte `g` are `sc[g]` and of byte `4 + g` are `m[g]`; for `g >= 4`, byte `4 + g` holds the low 4 bits of
//! `sc[g]` and, above them, of `m[g]`; their bits 4..6 are bits 6..8 of bytes `g - 4` and `g`.

use super::lanes::{self, F16_LANES};
use super::{GROUP, PANEL_ROWS, rounding};

/// Bytes of the head.
pub(super) const HEAD: usize = 16;

/// Groups of a block.
pub(super) const GROUPS: usize = 8;

/// Bytes of 16 heads in the scale region: `d`, `dmin`, then `sc` and `m` of each group.
pub(super) const SCALE_BYTES: usize = 2 * F16_LANES + GROUPS * 2 * PANEL_ROWS;

/// The 6-bit factors of a block's groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Factors {
    /// Of the scale.
    pub sc: [u8; GROUPS],
    /// Of the minimum.
    pub m: [u8; GROUPS],
}

impl Factors {
    /// From the 12 bytes of a block.
    #[inline(always)]
    fn read(bytes: &[u8; 12]) -> Factors {
        let mut factors = Factors::default();
        for g in 0..4 {
            let (a, b, c) = (bytes[g], bytes[4 + g], bytes[8 + g]);
            (factors.sc[g], factors.m[g]) = (a & 63, b & 63);
            (factors.sc[4 + g], factors.m[4 + g]) = ((c & 15) | (a >> 6) << 4, (c >> 4) | (b >> 6) << 4);
        }
        factors
    }

    /// To the 12 bytes of a block.
    #[inline(always)]
    fn write(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for g in 0..4 {
            let (sc, m) = (self.sc[4 + g], self.m[4 + g]);
            bytes[g] = (self.sc[g] & 63) | (sc >> 4) << 6;
            bytes[4 + g] = (self.m[g] & 63) | (m >> 4) << 6;
            bytes[8 + g] = (sc & 15) | m << 4;
        }
        bytes
    }

    #[inline(always)]
    fn of_block(block: &[u8]) -> Factors {
        let mut bytes = [0; 12];
        bytes.copy_from_slice(&block[4..HEAD]);
        Factors::read(&bytes)
    }
}

/// Writes the head of a block to lane `r` of its part of the scale region.
#[inline(always)]
pub(super) fn pack(block: &[u8], scales: &mut [u8], r: usize) {
    let (halves, factor_lanes) = scales[..SCALE_BYTES].split_at_mut(2 * F16_LANES);
    lanes::put_f16(halves, 0, r, &block[..2]);
    lanes::put_f16(halves, 1, r, &block[2..4]);
    let factors = Factors::of_block(block);
    for (g, lane) in factor_lanes.as_chunks_mut::<{ 2 * PANEL_ROWS }>().0.iter_mut().enumerate() {
        lane[r] = factors.sc[g];
        lane[PANEL_ROWS + r] = factors.m[g];
    }
}

/// The inverse of [`pack`].
#[inline(always)]
pub(super) fn unpack(scales: &[u8], r: usize, block: &mut [u8]) {
    let (halves, factor_lanes) = scales[..SCALE_BYTES].split_at(2 * F16_LANES);
    block[..2].copy_from_slice(lanes::f16_bytes(halves, 0, r));
    block[2..4].copy_from_slice(lanes::f16_bytes(halves, 1, r));
    let mut factors = Factors::default();
    for (g, lane) in factor_lanes.as_chunks::<{ 2 * PANEL_ROWS }>().0.iter().enumerate() {
        factors.sc[g] = lane[r];
        factors.m[g] = lane[PANEL_ROWS + r];
    }
    block[4..HEAD].copy_from_slice(&factors.write());
}

/// Step and minimum of each group: a value is `q · step - minimum`.
pub(super) fn steps(block: &[u8]) -> [(f32, f32); GROUPS] {
    let (d, dmin) = (lanes::f16_at(block, 0), lanes::f16_at(block, 2));
    let factors = Factors::of_block(block);
    std::array::from_fn(|g| (d * f32::from(factors.sc[g]), dmin * f32::from(factors.m[g])))
}

/// Chooses the head of a block of 256 values whose integers go up to `max`, and writes it. Ranges are multiplied by
/// `shrink`.
///
/// Minima are rounded first; the scales then cover what is left above the rounded minima.
pub(super) fn quantize(values: &[f32], shrink: f32, max: f32, head: &mut [u8]) {
    let mut lows = [0.0; GROUPS];
    let mut highs = [0.0; GROUPS];
    for (g, group) in values.chunks_exact(GROUP).enumerate().take(GROUPS) {
        let (low, high) = rounding::range(group, 1.0);
        (lows[g], highs[g]) = (shrink * -low.min(0.0), shrink * high);
    }
    let (dmin, m) = shared_scale(&lows);
    let spans = std::array::from_fn(|g| (highs[g] + dmin.to_f32() * f32::from(m[g])).max(0.0) / max);
    let (d, sc) = shared_scale(&spans);
    head[..2].copy_from_slice(&d.to_le_bytes());
    head[2..4].copy_from_slice(&dmin.to_le_bytes());
    head[4..HEAD].copy_from_slice(&Factors { sc, m }.write());
}

/// One f16 scale and 6-bit factors for 8 non-negative numbers.
fn shared_scale(numbers: &[f32; GROUPS]) -> (half::f16, [u8; GROUPS]) {
    let d = rounding::scale(rounding::extreme(numbers) / 63.0);
    let inverse = rounding::inverse(d.to_f32());
    (d, numbers.map(|x| rounding::code(x, inverse, 0.0, 63.0)))
}

/// The integers of one group under a step and minimum.
pub(super) fn round_group(values: &[f32], (step, minimum): (f32, f32), max: f32) -> [u8; GROUP] {
    let inverse = rounding::inverse(step);
    let mut codes = [0; GROUP];
    for (q, &x) in codes.iter_mut().zip(values) {
        *q = rounding::code(x + minimum, inverse, 0.0, max);
    }
    codes
}
