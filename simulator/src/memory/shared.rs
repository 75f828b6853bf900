//! What is known of a block's shared memory: which bytes were written, which are the target of a copy in flight, and which warps read or
//! wrote each word since they last met the others.
//!
//! A race is a pair of accesses to one word by different warps, one a write, with no barrier between them. Every warp has a vector clock
//! that barriers join, so a race is found whatever order the warps run in. State is kept for lines of 32 words; a line whose last
//! conflict lies before the last barrier of the whole block is passed in a few instructions.
//!
//! Lanes of a warp race too: what a lane wrote, another may read after a barrier of the warp or block alone ([`LaneWrites`]). Of each line
//! the writes of the last warp that wrote to it are known by lane, which misses some of such races and invents none.
//!
//! Most reads are right. So a warp keeps of each line the words that it may read as things are (`Seen::clean`); whoever writes to the line
//! takes that back. A read of such words is noted and nothing else.

use super::lane_writes::LaneWrites;

/// Bytes of a line.
pub(crate) const LINE: usize = 128;

/// What is wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedFault {
    Uninitialised,
    InFlight,
    /// The other warp and whether it wrote.
    Race {
        warp: u32,
        wrote: bool,
    },
    /// The other lane of the same warp, which wrote.
    LaneRace {
        lane: u32,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// Words written whole.
    words: u32,
    /// Bytes written, of words written in part.
    bytes: u128,
    in_flight: u32,
    /// Block-wide barriers passed when `readers` and `writers` were last cleared.
    tick: u32,
    readers: u32,
    writers: u32,
    /// Warps with words in `Seen::clean`.
    clean_for: u32,
}

/// A warp's accesses to a line while its own clock stood at `clock`.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    words: u32,
    clock: u32,
    /// Of reads: words that nothing forbids this warp to read until it meets others or somebody writes to the line.
    clean: u32,
}

/// Shadow of one block's shared memory.
#[derive(Debug)]
pub(crate) struct Shadow {
    warps: usize,
    lines: Vec<Line>,
    /// By warp, then by line; so are `writes`.
    reads: Vec<Seen>,
    writes: Vec<Seen>,
    /// `clocks[w][v]`: the last clock of warp v that warp w knows to be over; `clocks[w][w]` is w's own.
    clocks: Vec<Vec<u32>>,
    tick: u32,
    lane_writes: Vec<LaneWrites>,
    /// By warp, counted from 1: barriers of its own, of the block, and waits at an mbarrier.
    intervals: Vec<u32>,
}

impl Shadow {
    pub fn new(bytes: usize, warps: usize) -> Shadow {
        let lines = bytes.div_ceil(LINE);
        let clocks = (0..warps).map(|w| (0..warps).map(|v| u32::from(v == w)).collect()).collect();
        let seen = vec![Seen::default(); lines * warps];
        let lane_writes = vec![LaneWrites::default(); lines];
        let (lines, intervals) = (vec![Line::default(); lines], vec![1; warps]);
        Shadow { warps, lines, reads: seen.clone(), writes: seen, clocks, tick: 1, lane_writes, intervals }
    }

    /// The lanes of a warp met.
    pub fn warp_barrier(&mut self, warp: usize) {
        self.intervals[warp] += 1;
    }

    /// Notes which lane writes words of a line, or the bytes `part` of them.
    #[inline]
    pub fn note_lane(&mut self, warp: usize, lane: usize, line: usize, words: u32, part: Option<u128>) {
        self.spoil(line);
        self.lane_writes[line].note(warp as u32, self.intervals[warp], lane, words, part);
    }

    /// Notes that all lanes write one after the other, `bytes` each, a multiple of 4, from `first` on; of that the words of this line.
    #[inline]
    pub fn note_row(&mut self, warp: usize, line: usize, words: u32, first: usize, bytes: usize) {
        self.spoil(line);
        let from = (line * LINE) as i32 - first as i32;
        self.lane_writes[line].note_row(warp as u32, self.intervals[warp], words, from, bytes.trailing_zeros());
    }

