//! What a launch cost: counted while it ran, independent of the number of threads that simulated it.

use std::collections::BTreeMap;

/// Counters of one launch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Instructions executed by warps.
    pub warp_instructions: u64,
    /// The same, each counted once for every lane that took part.
    pub lane_instructions: u64,
    /// Warp instructions by opcode, all modifiers included.
    pub mix: BTreeMap<String, u64>,
    /// Load and store instructions (of a warp) that went to device memory.
    pub global_requests: u64,
    /// 32-byte sectors they touched.
    pub global_sectors: u64,
    /// The same for loads of whole 128 bits a lane.
    pub wide_load_requests: u64,
    /// Sectors of those.
    pub wide_load_sectors: u64,
    /// Bytes that lanes asked of device memory.
    pub requested_bytes: u64,
    /// Bytes in sectors that each block touched, counted once a block: traffic behind a first-level cache that forgets nothing.
    pub l2_bytes: u64,
    /// Bytes in sectors that the launch touched, counted once: traffic behind a second-level cache that forgets nothing.
    pub dram_bytes: u64,
    /// Bytes that the launch touched, counted once: the least that must move.
    pub minimum_bytes: u64,
    /// Bytes read from allocations marked as weights, as lanes asked for them.
    pub weight_bytes: u64,
    /// Bytes asked of local memory; more than 0 means spills or indexed arrays.
    pub local_bytes: u64,
    /// Bytes asked of shared memory.
    pub shared_bytes: u64,
    /// Instructions (of a warp) that accessed shared memory.
    pub shared_requests: u64,
    /// Passes that the banks of shared memory needed.
    pub shared_wavefronts: u64,
    /// Passes beyond the least for the bytes asked.
    pub bank_conflicts: u64,
    /// Barriers of a whole block that blocks passed, summed over blocks.
    pub barriers: u64,
    /// Blocks of the launch.
    pub blocks: u64,
    /// The longest chain of loads from device memory, each of whose addresses depends on the one before, through registers.
    pub dependent_load_depth: u32,
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

impl Counters {
    /// Share of lanes that took part in an instruction, 0 to 1.
    pub fn active_lane_share(&self) -> f64 {
        ratio(self.lane_instructions, self.warp_instructions * 32)
    }

    /// Sectors an access of a warp to device memory touched on average: 4 for 32 neighbouring words, 16 for 128 bits a lane.
    pub fn sectors_per_request(&self) -> f64 {
        ratio(self.global_sectors, self.global_requests)
    }

    /// Sectors a load of 128 bits a lane touched on average; 16 is the best.
    pub fn sectors_per_wide_load(&self) -> f64 {
        ratio(self.wide_load_sectors, self.wide_load_requests)
    }

    /// Bytes of sectors fetched by requests (`32 × global_sectors`) over those needed.
    pub fn l1_ratio(&self) -> f64 {
        ratio(self.global_sectors * 32, self.minimum_bytes)
    }

    /// Bytes past first-level caches over those needed.
    pub fn l2_ratio(&self) -> f64 {
        ratio(self.l2_bytes, self.minimum_bytes)
    }

    /// Bytes moved from device memory over the minimum; 1 means that every sector was used whole.
    pub fn dram_ratio(&self) -> f64 {
        ratio(self.dram_bytes, self.minimum_bytes)
    }

    /// Lane instructions per byte of weights read; 0 if nothing is marked as weights.
    pub fn instructions_per_weight_byte(&self) -> f64 {
        ratio(self.lane_instructions, self.weight_bytes)
    }

    /// Barriers a block passed on average.
    pub fn barriers_per_block(&self) -> f64 {
        ratio(self.barriers, self.blocks)
    }

    /// Share of warp instructions whose opcode starts with `prefix`, such as `mma`.
    pub fn share_of(&self, prefix: &str) -> f64 {
        let matching = self.mix.iter().filter(|(opcode, _)| opcode.starts_with(prefix)).map(|(_, n)| n).sum();
        ratio(matching, self.warp_instructions)
    }
}

