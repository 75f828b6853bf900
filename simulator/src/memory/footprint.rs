//! Which bytes of device memory a launch touched, for the least traffic that it needs.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Sectors of a chunk: 1 MiB of memory.
const CHUNK: usize = 1 << 15;
/// Sectors of a block's page: 4 KiB.
const PAGE: usize = 128;

type Chunk = Box<[AtomicU32]>;

/// Bytes touched by any block of a launch, by allocation; filled from several threads.
#[derive(Debug, Default)]
pub(crate) struct Footprint {
    allocations: Vec<Vec<OnceLock<Chunk>>>,
}

impl Footprint {
    /// For allocations of `sizes` bytes.
    pub fn new(sizes: impl Iterator<Item = usize>) -> Self {
        let chunks = |size: usize| (0..size.div_ceil(32 * CHUNK)).map(|_| OnceLock::new()).collect();
        Footprint { allocations: sizes.map(chunks).collect() }
    }

    pub fn touch(&self, allocation: usize, sector: usize, mask: u32) {
        let chunk = self.allocations[allocation][sector / CHUNK]
            .get_or_init(|| (0..CHUNK).map(|_| AtomicU32::new(0)).collect());
        let word = &chunk[sector % CHUNK];
        if word.load(Relaxed) & mask != mask {
            word.fetch_or(mask, Relaxed);
        }
    }

    /// Sectors and bytes touched.
    pub fn totals(&self) -> (u64, u64) {
        let words = self.allocations.iter().flatten().filter_map(OnceLock::get).flat_map(|c| c.iter());
        words
            .map(|w| w.load(Relaxed))
            .filter(|&w| w != 0)
            .fold((0, 0), |(s, b), w| (s + 1, b + u64::from(w.count_ones())))
    }
}

/// Sectors that one block touched: what a first-level cache that forgets nothing would fetch.
#[derive(Debug, Default)]
pub(crate) struct BlockFootprint {
    pages: HashMap<(u32, u32), u128>,
    last: (u32, u32),
    bits: u128,
}

impl BlockFootprint {
    pub fn touch(&mut self, allocation: u32, sector: usize) {
        let key = (allocation, (sector / PAGE) as u32);
        if key != self.last {
            *self.pages.entry(self.last).or_insert(0) |= self.bits;
            self.bits = 0;
            self.last = key;
        }
        self.bits |= 1 << (sector % PAGE);
    }

    /// Sectors touched so far.
    pub fn sectors(mut self) -> u64 {
        *self.pages.entry(self.last).or_insert(0) |= self.bits;
        self.pages.values().map(|bits| u64::from(bits.count_ones())).sum()
    }
}
