//! Loads and stores: addresses of the lanes, their state space, and how bytes become registers.

use super::block::Block;
use super::machine::Machine;
use super::vector::Lanes;
use super::warp::Warp;
use super::{global, shared_access};
use crate::decode::{Access, NONE};
use crate::finding::Kind;
use crate::memory::{GENERIC_SHIFT, LOCAL_BASE, PARAM_BASE, SHARED_BASE};
use crate::parse::Space;

/// Addresses, or offsets in a state space, of all lanes.
pub(super) type Addresses = [u64; 32];

#[inline(always)]
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 == 1)
}

/// One access of one warp.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub access: &'a Access,
    pub pc: usize,
    pub mask: u32,
    pub addresses: &'a Addresses,
}

impl Request<'_> {
    /// Bytes a lane moves.
    pub fn bytes(&self) -> usize {
        usize::from(self.access.bytes) * usize::from(self.access.count)
    }

    pub fn with(&self, mask: u32) -> Self {
        Request { mask, ..*self }
    }

    /// Every lane takes part and follows its neighbour without a gap.
    pub fn is_contiguous(&self) -> bool {
        let (first, bytes) = (self.addresses[0], self.bytes() as u64);
        self.mask == u32::MAX && (0..32).all(|i| self.addresses[i] == first.wrapping_add(i as u64 * bytes))
    }

    /// All lanes that take part have one address.
    pub fn is_uniform(&self) -> bool {
        let first = self.addresses[self.mask.trailing_zeros() as usize & 31];
        lanes(self.mask).all(|i| self.addresses[i] == first)
    }
}

pub(super) fn addresses(w: &Warp, access: &Access) -> Addresses {
    let row = usize::from(access.address);
    let low = &w.rows[row];
    let mut out = [0; 32];
    if access.wide {
        let high = &w.rows[row + 1];
        for i in 0..32 {
            out[i] = (u64::from(low[i]) | u64::from(high[i]) << 32).wrapping_add(access.offset as u64);
        }
    } else {
        for i in 0..32 {
            out[i] = u64::from(low[i]).wrapping_add(access.offset as u64);
        }
    }
    out
}

/// Lanes whose accesses lie within `limit` bytes and are aligned; reports the others.
#[inline]
pub(super) fn within(m: &Machine, b: &mut Block, w: &Warp, r: &Request, limit: u64, base: u64) -> u32 {
    let bytes = r.bytes() as u64;
    // Most requests are right: the highest address and the low bits of all decide that at once.
    let any = r.addresses[r.mask.trailing_zeros() as usize & 31];
    let (mut highest, mut low_bits) = (0, 0);
    for i in 0..32 {
        let address = if r.mask >> i & 1 == 1 { r.addresses[i] } else { any };
        highest = address.max(highest);
        low_bits |= address;
    }
    if highest.checked_add(bytes).is_some_and(|end| end <= limit) && low_bits & (bytes - 1) == 0 {
        return r.mask;
    }
    faults(m, b, w, r, limit, base)
}

/// The lanes of a request that are right, when some are not.
#[cold]
fn faults(m: &Machine, b: &mut Block, w: &Warp, r: &Request, limit: u64, base: u64) -> u32 {
    let bytes = r.bytes() as u64;
    let (mut bad, mut crooked) = (0u32, 0u32);
    for i in 0..32 {
        let end = r.addresses[i].saturating_add(bytes);
        bad |= u32::from(end > limit) << i;
        crooked |= u32::from(r.addresses[i] & (bytes - 1) != 0) << i;
    }
    // Only sizes that are powers of two exist; others would not be aligned in this way.
    (bad, crooked) = (bad & r.mask, crooked & r.mask & !bad);
    if bad | crooked != 0 {
        let report = |kind, set: u32, b: &mut Block, text: &str| {
            if set != 0 {
                let lane = set.trailing_zeros();
                let address = base.wrapping_add(r.addresses[lane as usize]);
                let count = set.count_ones();
                b.report(m, kind, r.pc, w.id * 32 + lane, address, || {
                    format!("{bytes} bytes a lane; {count} lanes {text}")
                });
            }
        };
        report(Kind::OutOfBounds, bad, b, "leave the bounds");
        report(Kind::Misaligned, crooked, b, "are not aligned to that");
    }
    r.mask & !bad & !crooked
}

