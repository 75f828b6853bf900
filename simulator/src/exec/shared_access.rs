//! Shared memory: loads and stores with their checks and bank conflicts.

use super::block::Block;
use super::machine::Machine;
use super::memory_access::{Request, gather, lanes, scatter, within, word};
use super::warp::Warp;
use crate::counters::wavefronts;
use crate::finding::Kind;
use crate::memory::SHARED_BASE;
use crate::memory::shared::{LINE, Shadow, SharedFault, for_lines};

/// How an access touches the shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    Read,
    /// A read whose words go to other lanes than those that give their addresses.
    ReadForAll,
    Write,
    Issue,
}

/// Applies `touch` to the bytes of all lanes, neighbours joined, and gives the first fault with its line and words.
pub(super) fn touch(shadow: &mut Shadow, warp: usize, r: &Request, touch: Touch) -> Option<(SharedFault, usize, u32)> {
    let bytes = r.bytes();
    let reads = matches!(touch, Touch::Read | Touch::ReadForAll);
    if r.mask == 0 || (reads && bytes.is_multiple_of(4) && quick_read(shadow, warp, r)) {
        return None;
    }
    let contiguous = r.is_contiguous();
    let mut fault = match touch {
        Touch::Write if contiguous && bytes.is_multiple_of(4) => {
            let first = r.addresses[0] as usize;
            for_lines(first, 32 * bytes, |line, words, _| shadow.note_row(warp, line, words, first, bytes));
            None
        }
        _ => by_lanes(shadow, warp, r, touch),
    };
    let mut apply = |line: usize, words: u32, part: Option<u128>| {
        let found = match touch {
            Touch::Read | Touch::ReadForAll => shadow.read(warp, line, words, part),
            Touch::Write => shadow.write(warp, line, words, part),
            Touch::Issue => shadow.issue(warp, line, words),
        };
        if let (Some(found), None) = (found, fault) {
            fault = Some((found, line, words));
        }
    };
    if contiguous {
        for_lines(r.addresses[0] as usize, 32 * bytes, apply);
        return fault;
    }
    if r.is_uniform() {
        for_lines(r.addresses[r.mask.trailing_zeros() as usize] as usize, bytes, apply);
        return fault;
    }
    let mut joined: Option<(usize, u32, Option<u128>)> = None;
    for lane in lanes(r.mask) {
        for_lines(r.addresses[lane] as usize, bytes, |line, words, part| match &mut joined {
            Some((at, all, None)) if *at == line && part.is_none() => *all |= words,
            Some((at, all, Some(parts))) if *at == line && part.is_some() => {
                *all |= words;
                *parts |= part.unwrap_or(0);
            }
            _ => {
                if let Some((line, words, part)) = joined.replace((line, words, part)) {
                    apply(line, words, part);
                }
            }
        });
    }
    if let Some((line, words, part)) = joined {
        apply(line, words, part);
    }
    fault
}

/// Notes the lanes of a write, or gives the first lane's word that another wrote a moment before.
fn by_lanes(shadow: &mut Shadow, warp: usize, r: &Request, touch: Touch) -> Option<(SharedFault, usize, u32)> {
    let mut fault = None;
    for lane in lanes(r.mask) {
        for_lines(r.addresses[lane] as usize, r.bytes(), |line, words, part| {
            let found = match touch {
                Touch::Read => shadow.lane_race(warp, Some(lane), line, words, part),
                Touch::ReadForAll => shadow.lane_race(warp, None, line, words, part),
                // A copy writes when it lands.
                Touch::Issue => None,
                Touch::Write => {
                    shadow.note_lane(warp, lane, line, words, part);
                    None
                }
            };
            fault = fault.or(found.map(|found| (found, line, words)));
        });
    }
    fault
}

/// Notes a read of whole words where nothing can be wrong; false if it must be looked at closely. Aligned words stay within a line.
#[inline]
fn quick_read(shadow: &mut Shadow, warp: usize, r: &Request) -> bool {
    let words = (1u32 << (r.bytes() / 4)) - 1;
    let mut reader = shadow.reader(warp);
    let (mut line, mut mask) = (usize::MAX, 0);
    let mut fine = true;
    for lane in 0..32 {
        if r.mask >> lane & 1 == 0 {
            continue;
        }
        let at = r.addresses[lane] as usize;
        let here = words << (at / 4 % 32);
        if at / LINE == line {
            mask |= here;
            continue;
        }
        if mask != 0 {
            fine &= reader.read(line, mask);
        }
        (line, mask) = (at / LINE, here);
    }
    fine & reader.read(line, mask)
}