    /// Whether one of these bytes was written by a lane other than the reader since the warp's last barrier; without a reader, by any.
    #[inline]
    pub fn lane_race(
        &self,
        warp: usize,
        lane: Option<usize>,
        line: usize,
        words: u32,
        part: Option<u128>,
    ) -> Option<SharedFault> {
        let state = &self.lane_writes[line];
        if state.words_of(warp as u32, self.intervals[warp]) & words == 0 {
            return None;
        }
        state.other_writer(lane, words, part).map(|lane| SharedFault::LaneRace { lane })
    }

    /// Something about a line changes: what was known to be fine there no longer is.
    #[inline(always)]
    fn spoil(&mut self, line: usize) {
        let mut warps = std::mem::take(&mut self.lines[line].clean_for);
        while warps != 0 {
            let at = self.at(warps.trailing_zeros() as usize, line);
            self.reads[at].clean = 0;
            warps &= warps - 1;
        }
    }

    /// Where `reads` and `writes` have a warp's accesses to a line.
    #[inline(always)]
    fn at(&self, warp: usize, line: usize) -> usize {
        warp * self.lines.len() + line
    }

    /// The warps of `mask` met at a barrier; `whole` if they are all warps of the block that still run.
    pub fn barrier(&mut self, mask: u32, whole: bool) {
        let members: Vec<usize> = (0..self.warps).filter(|w| mask >> w & 1 == 1).collect();
        let mut joined = vec![0; self.warps];
        for &w in &members {
            joined.iter_mut().zip(&self.clocks[w]).for_each(|(j, c)| *j = (*j).max(*c));
        }
        for &w in &members {
            self.clocks[w].copy_from_slice(&joined);
            self.clocks[w][w] += 1;
            self.intervals[w] += 1;
        }
        if whole {
            self.tick += 1;
        }
    }

    /// What `warp` knows, for another to learn through an mbarrier; its own clock moves on.
    pub fn release(&mut self, warp: usize, into: &mut Vec<u32>) {
        into.resize(self.warps, 0);
        into.iter_mut().zip(&self.clocks[warp]).for_each(|(j, c)| *j = (*j).max(*c));
        self.clocks[warp][warp] += 1;
    }

    pub fn acquire(&mut self, warp: usize, from: &[u32]) {
        let own = self.clocks[warp][warp];
        self.clocks[warp].iter_mut().zip(from).for_each(|(c, f)| *c = (*c).max(*f));
        self.clocks[warp][warp] = own;
        self.warp_barrier(warp);
    }

    #[inline]
    fn line(&mut self, line: usize) -> &mut Line {
        let tick = self.tick;
        let line = &mut self.lines[line];
        if line.tick != tick {
            (line.tick, line.readers, line.writers) = (tick, 0, 0);
        }
        line
    }

