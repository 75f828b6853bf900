//! The bit planes of one packed group: 16 rows of 32 integers.
//!
//! A plane is a run of 64-byte vectors of 16 word lanes, lane `r` for row `r`: a word holds one bit field of four
//! columns of one row, so writing and reading a row is a shift, a mask and one store a vector.

use super::PANEL_ROWS;
use super::codes::Codes;

/// Which planes hold the integers of a format, in the order they are stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Planes {
    /// 4 bits.
    U4,
    /// 5 bits: the low 4, then the highest.
    U4U1,
    /// 6 bits: the low 4, then the high 2.
    U4U2,
    /// 2 bits.
    U2,
    /// 8 bits.
    U8,
}

impl Planes {
    /// Bytes of one group.
    pub const fn bytes(self) -> usize {
        match self {
            Planes::U4 => 256,
            Planes::U4U1 => 256 + 64,
            Planes::U4U2 => 256 + 128,
            Planes::U2 => 128,
            Planes::U8 => 512,
        }
    }

    /// Writes row `r` of a group.
    #[inline(always)]
    pub fn put(self, codes: Codes, r: usize, group: &mut [u8]) {
        let words = group[..self.bytes()].as_chunks_mut::<4>().0;
        let mut store = |vector: usize, word: u32| words[PANEL_ROWS * vector + r] = word.to_le_bytes();
        match self {
            Planes::U8 => return (0..8).for_each(|c| store(c, codes.0[c])),
            Planes::U2 => return (0..2).for_each(|h| store(h, bits_from(codes, 0, 4 * h, 4, 2))),
            Planes::U4 | Planes::U4U1 | Planes::U4U2 => {}
        }
        (0..4).for_each(|j| store(j, codes.nibble_pair(j)));
        match self {
            Planes::U4U1 => store(4, bits_from(codes, 4, 0, 8, 1)),
            Planes::U4U2 => (0..2).for_each(|h| store(4 + h, bits_from(codes, 4, 4 * h, 4, 2))),
            Planes::U4 | Planes::U2 | Planes::U8 => {}
        }
    }

    /// Reads row `r` of a group.
    #[inline(always)]
    pub fn get(self, group: &[u8], r: usize) -> Codes {
        let words = group[..self.bytes()].as_chunks::<4>().0;
        let load = |vector: usize| u32::from_le_bytes(words[PANEL_ROWS * vector + r]);
        let low = |c: usize| (load(c % 4) >> (4 * (c / 4))) & 0x0f0f_0f0f;
        Codes(std::array::from_fn(|c| match self {
            Planes::U4 => low(c),
            Planes::U4U1 => low(c) | ((load(4) >> c) & 0x0101_0101) << 4,
            Planes::U4U2 => low(c) | ((load(4 + c / 4) >> (2 * (c % 4))) & 0x0303_0303) << 4,
            Planes::U2 => (load(c / 4) >> (2 * (c % 4))) & 0x0303_0303,
            Planes::U8 => load(c),
        }))
    }
}

/// The `bits` bits from bit `from` on of `count` chunks from `first`, the first chunk lowest.
#[inline(always)]
fn bits_from(codes: Codes, from: u32, first: usize, count: usize, bits: u32) -> u32 {
    let mask = 0x0101_0101 * ((1 << bits) - 1);
    (0..count).fold(0, |word, m| word | ((codes.0[first + m] >> from) & mask) << (bits as usize * m))
}
