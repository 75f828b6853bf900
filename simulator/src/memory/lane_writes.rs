//! Which lanes of a warp wrote which bytes of a line of shared memory since the warp's last barrier.
//!
//! Only the last warp that wrote to the line is remembered: lanes of different warps are ordered by [`super::shared::Shadow`]'s clocks.

use super::shared::spread;

/// Bytes of a word that no lane wrote.
const NOBODY: u32 = u32::MAX;
/// The same lane in each byte of a word.
const EACH_BYTE: u32 = 0x0101_0101;

/// The words of a line that one warp wrote between two of its barriers, and its lanes that did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LaneWrites {
    warp: u32,
    /// Barriers that the warp had passed, from 1.
    interval: u32,
    words: u32,
    /// For each of `words` the last writer of each of its bytes; what other words have here means nothing.
    lanes: [u32; 32],
}

impl LaneWrites {
    /// Words that this warp wrote in this interval.
    #[inline(always)]
    pub fn words_of(&self, warp: u32, interval: u32) -> u32 {
        if self.warp == warp && self.interval == interval { self.words } else { 0 }
    }

    fn enter(&mut self, warp: u32, interval: u32) {
        if self.warp != warp || self.interval != interval {
            (self.warp, self.interval, self.words) = (warp, interval, 0);
        }
    }

    /// A lane writes words, or the bytes `part` of them.
    pub fn note(&mut self, warp: u32, interval: u32, lane: usize, words: u32, part: Option<u128>) {
        self.enter(warp, interval);
        let writer = lane as u32 * EACH_BYTE;
        for_bits(words, |w| {
            let bytes = bytes_of(w, part);
            let old = if self.words >> w & 1 == 1 { self.lanes[w as usize] } else { NOBODY };
            self.lanes[w as usize] = old & !bytes | writer & bytes;
        });
        self.words |= words;
    }

    /// All lanes write whole words one after the other, 2 to the power of `shift` bytes each; word 0 of the line lies `from` bytes after
    /// what lane 0 writes.
    #[inline]
    pub fn note_row(&mut self, warp: u32, interval: u32, words: u32, from: i32, shift: u32) {
        self.enter(warp, interval);
        for (w, lane) in self.lanes.iter_mut().enumerate() {
            let writer = ((from + 4 * w as i32) >> shift) as u32 & 31;
            *lane = if words >> w & 1 == 1 { writer * EACH_BYTE } else { *lane };
        }
        self.words |= words;
    }

    /// The first lane other than `lane` that wrote one of these bytes.
    #[cold]
    pub fn other_writer(&self, lane: Option<usize>, words: u32, part: Option<u128>) -> Option<u32> {
        let mut found = None;
        for_bits(self.words & words, |w| {
            for byte in 0..4 {
                let writer = self.lanes[w as usize] >> (8 * byte) & 255;
                let wanted = bytes_of(w, part) >> (8 * byte) & 1 == 1;
                if wanted && writer != NOBODY & 255 && lane != Some(writer as usize) {
                    found = found.or(Some(writer));
                }
            }
        });
        found
    }
}

/// The bytes of a word that `part` names, as a mask of that word; all of it without one.
fn bytes_of(word: u32, part: Option<u128>) -> u32 {
    let Some(part) = part else { return u32::MAX };
    let nibble = ((part & spread(word)) >> (4 * word)) as u32;
    (0..4).map(|b| (nibble >> b & 1) * (255 << (8 * b))).sum()
}

#[inline(always)]
fn for_bits(mut bits: u32, mut f: impl FnMut(u32)) {
    while bits != 0 {
        f(bits.trailing_zeros());
        bits &= bits - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_of_a_word_have_a_writer_each() {
        let mut line = LaneWrites::default();
        line.note(0, 1, 6, 1, Some(0b0011));
        assert_eq!(line.other_writer(Some(7), 1, Some(0b1100)), None);
        line.note(0, 1, 7, 1, Some(0b1100));
        assert_eq!(line.other_writer(Some(6), 1, Some(0b0011)), None);
        assert_eq!(line.other_writer(Some(7), 1, Some(0b1100)), None);
        assert_eq!(line.other_writer(Some(6), 1, None), Some(7));
        assert_eq!(line.other_writer(Some(7), 1, None), Some(6));
    }

    proptest! {
        /// A row is what its lanes one after the other are, whatever was written before.
        #[test]
        fn a_row_is_its_lanes(shift in 2u32..5, line in 0i32..5, begin in 0i32..32, before in any::<u32>(), again in any::<bool>()) {
            let first = begin << shift;
            let (mut whole, mut single) = (LaneWrites::default(), LaneWrites::default());
            for state in [&mut whole, &mut single] {
                state.note(3, 1, 9, before, None);
            }
            let interval = 2 - u32::from(again);
            let mut words = 0;
            for lane in 0..32i32 {
                for at in (first + (lane << shift)..first + ((lane + 1) << shift)).step_by(4) {
                    if at / 128 == line {
                        words |= 1 << (at % 128 / 4);
                        single.note(3, interval, lane as usize, 1 << (at % 128 / 4), None);
                    }
                }
            }
            prop_assume!(words != 0);
            whole.note_row(3, interval, words, line * 128 - first, shift);
            prop_assert_eq!(whole.words, single.words);
            for w in (0..32).filter(|w| single.words >> w & 1 == 1) {
                prop_assert_eq!(whole.lanes[w], single.lanes[w]);
            }
        }
    }
}