    /// For reads of one warp that are expected to be right.
    #[inline]
    pub fn reader(&mut self, warp: usize) -> Reader<'_> {
        let (clock, interval) = (self.clocks[warp][warp], self.intervals[warp]);
        let reads = &mut self.reads[warp * self.lines.len()..][..self.lines.len()];
        Reader { lines: &mut self.lines, reads, lane_writes: &self.lane_writes, interval, warp, clock, tick: self.tick }
    }

    /// Notes a read of words of a line; `part` gives the bytes if they are no whole words.
    #[inline]
    pub fn read(&mut self, warp: usize, line: usize, words: u32, part: Option<u128>) -> Option<SharedFault> {
        let state = self.line(line);
        let written = match part {
            None => state.words & words == words,
            Some(bytes) => state.words & words == words || covered(state, bytes),
        };
        if state.in_flight & words != 0 {
            return Some(SharedFault::InFlight);
        }
        if !written {
            return Some(SharedFault::Uninitialised);
        }
        let others = state.writers & !(1 << warp);
        state.readers |= 1 << warp;
        let fault = if others != 0 { self.conflict(warp, line, words, others, true) } else { None };
        let own = self.clocks[warp][warp];
        let at = self.at(warp, line);
        note(&mut self.reads[at], words, own);
        fault
    }

    /// Notes a write of words of a line.
    #[inline]
    pub fn write(&mut self, warp: usize, line: usize, words: u32, part: Option<u128>) -> Option<SharedFault> {
        self.spoil(line);
        let state = self.line(line);
        match part {
            None => state.words |= words,
            Some(bytes) => complete(state, bytes),
        }
        if state.in_flight & words != 0 {
            return Some(SharedFault::InFlight);
        }
        self.note_write(warp, line, words)
    }

    fn note_write(&mut self, warp: usize, line: usize, words: u32) -> Option<SharedFault> {
        let state = self.line(line);
        let (writers, readers) = (state.writers & !(1 << warp), state.readers & !(1 << warp));
        state.writers |= 1 << warp;
        let mut fault = None;
        if writers != 0 {
            fault = self.conflict(warp, line, words, writers, true);
        }
        if readers != 0 && fault.is_none() {
            fault = self.conflict(warp, line, words, readers, false);
        }
        let own = self.clocks[warp][warp];
        let at = self.at(warp, line);
        note(&mut self.writes[at], words, own);
        fault
    }

    /// A copy into these words was issued: it may write from now on.
    pub fn issue(&mut self, warp: usize, line: usize, words: u32) -> Option<SharedFault> {
        self.spoil(line);
        let state = self.line(line);
        let fault = (state.in_flight & words != 0).then_some(SharedFault::InFlight);
        state.in_flight |= words;
        let race = self.note_write(warp, line, words);
        fault.or(race)
    }

    /// The copy into these words has landed.
    pub fn land(&mut self, warp: usize, line: usize, words: u32) {
        self.spoil(line);
        let state = self.line(line);
        state.in_flight &= !words;
        state.words |= words;
        // Any race was reported when the copy was issued.
        self.note_write(warp, line, words);
    }

    /// Marks bytes as written without a check: atomics order themselves.
    pub fn mark(&mut self, line: usize, words: u32) {
        self.lines[line].words |= words;
    }

    pub fn is_written(&self, line: usize, words: u32) -> bool {
        self.lines[line].words & words == words
    }

    /// The first of the warps `others` whose last accesses touch these words and are not known to be over.
    #[cold]
    fn conflict(&self, warp: usize, line: usize, words: u32, others: u32, wrote: bool) -> Option<SharedFault> {
        let table = if wrote { &self.writes } else { &self.reads };
        (0..self.warps).filter(|w| others >> w & 1 == 1).find_map(|other| {
            let seen = table[self.at(other, line)];
            let over = self.clocks[warp][other] >= seen.clock;
            (!over && seen.words & words != 0).then_some(SharedFault::Race { warp: other as u32, wrote })
        })
    }
}

/// See [`Shadow::reader`].
pub(crate) struct Reader<'a> {
    lines: &'a mut [Line],
    /// Of this warp alone.
    reads: &'a mut [Seen],
    lane_writes: &'a [LaneWrites],
    interval: u32,
    warp: usize,
    clock: u32,
    tick: u32,
}

impl Reader<'_> {
    /// Notes a read of whole words; false if it may be wrong, so that [`Shadow::read`] must look.
    #[inline(always)]
    pub fn read(&mut self, line: usize, words: u32) -> bool {
        let seen = &mut self.reads[line];
        if seen.clock == self.clock && words & !seen.clean == 0 {
            seen.words |= words;
            return true;
        }
        self.look(line, words)
    }

    /// Finds anew which words of a line are clean.
    fn look(&mut self, line: usize, words: u32) -> bool {
        let seen = &mut self.reads[line];
        note(seen, words, self.clock);
        let state = &mut self.lines[line];
        if state.tick != self.tick {
            (state.tick, state.readers, state.writers) = (self.tick, 0, 0);
        }
        let me = 1 << self.warp;
        state.readers |= me;
        let own = self.lane_writes[line].words_of(self.warp as u32, self.interval);
        seen.clean = if state.writers & !me == 0 { state.words & !state.in_flight & !own } else { 0 };
        state.clean_for |= me;
        words & !seen.clean == 0
    }
}

