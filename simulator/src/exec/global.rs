//! Device memory: loads and stores with their checks, sectors, and the order that fences and atomics make between blocks.

use super::block::Block;
use super::machine::Machine;
use super::memory_access::{Request, gather, lanes, scatter, within, word};
use super::warp::Warp;
use crate::decode::Ordering;
use crate::finding::Kind;
use crate::memory::history::{Clock, join};
use crate::memory::{Access, Allocation, FIRST_ALLOCATION, GENERIC_SHIFT};

const OFFSET: u64 = (1 << GENERIC_SHIFT) - 1;

/// Sectors that a request touches, with a mask of bytes each, in ascending order and without doubles.
pub(super) struct Sectors {
    list: [(u32, u32); 96],
    count: usize,
}

impl Sectors {
    pub fn of(r: &Request) -> Sectors {
        let mut sectors = Sectors { list: [(0, 0); 96], count: 0 };
        let bytes = r.bytes();
        if r.mask == 0 {
            return sectors;
        }
        if r.is_contiguous() {
            sectors.add(r.addresses[0] as usize, 32 * bytes);
            return sectors;
        }
        if r.is_uniform() {
            sectors.add(r.addresses[r.mask.trailing_zeros() as usize] as usize, bytes);
            return sectors;
        }
        lanes(r.mask).for_each(|lane| sectors.add(r.addresses[lane] as usize, bytes));
        sectors.tidy();
        sectors
    }

    fn add(&mut self, offset: usize, bytes: usize) {
        crate::memory::for_sectors(offset, bytes, |sector, mask| {
            let sector = sector as u32;
            match self.count.checked_sub(1) {
                Some(last) if self.list[last].0 == sector => self.list[last].1 |= mask,
                _ => {
                    self.list[self.count] = (sector, mask);
                    self.count += 1;
                }
            }
        });
    }

    fn tidy(&mut self) {
        let list = &mut self.list[..self.count];
        if list.windows(2).all(|p| p[0].0 < p[1].0) {
            return;
        }
        list.sort_unstable_by_key(|s| s.0);
        let mut kept = 0;
        for at in 1..self.count {
            if self.list[at].0 == self.list[kept].0 {
                self.list[kept].1 |= self.list[at].1;
            } else {
                kept += 1;
                self.list[kept] = self.list[at];
            }
        }
        self.count = kept + 1;
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, u32)> {
        self.list[..self.count].iter().map(|&(sector, mask)| (sector as usize, mask))
    }
}

/// Splits a request by allocation and calls `f(id, allocation, part)`; addresses in no allocation are reported.
#[inline]
pub(super) fn by_allocation(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
    r: &Request,
    mut f: impl FnMut(&mut Block, &mut Warp, u32, &Allocation, &Request),
) -> u32 {
    let (mut left, mut lost) = (r.mask, 0);
    let mut offsets = [0; 32];
    for i in 0..32 {
        offsets[i] = r.addresses[i] & OFFSET;
    }
    let first = r.addresses[r.mask.trailing_zeros() as usize & 31];
    let mut differ = 0;
    for i in 0..32 {
        differ |= if r.mask >> i & 1 == 1 { r.addresses[i] ^ first } else { 0 };
    }
    if let (true, Some(allocation)) =
        (differ >> GENERIC_SHIFT == 0, m.memory.allocation((first >> GENERIC_SHIFT) as u32))
    {
        f(b, w, (first >> GENERIC_SHIFT) as u32, allocation, &Request { addresses: &offsets, ..*r });
        return 0;
    }
    while left != 0 {
        let lane = left.trailing_zeros();
        let id = r.addresses[lane as usize] >> GENERIC_SHIFT;
        let mut group = 0;
        for i in 0..32 {
            group |= u32::from(r.addresses[i] >> GENERIC_SHIFT == id) << i;
        }
        group &= left;
        left &= !group;
        match m.memory.allocation(id as u32) {
            Some(allocation) => f(b, w, id as u32, allocation, &Request { mask: group, addresses: &offsets, ..*r }),
            None => {
                lost |= group;
                let address = r.addresses[lane as usize];
                let (bytes, count) = (r.bytes(), group.count_ones());
                b.report(m, Kind::OutOfBounds, r.pc, w.id * 32 + lane, address, || {
                    format!("{bytes} bytes a lane; {count} lanes leave the bounds")
                });
            }
        }
    }
    lost
}

fn site(w: &Warp, pc: usize, lane: u32) -> u32 {
    (pc as u32) << 10 | (w.id * 32 + lane) & 1023
}

