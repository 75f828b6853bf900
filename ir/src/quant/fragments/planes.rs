//! Moves the planes of 64 columns between a panel's two groups of 32 and a tile's chunk.
//!
//! Four columns of one row are a word of a panel and half a fragment of a lane, so integers move eight at a time: the words
//! of rows `g` and `g + 8` become one bit field of the lane's word. Loops have fixed bounds over arrays of known size,
//! which the compiler unrolls; packing is then bound by the formats' own row conversion.

use super::super::PANEL_ROWS;
use super::LANES;

/// Rows that a lane's index counts; a fragment has the row and the one this much further.
const HALF: usize = PANEL_ROWS / 2;

/// One run of bytes of a chunk: a bit field of all its integers, or float elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plane {
    /// 1 bit.
    U1,
    /// 2 bits.
    U2,
    /// 4 bits.
    U4,
    /// 8 bits.
    U8,
    /// A float of 2 bytes.
    Half,
    /// A float of 4 bytes.
    Single,
}

impl Plane {
    /// Bits of an element.
    pub const fn bits(self) -> usize {
        match self {
            Plane::U1 => 1,
            Plane::U2 => 2,
            Plane::U4 => 4,
            Plane::U8 => 8,
            Plane::Half => 16,
            Plane::Single => 32,
        }
    }

    /// Bytes of 64 columns of 16 rows.
    pub const fn chunk_bytes(self) -> usize {
        128 * self.bits()
    }

    /// Whether elements are whole floats.
    pub const fn is_float(self) -> bool {
        matches!(self, Plane::Half | Plane::Single)
    }

    /// The byte of a panel's plane all of whose integers have the low bits of `code`.
    pub const fn repeated(self, code: u8) -> u8 {
        match self {
            Plane::U1 => (code & 1) * 0xff,
            Plane::U2 => (code & 3) * 0x55,
            Plane::U4 => (code & 15) * 0x11,
            Plane::U8 => code,
            Plane::Half | Plane::Single => 0,
        }
    }

    /// Groups of a panel to a chunk.
    pub fn gather(self, groups: [&[u8]; 2], tile: &mut [u8]) {
        match self {
            Plane::U1 => gather_fields::<1>(groups, tile),
            Plane::U2 => gather_fields::<2>(groups, tile),
            Plane::U4 => gather_fields::<4>(groups, tile),
            Plane::U8 => {
                let tile = tile.as_chunks_mut::<4>().0;
                each_byte_pair(|group, word, to| {
                    let words = groups[group].as_chunks::<4>().0;
                    (tile[to], tile[to + 1]) = zip_bytes(words[word], words[word + HALF]);
                });
            }
            Plane::Half => {
                let tile = tile.as_chunks_mut::<2>().0;
                each_element(half_place, |group, from, to| tile[to] = groups[group].as_chunks().0[from]);
            }
            Plane::Single => {
                let tile = tile.as_chunks_mut::<4>().0;
                each_element(single_place, |group, from, to| tile[to] = groups[group].as_chunks().0[from]);
            }
        }
    }

    /// The inverse of [`Plane::gather`].
    pub fn scatter(self, tile: &[u8], groups: [&mut [u8]; 2]) {
        match self {
            Plane::U1 => scatter_fields::<1>(tile, groups),
            Plane::U2 => scatter_fields::<2>(tile, groups),
            Plane::U4 => scatter_fields::<4>(tile, groups),
            Plane::U8 => {
                let tile = tile.as_chunks::<4>().0;
                each_byte_pair(|group, word, from| {
                    let words = groups[group].as_chunks_mut::<4>().0;
                    (words[word], words[word + HALF]) = unzip_bytes(tile[from], tile[from + 1]);
                });
            }
            Plane::Half => {
                let tile = tile.as_chunks::<2>().0;
                each_element(half_place, |group, to, from| groups[group].as_chunks_mut().0[to] = tile[from]);
            }
            Plane::Single => {
                let tile = tile.as_chunks::<4>().0;
                each_element(single_place, |group, to, from| groups[group].as_chunks_mut().0[to] = tile[from]);
            }
        }
    }
}

/// Vector and shift at which a panel's group has the field of four columns from `4·quad` on.
const fn panel_place<const BITS: usize>(quad: usize) -> (usize, usize) {
    match BITS {
        4 => (quad % 4, 4 * (quad / 4)),
        2 => (quad / 4, 2 * (quad % 4)),
        _ => (0, quad),
    }
}

/// Word of a lane and shift at which a chunk has the fields of k16 tile `i`.
const fn tile_place<const BITS: usize>(i: usize) -> (usize, usize) {
    (i * BITS / 4, 4 * BITS * (i % (4 / BITS)))
}

/// The fields of a lane in one k16 tile, from four columns of row `g` and of row `g + 8`, a byte each: the even columns
/// from bit 0 on, the odd ones from bit 16 on.
#[inline(always)]
const fn join<const BITS: usize>(upper: u32, lower: u32) -> u32 {
    let pair = (1 << (2 * BITS)) - 1;
    let pairs = upper | lower << BITS;
    let even = pairs & pair | (pairs >> 16 & pair) << (2 * BITS);
    let odd = pairs >> 8 & pair | (pairs >> 24 & pair) << (2 * BITS);
    even | odd << 16
}

/// The inverse of [`join`]; bits above its fields are ignored.
#[inline(always)]
const fn split<const BITS: usize>(fields: u32) -> (u32, u32) {
    let pair = (1 << (2 * BITS)) - 1;
    let (even, odd) = (fields, fields >> 16);
    let pairs = even & pair | (odd & pair) << 8 | (even >> (2 * BITS) & pair) << 16 | (odd >> (2 * BITS) & pair) << 24;
    (pairs & bytes_mask::<BITS>(), pairs >> BITS & bytes_mask::<BITS>())
}