/// Counts of one block, added up afterwards.
#[derive(Debug, Default)]
pub(crate) struct BlockCounts {
    /// By instruction.
    pub executions: Vec<u64>,
    pub lanes: Vec<u64>,
    /// The sums; fields that derive from the vectors above stay 0.
    pub sums: Counters,
}

impl BlockCounts {
    pub fn new(instructions: usize) -> Self {
        BlockCounts { executions: vec![0; instructions], lanes: vec![0; instructions], sums: Counters::default() }
    }

    pub fn add(&mut self, other: &BlockCounts) {
        self.executions.iter_mut().zip(&other.executions).for_each(|(a, b)| *a += b);
        self.lanes.iter_mut().zip(&other.lanes).for_each(|(a, b)| *a += b);
        let (a, b) = (&mut self.sums, &other.sums);
        a.global_requests += b.global_requests;
        a.global_sectors += b.global_sectors;
        a.wide_load_requests += b.wide_load_requests;
        a.wide_load_sectors += b.wide_load_sectors;
        a.requested_bytes += b.requested_bytes;
        a.l2_bytes += b.l2_bytes;
        a.weight_bytes += b.weight_bytes;
        a.local_bytes += b.local_bytes;
        a.shared_bytes += b.shared_bytes;
        a.shared_requests += b.shared_requests;
        a.shared_wavefronts += b.shared_wavefronts;
        a.bank_conflicts += b.bank_conflicts;
        a.barriers += b.barriers;
        a.blocks += b.blocks;
        a.dependent_load_depth = a.dependent_load_depth.max(b.dependent_load_depth);
    }
}

/// End of a chain in [`wavefronts`].
const NOBODY: u8 = u8::MAX;

/// Passes that 32 banks of 4 bytes need for the lanes of `mask` at `offsets`, `bytes` (4, 8 or 16, or less than 4) a lane, and the
/// fewest possible. Accesses of 8 bytes are served in halves of the warp, of 16 bytes in quarters.
pub(crate) fn wavefronts(offsets: &[u64; 32], mask: u32, bytes: usize) -> (u64, u64) {
    let lanes_at_once = match bytes {
        ..=4 => 32,
        8 => 16,
        _ => 8,
    };
    let (mut passes, mut fewest) = (0, 0);
    for first in (0..32).step_by(lanes_at_once) {
        // Different words of a bank are chained; a word asked for twice is served once.
        let (mut words, mut next) = ([0u64; 32], [NOBODY; 32]);
        let (mut heads, mut counts) = ([NOBODY; 32], [0u8; 32]);
        let mut used = 0;
        for lane in (first..first + lanes_at_once).filter(|l| mask >> l & 1 == 1) {
            for word in 0..bytes.div_ceil(4) as u64 {
                let address = offsets[lane] / 4 + word;
                let bank = (address % 32) as usize;
                let mut at = heads[bank];
                while at != NOBODY && words[usize::from(at)] != address {
                    at = next[usize::from(at)];
                }
                if at == NOBODY {
                    (words[used], next[used]) = (address, heads[bank]);
                    heads[bank] = used as u8;
                    counts[bank] += 1;
                    used += 1;
                }
            }
        }
        let most = counts.into_iter().max().unwrap_or(0);
        passes += u64::from(most);
        fewest += u64::from(most > 0);
    }
    (passes, fewest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(f: impl Fn(u64) -> u64) -> [u64; 32] {
        std::array::from_fn(|i| f(i as u64))
    }

    #[test]
    fn neighbouring_words_and_broadcasts_take_one_pass() {
        assert_eq!(wavefronts(&lanes(|i| i * 4), u32::MAX, 4), (1, 1));
        assert_eq!(wavefronts(&lanes(|_| 64), u32::MAX, 4), (1, 1));
        assert_eq!(wavefronts(&lanes(|i| i * 16), u32::MAX, 16), (4, 4));
    }

    #[test]
    fn strides_of_a_row_conflict() {
        assert_eq!(wavefronts(&lanes(|i| i * 128), u32::MAX, 4), (32, 1));
        assert_eq!(wavefronts(&lanes(|i| i * 128), u32::MAX, 16), (32, 4));
        assert_eq!(wavefronts(&lanes(|i| i * 8), u32::MAX, 4), (2, 1));
    }
}