/// Counts sectors and bytes of a request.
fn count(m: &Machine, b: &mut Block, id: u32, allocation: &Allocation, r: &Request, sectors: &Sectors, load: bool) {
    if r.mask == 0 {
        return;
    }
    let bytes = u64::from(r.mask.count_ones()) * r.bytes() as u64;
    let sums = &mut b.counts.sums;
    sums.global_requests += 1;
    sums.global_sectors += sectors.count as u64;
    sums.requested_bytes += bytes;
    if load && r.bytes() == 16 && r.mask == u32::MAX {
        sums.wide_load_requests += 1;
        sums.wide_load_sectors += sectors.count as u64;
    }
    if load && allocation.weights {
        sums.weight_bytes += bytes;
    }
    for (sector, mask) in sectors.iter() {
        m.footprint.touch((id - FIRST_ALLOCATION) as usize, sector, mask);
        b.footprint.touch(id, sector);
    }
}

/// Counts an atomic, which moves its sectors once.
pub(super) fn count_atomic(m: &Machine, b: &mut Block, id: u32, allocation: &Allocation, r: &Request) {
    count(m, b, id, allocation, r, &Sectors::of(r), false);
}

/// Checks what a load reads, and logs it for races.
fn check_load(m: &Machine, b: &mut Block, w: &Warp, id: u32, allocation: &Allocation, r: &Request, sectors: &Sectors) {
    let lane = r.mask.trailing_zeros();
    for (sector, mask) in sectors.iter() {
        let known = allocation.written_bits(sector);
        if known & mask != mask && (known | b.log.written(id, sector)) & mask != mask {
            let missing = mask & !known & !b.log.written(id, sector);
            let at = sector as u64 * 32 + u64::from(missing.trailing_zeros());
            let bytes = r.bytes() as u64;
            let lane = lanes(r.mask)
                .find(|&l| (r.addresses[l]..r.addresses[l] + bytes).contains(&at))
                .unwrap_or(lane as usize);
            let address = u64::from(id) << GENERIC_SHIFT | r.addresses[lane];
            b.report(m, Kind::Uninitialised, r.pc, w.id * 32 + lane as u32, address, || {
                format!("byte {at} was never written")
            });
        }
        if r.access.non_coherent && b.log.written(id, sector) & mask != 0 {
            let address = u64::from(id) << GENERIC_SHIFT | r.addresses[lane as usize];
            let text = || "a load through the non-coherent path of bytes that this launch wrote".into();
            b.report(m, Kind::GlobalRace, r.pc, w.id * 32 + lane, address, text);
        }
        if allocation.access == Access::ReadWrite && r.access.ordering == Ordering::Weak {
            b.log.read(id, sector, mask, site(w, r.pc, lane));
        }
    }
}

pub(super) fn load<const CHECK: bool, const COUNT: bool>(m: &Machine, b: &mut Block, w: &mut Warp, r: &Request) {
    if r.access.ordering != Ordering::Weak {
        acquire_lanes(m, b, r);
    }
    let lost = by_allocation(m, b, w, r, |b, w, id, allocation, r| {
        let ok = within(m, b, w, r, allocation.size as u64, u64::from(id) << GENERIC_SHIFT);
        let valid = r.with(ok);
        let checked = CHECK && (allocation.access == Access::ReadWrite || allocation.written.is_some());
        if checked || COUNT {
            let sectors = Sectors::of(&valid);
            if checked {
                check_load(m, b, w, id, allocation, &valid, &sectors);
            }
            if COUNT {
                count(m, b, id, allocation, &valid, &sectors, true);
            }
        }
        let zero = r.mask & !ok;
        match allocation.bytes() {
            Some(data) => gather(&mut w.rows, r.access, ok, zero, |lane, offset, bytes| {
                word(data, r.addresses[lane] as usize + offset, bytes)
            }),
            None => gather(&mut w.rows, r.access, ok, zero, |lane, offset, bytes| {
                allocation.load_part(r.addresses[lane] as usize + offset, bytes)
            }),
        }
    });
    gather(&mut w.rows, r.access, 0, lost, |_, _, _| 0);
}

pub(super) fn store<const CHECK: bool, const COUNT: bool>(m: &Machine, b: &mut Block, w: &mut Warp, r: &Request) {
    by_allocation(m, b, w, r, |b, w, id, allocation, r| {
        let ok = within(m, b, w, r, allocation.size as u64, u64::from(id) << GENERIC_SHIFT);
        let valid = r.with(ok);
        if !writable(m, b, w, id, allocation, &valid) {
            return;
        }
        if CHECK || COUNT {
            let sectors = Sectors::of(&valid);
            for (sector, mask) in sectors.iter().filter(|_| CHECK && r.access.ordering == Ordering::Weak) {
                b.log.write(id, sector, mask, site(w, r.pc, ok.trailing_zeros()));
            }
            if COUNT {
                count(m, b, id, allocation, &valid, &sectors, false);
            }
        }
        scatter(&w.rows, r.access, ok, |lane, offset, bytes, value| {
            allocation.store_part(r.addresses[lane] as usize + offset, bytes, value)
        });
        // While blocks run at the same time the log alone says what is written, so that findings do not depend on timing.
        if !CHECK || m.interleaved {
            lanes(ok).for_each(|lane| allocation.mark(r.addresses[lane] as usize, r.bytes()));
        }
    });
    if r.access.ordering != Ordering::Weak {
        lanes(r.mask).for_each(|lane| publish(m, b, r.addresses[lane], r.access.ordering));
    }
}