/// The low `BITS` bits of each byte.
const fn bytes_mask<const BITS: usize>() -> u32 {
    0x0101_0101 * ((1 << BITS) - 1)
}

fn gather_fields<const BITS: usize>(groups: [&[u8]; 2], tile: &mut [u8]) {
    let mut out = [0u32; 4 * LANES];
    for i in 0..4 {
        let words = groups[i / 2].as_chunks::<4>().0;
        let (word, to) = tile_place::<BITS>(i);
        for t in 0..4 {
            let (vector, from) = panel_place::<BITS>(4 * (i % 2) + t);
            let rows: [u32; PANEL_ROWS] = std::array::from_fn(|r| {
                u32::from_le_bytes(words[PANEL_ROWS * vector + r]) >> from & bytes_mask::<BITS>()
            });
            for g in 0..HALF {
                out[BITS * (4 * g + t) + word] |= join::<BITS>(rows[g], rows[g + HALF]) << to;
            }
        }
    }
    for (bytes, word) in tile.as_chunks_mut::<4>().0.iter_mut().zip(out) {
        *bytes = word.to_le_bytes();
    }
}

fn scatter_fields<const BITS: usize>(tile: &[u8], groups: [&mut [u8]; 2]) {
    let tile = tile.as_chunks::<4>().0;
    for (half, group) in groups.into_iter().enumerate() {
        let mut out = [0u32; 4 * PANEL_ROWS];
        for i in 2 * half..2 * half + 2 {
            let (word, from) = tile_place::<BITS>(i);
            for t in 0..4 {
                let (vector, to) = panel_place::<BITS>(4 * (i % 2) + t);
                for g in 0..HALF {
                    let fields = u32::from_le_bytes(tile[BITS * (4 * g + t) + word]) >> from;
                    let (upper, lower) = split::<BITS>(fields);
                    out[PANEL_ROWS * vector + g] |= upper << to;
                    out[PANEL_ROWS * vector + g + HALF] |= lower << to;
                }
            }
        }
        for (bytes, word) in group.as_chunks_mut::<4>().0.iter_mut().zip(out) {
            *bytes = word.to_le_bytes();
        }
    }
}

/// The words a0, a1 and a2, a3 of an u8 plane.
#[inline(always)]
const fn zip_bytes(upper: [u8; 4], lower: [u8; 4]) -> ([u8; 4], [u8; 4]) {
    ([upper[0], lower[0], upper[1], lower[1]], [upper[2], lower[2], upper[3], lower[3]])
}

/// The inverse of [`zip_bytes`].
#[inline(always)]
const fn unzip_bytes(first: [u8; 4], second: [u8; 4]) -> ([u8; 4], [u8; 4]) {
    ([first[0], first[2], second[0], second[2]], [first[1], first[3], second[1], second[3]])
}

/// Calls `visit` with group, word of row `g` in it and first of two words in the chunk, for each lane and k16 tile of
/// an u8 plane.
#[inline(always)]
fn each_byte_pair(mut visit: impl FnMut(usize, usize, usize)) {
    for i in 0..4 {
        for t in 0..4 {
            for g in 0..HALF {
                let word = PANEL_ROWS * (4 * (i % 2) + t) + g;
                visit(i / 2, word, 4 * LANES * (i / 2) + 4 * (4 * g + t) + 2 * (i % 2));
            }
        }
    }
}

/// Element of a chunk of 2-byte floats: column `c` of four, upper (0) or lower (1) row of a lane in k16 tile `i`.
#[inline(always)]
const fn half_place(i: usize, lane: usize, lower: usize, c: usize) -> usize {
    8 * (LANES * i + lane) + 4 * (c / 2) + 2 * lower + c % 2
}

/// As [`half_place`], of 4-byte floats.
#[inline(always)]
const fn single_place(i: usize, lane: usize, lower: usize, c: usize) -> usize {
    4 * (LANES * (2 * i + lower) + lane) + c
}

/// Calls `visit` with group, element in it and element in the chunk, for all elements of a float plane.
#[inline(always)]
fn each_element(place: impl Fn(usize, usize, usize, usize) -> usize, mut visit: impl FnMut(usize, usize, usize)) {
    for i in 0..4 {
        for g in 0..HALF {
            for t in 0..4 {
                for lower in 0..2 {
                    for c in 0..4 {
                        let element = PANEL_ROWS * (16 * (i % 2) + 4 * t + c) + HALF * lower + g;
                        visit(i / 2, element, place(i, 4 * g + t, lower, c));
                    }
                }
            }
        }
    }
}

/// A vector of 16 elements of `N` bytes with rows `g` and `g + 8` side by side.
pub(super) fn pair_rows<const N: usize>(vector: &[u8], out: &mut [u8]) {
    let (upper, lower) = vector.as_chunks::<N>().0.split_at(HALF);
    for (pair, (upper, lower)) in
        out.as_chunks_mut::<N>().0.as_chunks_mut::<2>().0.iter_mut().zip(upper.iter().zip(lower))
    {
        *pair = [*upper, *lower];
    }
}

/// The inverse of [`pair_rows`].
pub(super) fn part_rows<const N: usize>(vector: &[u8], out: &mut [u8]) {
    let (upper, lower) = out.as_chunks_mut::<N>().0.split_at_mut(HALF);
    for ([a, b], (upper, lower)) in vector.as_chunks::<N>().0.as_chunks::<2>().0.iter().zip(upper.iter_mut().zip(lower))
    {
        (*upper, *lower) = (*a, *b);
    }
}