/// Touches the shadow and reports what it finds.
pub(super) fn check(m: &Machine, b: &mut Block, w: &Warp, r: &Request, kind: Touch) {
    let Some(shadow) = &mut b.shadow else { return };
    if let Some((fault, line, words)) = touch(shadow, w.id as usize, r, kind) {
        report(m, b, w, r, fault, line, words);
    }
}

#[cold]
fn report(m: &Machine, b: &mut Block, w: &Warp, r: &Request, fault: SharedFault, line: usize, words: u32) {
    let touches = |lane: usize| {
        let mut hit = false;
        for_lines(r.addresses[lane] as usize, r.bytes(), |l, bits, _| hit |= l == line && bits & words != 0);
        hit
    };
    // Of an uninitialised or in-flight range the faulty word is looked up; of a race any lane of the line stands for it.
    let lane = lanes(r.mask).find(|&l| touches(l)).unwrap_or(0);
    let (kind, message) = match fault {
        SharedFault::Uninitialised => {
            let unwritten = |lane: usize| {
                let mut found = false;
                let shadow = b.shadow.as_ref();
                for_lines(r.addresses[lane] as usize, r.bytes(), |l, bits, _| {
                    found |= shadow.is_some_and(|s| !s.is_written(l, bits))
                });
                found
            };
            let lane = lanes(r.mask).find(|&l| unwritten(l)).unwrap_or(lane);
            let address = SHARED_BASE + r.addresses[lane];
            let text = || "shared memory that nobody wrote".into();
            return b.report(m, Kind::Uninitialised, r.pc, w.id * 32 + lane as u32, address, text);
        }
        SharedFault::InFlight => (Kind::InFlightRead, "a cp.async into these bytes has not been waited for".into()),
        SharedFault::LaneRace { lane } => (
            Kind::SharedRace,
            format!("lane {lane} of the same warp wrote it, and no barrier of the warp lies between"),
        ),
        SharedFault::Race { warp, wrote } => {
            let what = if wrote { "wrote" } else { "read" };
            (Kind::SharedRace, format!("warp {warp} {what} it, and no barrier lies between"))
        }
    };
    b.report(m, kind, r.pc, w.id * 32 + lane as u32, SHARED_BASE + r.addresses[lane], || message);
}

/// Adds a request's passes over the banks.
pub(super) fn count(b: &mut Block, r: &Request) {
    if r.mask == 0 {
        return;
    }
    let bytes = r.bytes();
    let (passes, fewest) = match r.is_uniform() {
        true => (1, 1),
        false => wavefronts(r.addresses, r.mask, bytes),
    };
    let sums = &mut b.counts.sums;
    sums.shared_requests += 1;
    sums.shared_wavefronts += passes;
    sums.bank_conflicts += passes - fewest;
    sums.shared_bytes += u64::from(r.mask.count_ones()) * bytes as u64;
}

pub(super) fn load<const CHECK: bool, const COUNT: bool>(m: &Machine, b: &mut Block, w: &mut Warp, r: &Request) {
    let ok = within(m, b, w, r, b.shared.len() as u64, SHARED_BASE);
    let valid = r.with(ok);
    if CHECK {
        check(m, b, w, &valid, Touch::Read);
    }
    if COUNT {
        count(b, &valid);
    }
    let shared = &b.shared;
    gather(&mut w.rows, r.access, ok, r.mask & !ok, |lane, offset, bytes| {
        word(shared, r.addresses[lane] as usize + offset, bytes)
    });
}

pub(super) fn store<const CHECK: bool, const COUNT: bool>(m: &Machine, b: &mut Block, w: &mut Warp, r: &Request) {
    let ok = within(m, b, w, r, b.shared.len() as u64, SHARED_BASE);
    let valid = r.with(ok);
    if CHECK {
        check(m, b, w, &valid, Touch::Write);
    }
    if COUNT {
        count(b, &valid);
    }
    let shared = &mut b.shared;
    scatter(&w.rows, r.access, ok, |lane, offset, bytes, value| {
        shared[r.addresses[lane] as usize + offset..][..bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    });
}
