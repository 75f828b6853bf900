//! Which block touched which bytes of device memory, to find races between the blocks of one launch.
//!
//! While a block runs it keeps its own log, a read and a write mask for each 32-byte sector. Logs are merged one after the other in a
//! fixed order, so that findings do not depend on how many threads ran the blocks. Two accesses race if they come from different blocks,
//! touch the same byte, one of them writes, and neither is ordered before the other by atomics and fences ([`Clock`]).

use std::collections::HashMap;

/// Sectors of a page: 4 KiB.
const PAGE: usize = 128;

/// What one block did to a sector; the site is `instruction << 10 | thread`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touch {
    pub read: u32,
    pub write: u32,
    pub read_site: u32,
    pub write_site: u32,
}

/// Allocation and page within it.
type PageKey = (u32, u32);

/// The accesses of one block, or of a block since its last synchronisation.
#[derive(Debug, Default)]
pub(crate) struct BlockLog {
    index: HashMap<PageKey, usize>,
    pages: Vec<(PageKey, Box<[Touch; PAGE]>)>,
    last: Option<(PageKey, usize)>,
}

impl BlockLog {
    fn page(&mut self, key: PageKey) -> &mut [Touch; PAGE] {
        let at = match self.last {
            Some((last, at)) if last == key => at,
            _ => {
                let pages = &mut self.pages;
                let at = *self.index.entry(key).or_insert_with(|| {
                    pages.push((key, Box::new([Touch::default(); PAGE])));
                    pages.len() - 1
                });
                self.last = Some((key, at));
                at
            }
        };
        &mut self.pages[at].1
    }

    pub fn read(&mut self, allocation: u32, sector: usize, mask: u32, site: u32) {
        let touch = &mut self.page((allocation, (sector / PAGE) as u32))[sector % PAGE];
        if touch.read == 0 {
            touch.read_site = site;
        }
        touch.read |= mask;
    }

    pub fn write(&mut self, allocation: u32, sector: usize, mask: u32, site: u32) {
        let touch = &mut self.page((allocation, (sector / PAGE) as u32))[sector % PAGE];
        if touch.write == 0 {
            touch.write_site = site;
        }
        touch.write |= mask;
    }

    /// Bytes of a sector that this log wrote.
    pub fn written(&self, allocation: u32, sector: usize) -> u32 {
        let key = (allocation, (sector / PAGE) as u32);
        self.index.get(&key).map_or(0, |&at| self.pages[at].1[sector % PAGE].write)
    }

    /// Every sector that was written: its allocation, its number, its bytes.
    pub fn writes(&self) -> impl Iterator<Item = (u32, usize, u32)> {
        self.pages.iter().flat_map(|((allocation, page), touches)| {
            let first = *page as usize * PAGE;
            let written = touches.iter().enumerate().filter(|(_, t)| t.write != 0);
            written.map(move |(at, touch)| (*allocation, first + at, touch.write))
        })
    }

    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}

/// A vector clock: for each block the latest of its epochs that is known to be over, 0 for none.
pub(crate) type Clock = HashMap<u32, u32>;

/// Takes the later of both entries.
pub(crate) fn join(into: &mut Clock, from: &Clock) {
    for (&block, &epoch) in from {
        let known = into.entry(block).or_insert(0);
        *known = (*known).max(epoch);
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    block: u32,
    epoch: u32,
    touch: Touch,
}

/// Two accesses that race.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Race {
    pub allocation: u32,
    pub offset: u64,
    /// Linear index and site of the block merged later.
    pub block: u32,
    pub site: u32,
    pub writes: bool,
    pub other_block: u32,
    pub other_site: u32,
    pub other_writes: bool,
}

/// All accesses of a launch so far.
#[derive(Debug, Default)]
pub(crate) struct History {
    sectors: HashMap<PageKey, Vec<Vec<Entry>>>,
}

impl History {
    /// Adds a log of `block` in `epoch`; `before` is what the block knew to be over. Calls `found` for each race.
    pub fn merge(&mut self, log: &mut BlockLog, block: u32, epoch: u32, before: &Clock, mut found: impl FnMut(Race)) {
        let mut pages = std::mem::take(&mut log.pages);
        log.index.clear();
        log.last = None;
        pages.sort_unstable_by_key(|(key, _)| *key);
        for (key, touches) in pages {
            let sectors = self.sectors.entry(key).or_insert_with(|| vec![Vec::new(); PAGE]);
            for (at, touch) in touches.iter().enumerate().filter(|(_, t)| t.read | t.write != 0) {
                let sector = key.1 as usize * PAGE + at;
                let entry = Entry { block, epoch, touch: *touch };
                merge_sector(&mut sectors[at], entry, before, |other, writes, other_writes, mask| {
                    found(Race {
                        allocation: key.0,
                        offset: sector as u64 * 32 + u64::from(mask.trailing_zeros()),
                        block,
                        site: if writes { touch.write_site } else { touch.read_site },
                        writes,
                        other_block: other.block,
                        other_site: if other_writes { other.touch.write_site } else { other.touch.read_site },
                        other_writes,
                    });
                });
            }
        }
    }
}

/// Compares the new entry with the old ones and drops of them what it makes redundant.
fn merge_sector(entries: &mut Vec<Entry>, new: Entry, before: &Clock, mut found: impl FnMut(&Entry, bool, bool, u32)) {
    let (mut read_once, mut read_twice, mut written) = (0u32, 0u32, 0u32);
    for old in entries.iter_mut() {
        let ordered = old.block == new.block || before.get(&old.block).is_some_and(|&known| known >= old.epoch);
        if ordered {
            // A later access that conflicts with the old one conflicts with the new one too, unless it is ordered after both.
            old.touch.write &= !new.touch.write;
            old.touch.read &= !(new.touch.write | new.touch.read);
            continue;
        }
        let both = old.touch.write & new.touch.write;
        let read_after = old.touch.write & new.touch.read;
        let write_after = old.touch.read & new.touch.write;
        match () {
            () if both != 0 => found(old, true, true, both),
            () if read_after != 0 => found(old, false, true, read_after),
            () if write_after != 0 => found(old, true, false, write_after),
            () => {}
        }
        read_twice |= read_once & old.touch.read;
        read_once |= old.touch.read;
        written |= old.touch.write;
    }
    entries.retain(|e| e.touch.read | e.touch.write != 0);
    let mut touch = new.touch;
    if before.is_empty() {
        // Without synchronisation two readers of a byte stand for all: any writer differs from one of them.
        touch.read &= !read_twice;
        touch.write &= !written;
    }
    if touch.read | touch.write != 0 {
        entries.push(Entry { touch, ..new });
    }
}
