//! The integers of one row in one group of 32 columns, held as eight words so that four columns move at a time.
//!
//! Every block and plane layout stores them as bit fields of bytes: reading one is a shift and a mask of whole words.

/// Unsigned integers of 32 columns: byte `i` of word `c`, counted from the lowest, is column `4c + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Codes(pub [u32; 8]);

/// `bits` ones at the bottom of each byte of a word.
const fn field_mask(bits: u32) -> u32 {
    0x0101_0101 * ((1 << bits) - 1)
}

/// Little-endian word `i` of `bytes`.
#[inline(always)]
fn word(bytes: &[u8], i: usize) -> u32 {
    u32::from_le_bytes(bytes.as_chunks::<4>().0[i])
}

impl Codes {
    /// From one byte a column.
    #[inline(always)]
    pub fn from_bytes(bytes: &[u8; 32]) -> Codes {
        Codes(std::array::from_fn(|c| word(bytes, c)))
    }

    /// One byte a column.
    #[inline(always)]
    pub fn bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (bytes, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *bytes = word.to_le_bytes();
        }
        out
    }

    /// The field of `bits` bits at bit `shift` of 32 bytes, one byte a column.
    #[inline(always)]
    pub fn from_field(bytes: &[u8], shift: usize, bits: u32) -> Codes {
        let bytes = &bytes[..32];
        Codes(std::array::from_fn(|c| (word(bytes, c) >> shift) & field_mask(bits)))
    }

    /// Writes bits `from..from + bits` of each integer to bit `shift` of its byte; the field must be zero before.
    #[inline(always)]
    pub fn write_field(self, from: usize, bits: u32, bytes: &mut [u8], shift: usize) {
        let (words, _) = bytes[..32].as_chunks_mut::<4>();
        for (word, code) in words.iter_mut().zip(self.0) {
            *word = (u32::from_le_bytes(*word) | ((code >> from) & field_mask(bits)) << shift).to_le_bytes();
        }
    }

    /// Adds `high` as the bits from bit 4 on.
    #[inline(always)]
    pub fn with_high(self, high: Codes) -> Codes {
        Codes(std::array::from_fn(|c| self.0[c] | high.0[c] << 4))
    }

    /// From 16 bytes whose low nibbles are columns 0..16 and high nibbles columns 16..32.
    #[inline(always)]
    pub fn from_nibble_halves(bytes: &[u8]) -> Codes {
        let bytes = &bytes[..16];
        Codes(std::array::from_fn(|c| (word(bytes, c % 4) >> (4 * (c / 4))) & field_mask(4)))
    }

    /// The inverse of [`Codes::from_nibble_halves`] for the low 4 bits.
    #[inline(always)]
    pub fn write_nibble_halves(self, bytes: &mut [u8]) {
        for (j, word) in bytes[..16].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *word = self.nibble_pair(j).to_le_bytes();
        }
    }

    /// Low nibbles of chunk `j` with those of chunk `j + 4` above them.
    #[inline(always)]
    pub fn nibble_pair(self, j: usize) -> u32 {
        (self.0[j] & field_mask(4)) | (self.0[j + 4] & field_mask(4)) << 4
    }

    /// From 8 bytes whose bits `2m..2m + 2` are columns `8m..8m + 8`.
    #[inline(always)]
    pub fn from_quarters(bytes: &[u8]) -> Codes {
        let bytes = &bytes[..8];
        Codes(std::array::from_fn(|c| (word(bytes, c % 2) >> (2 * (c / 2))) & field_mask(2)))
    }

    /// The inverse of [`Codes::from_quarters`] for the low 2 bits.
    #[inline(always)]
    pub fn write_quarters(self, bytes: &mut [u8]) {
        for (j, word) in bytes[..8].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let quarters = (0..4).fold(0, |word, m| word | (self.0[2 * m + j] & field_mask(2)) << (2 * m));
            *word = quarters.to_le_bytes();
        }
    }

    /// Adds bit `i` of `bits` as bit 4 of column `i`.
    #[inline(always)]
    pub fn with_fifth_bits(self, bits: u32) -> Codes {
        // The product holds four shifted copies of a nibble that do not overlap: bit i lands on bit 8i.
        let spread = |nibble: u32| (nibble * 0x0020_4081) & field_mask(1);
        self.with_high(Codes(std::array::from_fn(|c| spread((bits >> (4 * c)) & 15))))
    }

    /// Bit 4 of column `i` as bit `i`.
    #[inline(always)]
    pub fn fifth_bits(self) -> u32 {
        // The inverse product: bit 8i lands on bit 28 + i, and no two terms meet.
        let gather = |word: u32| ((word >> 4) & field_mask(1)).wrapping_mul(0x1020_4080) >> 28;
        (0..8).fold(0, |bits, c| bits | gather(self.0[c]) << (4 * c))
    }
}