/// Whether kernels may write here; reports it if not.
pub(super) fn writable(m: &Machine, b: &mut Block, w: &Warp, id: u32, allocation: &Allocation, r: &Request) -> bool {
    let allowed = allocation.access == Access::ReadWrite;
    if !allowed && r.mask != 0 {
        let lane = r.mask.trailing_zeros();
        let address = u64::from(id) << GENERIC_SHIFT | r.addresses[lane as usize];
        b.report(m, Kind::ReadOnlyWrite, r.pc, w.id * 32 + lane, address, || "the write was dropped".into());
    }
    allowed
}

fn orders(m: &Machine) -> bool {
    m.options.checks && m.interleaved
}

/// Learns what the writers of these addresses published.
pub(super) fn acquire_lanes(m: &Machine, b: &mut Block, r: &Request) {
    if !orders(m) {
        return;
    }
    let mut last = None;
    for lane in lanes(r.mask) {
        if last != Some(r.addresses[lane]) {
            last = Some(r.addresses[lane]);
            acquire(m, b, r.addresses[lane], r.access.ordering);
        }
    }
}

pub(super) fn acquire(m: &Machine, b: &mut Block, address: u64, ordering: Ordering) {
    let learned = {
        let shared = m.synchronisation.lock().unwrap_or_else(|e| e.into_inner());
        shared.locations.get(&address).cloned()
    };
    let Some(learned) = learned else { return };
    if matches!(ordering, Ordering::Acquire | Ordering::AcquireRelease) {
        m.merge(&mut b.log, b.linear, b.epoch, &b.clock);
        join(&mut b.clock, &learned);
    } else {
        join(&mut b.pending, &learned);
    }
}

/// Publishes at an address what this block did: all of it for a release, up to its last fence otherwise.
pub(super) fn publish(m: &Machine, b: &mut Block, address: u64, ordering: Ordering) {
    if !orders(m) {
        return;
    }
    if matches!(ordering, Ordering::Release | Ordering::AcquireRelease) {
        end_epoch(m, b);
    }
    if let Some(released) = &b.released {
        let mut shared = m.synchronisation.lock().unwrap_or_else(|e| e.into_inner());
        join(shared.locations.entry(address).or_default(), released);
    }
}

/// What came before is now known as one epoch of this block, ready to be published.
fn end_epoch(m: &Machine, b: &mut Block) {
    m.merge(&mut b.log, b.linear, b.epoch, &b.clock);
    let mut released: Clock = b.clock.clone();
    released.insert(b.linear, b.epoch);
    b.released = Some(released);
    b.epoch += 1;
}

/// A fence makes earlier relaxed reads acquire, and later relaxed writes release.
pub(super) fn fence(m: &Machine, b: &mut Block, device: bool) {
    if !device || !orders(m) {
        return;
    }
    m.merge(&mut b.log, b.linear, b.epoch, &b.clock);
    let pending = std::mem::take(&mut b.pending);
    join(&mut b.clock, &pending);
    end_epoch(m, b);
}

/// Reads up to 16 bytes a lane, as the source of a copy.
pub(super) fn fetch<const CHECK: bool, const COUNT: bool>(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
    r: &Request,
) -> Vec<[u8; 16]> {
    let mut data = vec![[0u8; 16]; 32];
    by_allocation(m, b, w, r, |b, w, id, allocation, r| {
        let ok = within(m, b, w, r, allocation.size as u64, u64::from(id) << GENERIC_SHIFT);
        let valid = r.with(ok);
        let checked = CHECK && (allocation.access == Access::ReadWrite || allocation.written.is_some());
        if checked || COUNT {
            let sectors = Sectors::of(&valid);
            if checked {
                check_load(m, b, w, id, allocation, &valid, &sectors);
            }
            if COUNT {
                count(m, b, id, allocation, &valid, &sectors, true);
            }
        }
        for lane in lanes(ok) {
            allocation.host_read(r.addresses[lane] as usize, &mut data[lane][..r.bytes()]);
        }
    });
    data
}