#[inline(always)]
fn note(seen: &mut Seen, words: u32, clock: u32) {
    if seen.clock != clock {
        *seen = Seen { words, clock, clean: 0 };
    } else {
        seen.words |= words;
    }
}

/// The bytes of a word in a line.
pub(super) fn spread(word: u32) -> u128 {
    15 << (4 * word)
}

/// Whether all of `bytes` were written, in whole words or in part.
fn covered(line: &Line, bytes: u128) -> bool {
    (0..32).all(|w| line.words >> w & 1 == 1 || bytes & spread(w) & !line.bytes == 0)
}

fn complete(line: &mut Line, bytes: u128) {
    line.bytes |= bytes;
    for w in (0..32).filter(|&w| bytes & spread(w) != 0) {
        if line.bytes & spread(w) == spread(w) {
            line.words |= 1 << w;
        }
    }
}

/// Splits bytes `offset..offset + bytes` into lines: `f(line, words, part)`, where `part` is set for ranges that are no whole words.
#[inline]
pub(crate) fn for_lines(offset: usize, bytes: usize, mut f: impl FnMut(usize, u32, Option<u128>)) {
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let line = at / LINE;
        let stop = end.min((line + 1) * LINE);
        let (from, to) = (at % LINE, (stop - 1) % LINE + 1);
        let words = super::allocation::bit_range(from / 4, to.div_ceil(4));
        let part = (from % 4 != 0 || to % 4 != 0).then(|| (u128::MAX >> (128 - (to - from))) << from);
        f(line, words, part);
        at = stop;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_write_and_a_read_race_until_a_barrier() {
        let mut shadow = Shadow::new(256, 2);
        assert_eq!(shadow.write(0, 0, 1, None), None);
        assert_eq!(shadow.read(1, 0, 1, None), Some(SharedFault::Race { warp: 0, wrote: true }));
        shadow.barrier(3, true);
        assert_eq!(shadow.read(1, 0, 1, None), None);
        assert_eq!(shadow.write(0, 0, 1, None), Some(SharedFault::Race { warp: 1, wrote: false }));
        assert_eq!(shadow.write(0, 0, 2, None), None);
    }

    #[test]
    fn a_barrier_of_some_warps_orders_only_them() {
        let mut shadow = Shadow::new(128, 3);
        shadow.write(0, 0, 1, None);
        shadow.barrier(0b011, false);
        assert_eq!(shadow.read(1, 0, 1, None), None);
        assert_eq!(shadow.read(2, 0, 1, None), Some(SharedFault::Race { warp: 0, wrote: true }));
    }

    #[test]
    fn lanes_race_until_a_barrier_of_their_warp() {
        let mut shadow = Shadow::new(256, 2);
        shadow.note_lane(0, 3, 1, 0b110, None);
        assert_eq!(shadow.lane_race(0, Some(3), 1, 0b110, None), None);
        assert_eq!(shadow.lane_race(0, Some(2), 1, 0b010, None), Some(SharedFault::LaneRace { lane: 3 }));
        assert_eq!(shadow.lane_race(0, None, 1, 0b100, None), Some(SharedFault::LaneRace { lane: 3 }));
        assert_eq!(shadow.lane_race(0, Some(2), 1, 0b001, None), None);
        assert_eq!(shadow.lane_race(0, Some(2), 0, 0b010, None), None);
        assert_eq!(shadow.lane_race(1, Some(2), 1, 0b010, None), None);
        shadow.warp_barrier(1);
        assert!(shadow.lane_race(0, Some(2), 1, 0b010, None).is_some());
        shadow.warp_barrier(0);
        assert_eq!(shadow.lane_race(0, Some(2), 1, 0b010, None), None);
    }

    #[test]
    fn bytes_make_a_word() {
        let mut shadow = Shadow::new(128, 1);
        for byte in 0..4 {
            assert_eq!(shadow.read(0, 0, 1, None), Some(SharedFault::Uninitialised));
            assert_eq!(shadow.write(0, 0, 1, Some(1 << byte)), None);
        }
        assert_eq!(shadow.read(0, 0, 1, None), None);
    }

    #[test]
    fn copies_are_in_flight_until_they_land() {
        let mut shadow = Shadow::new(128, 1);
        assert_eq!(shadow.issue(0, 0, 15), None);
        shadow.mark(0, 15);
        assert_eq!(shadow.read(0, 0, 1, None), Some(SharedFault::InFlight));
        shadow.land(0, 0, 15);
        assert_eq!(shadow.read(0, 0, 1, None), None);
    }

    /// Something that warps do to two lines of shared memory.
    #[derive(Clone, Copy, Debug)]
    enum Deed {
        Read(usize, usize, u32),
        Write(usize, usize, u32, usize),
        Row(usize, usize),
        Issue(usize, usize, u32),
        Land(usize, usize, u32),
        WarpBarrier(usize),
        Barrier(u32),
    }

    const WARPS: usize = 3;

    fn deed() -> impl Strategy<Value = Deed> {
        let place =
            || (0..WARPS, 0usize..2, prop_oneof![Just(u32::MAX), any::<u32>(), (0u32..32).prop_map(|w| 1 << w)]);
        prop_oneof![
            6 => place().prop_map(|(warp, line, words)| Deed::Read(warp, line, words)),
            3 => (place(), 0usize..32).prop_map(|((warp, line, words), lane)| Deed::Write(warp, line, words, lane)),
            2 => place().prop_map(|(warp, line, _)| Deed::Row(warp, line)),
            1 => place().prop_map(|(warp, line, words)| Deed::Issue(warp, line, words)),
            1 => place().prop_map(|(warp, line, words)| Deed::Land(warp, line, words)),
            1 => (0..WARPS).prop_map(Deed::WarpBarrier),
            3 => prop_oneof![Just((1u32 << WARPS) - 1), 1u32..1 << WARPS].prop_map(Deed::Barrier),
        ]
    }

    /// Does it, and gives what is wrong with it. Unless `quick`, nothing is kept of lines and each read is looked at closely.
    fn fault(shadow: &mut Shadow, deed: Deed, quick: bool) -> Option<SharedFault> {
        match deed {
            Deed::Read(warp, line, words) => {
                if !quick {
                    shadow.spoil(line);
                }
                if shadow.reader(warp).read(line, words) && quick {
                    return None;
                }
                let lanes = shadow.lane_race(warp, None, line, words, None);
                lanes.or(shadow.read(warp, line, words, None))
            }
            Deed::Write(warp, line, words, lane) => {
                shadow.note_lane(warp, lane, line, words, None);
                shadow.write(warp, line, words, None)
            }
            Deed::Row(warp, line) => {
                shadow.note_row(warp, line, u32::MAX, line * LINE, 4);
                shadow.write(warp, line, u32::MAX, None)
            }
            Deed::Issue(warp, line, words) => shadow.issue(warp, line, words),
            Deed::Land(warp, line, words) => {
                shadow.land(warp, line, words);
                None
            }
            Deed::WarpBarrier(warp) => {
                shadow.warp_barrier(warp);
                None
            }
            Deed::Barrier(mask) => {
                shadow.barrier(mask, mask == (1 << WARPS) - 1);
                None
            }
        }
    }

    proptest! {
        /// What a warp keeps of lines that it may read hides no fault, of its reads or of later writes.
        #[test]
        fn quick_reads_find_what_close_ones_find(deeds in prop::collection::vec(deed(), 1..60)) {
            let (mut quick, mut close) = (Shadow::new(256, WARPS), Shadow::new(256, WARPS));
            for (at, deed) in deeds.into_iter().enumerate() {
                let faults = (fault(&mut quick, deed, true), fault(&mut close, deed, false));
                prop_assert_eq!(faults.0, faults.1, "deed {}: {:?}", at, deed);
            }
        }
    }
}