/// Fills the destination rows of a load; `fetch(lane, offset within the lane's bytes, bytes)` gives up to 4 bytes. Lanes of `zero` get 0.
#[inline(always)]
pub(super) fn gather(
    rows: &mut [Lanes],
    access: &Access,
    mask: u32,
    zero: u32,
    fetch: impl Fn(usize, usize, usize) -> u32,
) {
    let bytes = usize::from(access.bytes);
    let part = bytes.min(4);
    for (k, &row) in access.rows.iter().enumerate().filter(|(_, r)| **r != NONE) {
        let row = usize::from(row);
        let extend = |value: u32| {
            if access.signed && part < 4 {
                ((value << (32 - 8 * part)) as i32 >> (32 - 8 * part)) as u32
            } else {
                value
            }
        };
        if mask == u32::MAX {
            for lane in 0..32 {
                rows[row][lane] = extend(fetch(lane, k * bytes, part));
            }
        } else {
            lanes(mask).for_each(|lane| rows[row][lane] = extend(fetch(lane, k * bytes, part)));
        }
        lanes(zero).for_each(|lane| rows[row][lane] = 0);
        if bytes == 8 {
            lanes(mask).for_each(|lane| rows[row + 1][lane] = fetch(lane, k * bytes + 4, 4));
            lanes(zero).for_each(|lane| rows[row + 1][lane] = 0);
        } else if access.register_bits > 32 {
            for lane in lanes(mask | zero) {
                rows[row + 1][lane] = if access.signed { (rows[row][lane] as i32 >> 31) as u32 } else { 0 };
            }
        }
    }
}

/// Takes the source rows of a store apart; `put(lane, offset, bytes, value)` gets up to 4 bytes.
#[inline(always)]
pub(super) fn scatter(rows: &[Lanes], access: &Access, mask: u32, mut put: impl FnMut(usize, usize, usize, u32)) {
    let bytes = usize::from(access.bytes);
    for (k, &row) in access.rows.iter().enumerate() {
        let row = usize::from(row);
        for lane in lanes(mask) {
            put(lane, k * bytes, bytes.min(4), rows[row][lane]);
            if bytes == 8 {
                put(lane, k * bytes + 4, 4, rows[row + 1][lane]);
            }
        }
    }
}

/// Calls `f(window, lanes, offsets)` for each kind of memory that generic addresses name.
fn by_window(r: &Request, mut f: impl FnMut(u64, u32, &Addresses)) {
    let mut left = r.mask;
    while left != 0 {
        let window = |lane: usize| {
            (r.addresses[lane] >> GENERIC_SHIFT).min(PARAM_BASE / SHARED_BASE + 1)
                * u64::from(r.addresses[lane] >= SHARED_BASE)
        };
        let first = window(left.trailing_zeros() as usize);
        let group = lanes(left).filter(|&l| window(l) == first).fold(0u32, |all, l| all | 1 << l);
        left &= !group;
        let base = if (1..=3).contains(&first) { first << GENERIC_SHIFT } else { 0 };
        let mut offsets = *r.addresses;
        offsets.iter_mut().for_each(|o| *o = o.wrapping_sub(base));
        f(first, group, &offsets);
    }
}

pub(super) fn load<const CHECK: bool, const COUNT: bool>(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
    pc: usize,
    mask: u32,
) {
    let access = &m.code.accesses[m.code.instructions[pc].x as usize];
    let addresses = addresses(w, access);
    let request = Request { access, pc, mask, addresses: &addresses };
    if COUNT {
        let deeper = !matches!(access.space, Space::Shared | Space::Local | Space::Param | Space::Const);
        let depth = w.depth[usize::from(access.address)].saturating_add(u16::from(deeper));
        access.rows.iter().filter(|r| **r != NONE).for_each(|&r| w.depth[usize::from(r)] = depth);
    }
    match access.space {
        Space::Shared => shared_access::load::<CHECK, COUNT>(m, b, w, &request),
        Space::Global | Space::Const => global::load::<CHECK, COUNT>(m, b, w, &request),
        Space::Local => local_load::<CHECK, COUNT>(m, b, w, &request),
        Space::Param | Space::Generic => by_window(&request, |window, mask, offsets| {
            let part = Request { mask, addresses: offsets, ..request };
            match window {
                1 => shared_access::load::<CHECK, COUNT>(m, b, w, &part),
                2 => local_load::<CHECK, COUNT>(m, b, w, &part),
                3 => param_load(m, b, w, &part),
                _ => global::load::<CHECK, COUNT>(m, b, w, &part),
            }
        }),
    }
}

pub(super) fn store<const CHECK: bool, const COUNT: bool>(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
    pc: usize,
    mask: u32,
) {
    let access = &m.code.accesses[m.code.instructions[pc].x as usize];
    let addresses = addresses(w, access);
    let request = Request { access, pc, mask, addresses: &addresses };
    match access.space {
        Space::Shared => shared_access::store::<CHECK, COUNT>(m, b, w, &request),
        Space::Local => local_store::<CHECK, COUNT>(m, b, w, &request),
        Space::Generic => by_window(&request, |window, mask, offsets| {
            let part = Request { mask, addresses: offsets, ..request };
            match window {
                1 => shared_access::store::<CHECK, COUNT>(m, b, w, &part),
                2 => local_store::<CHECK, COUNT>(m, b, w, &part),
                3 => {
                    let lane = mask.trailing_zeros();
                    let address = PARAM_BASE + offsets[lane as usize];
                    b.report(m, Kind::ReadOnlyWrite, pc, w.id * 32 + lane, address, || {
                        "parameters are read-only".into()
                    });
                }
                _ => global::store::<CHECK, COUNT>(m, b, w, &part),
            }
        }),
        _ => global::store::<CHECK, COUNT>(m, b, w, &request),
    }
}

fn param_load(m: &Machine, b: &mut Block, w: &mut Warp, r: &Request) {
    let params = &m.launch.params;
    let ok = within(m, b, w, r, params.len() as u64, PARAM_BASE);
    gather(&mut w.rows, r.access, ok, r.mask & !ok, |lane, offset, bytes| {
        word(params, r.addresses[lane] as usize + offset, bytes)
    });
}

/// Up to 4 bytes, little-endian.
#[inline(always)]
pub(super) fn word(from: &[u8], at: usize, bytes: usize) -> u32 {
    match bytes {
        4 => {
            let mut word = [0u8; 4];
            word.copy_from_slice(&from[at..at + 4]);
            u32::from_le_bytes(word)
        }
        2 => u32::from(from[at]) | u32::from(from[at + 1]) << 8,
        _ => u32::from(from[at]),
    }
}

/// Where a lane's byte stands in the block's local memory.
fn local_at(m: &Machine, w: &Warp, r: &Request, lane: usize) -> usize {
    (w.id as usize * 32 + lane) * m.code.local_bytes as usize + r.addresses[lane] as usize
}

fn local_load<const CHECK: bool, const COUNT: bool>(m: &Machine, b: &mut Block, w: &mut Warp, r: &Request) {
    let ok = within(m, b, w, r, u64::from(m.code.local_bytes), LOCAL_BASE);
    if CHECK {
        let written = |lane: usize| b.local_written[local_at(m, w, r, lane)..][..r.bytes()].iter().all(|w| *w);
        if let Some(lane) = lanes(ok).find(|&l| !written(l)) {
            let address = LOCAL_BASE + r.addresses[lane];
            b.report(m, Kind::Uninitialised, r.pc, w.id * 32 + lane as u32, address, || {
                "local memory that the thread never wrote".into()
            });
        }
    }
    if COUNT && !r.access.call_param {
        b.counts.sums.local_bytes += u64::from(ok.count_ones()) * r.bytes() as u64;
    }
    let at: [usize; 32] = std::array::from_fn(|lane| if ok >> lane & 1 == 1 { local_at(m, w, r, lane) } else { 0 });
    gather(&mut w.rows, r.access, ok, r.mask & !ok, |lane, offset, bytes| word(&b.local, at[lane] + offset, bytes));
}

fn local_store<const CHECK: bool, const COUNT: bool>(m: &Machine, b: &mut Block, w: &mut Warp, r: &Request) {
    let ok = within(m, b, w, r, u64::from(m.code.local_bytes), LOCAL_BASE);
    if COUNT && !r.access.call_param {
        b.counts.sums.local_bytes += u64::from(ok.count_ones()) * r.bytes() as u64;
    }
    let at: [usize; 32] = std::array::from_fn(|lane| if ok >> lane & 1 == 1 { local_at(m, w, r, lane) } else { 0 });
    scatter(&w.rows, r.access, ok, |lane, offset, bytes, value| {
        b.local[at[lane] + offset..][..bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        if CHECK {
            b.local_written[at[lane] + offset..][..bytes].fill(true);
        }
    });
}
