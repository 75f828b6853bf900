//! `cp.async` and mbarriers.
//!
//! A copy reads its source when it is issued and lands when its thread waits for its group: the latest moment the hardware allows, so a
//! missing wait shows as a read of bytes in flight.

use super::block::{Block, MBarrier, Stop};
use super::global;
use super::machine::Machine;
use super::memory_access::{Request, addresses, lanes, within};
use super::shared_access::{self, Touch};
use super::warp::{Copy, Warp};
use crate::decode::{Access, NONE, Row};
use crate::finding::Kind;
use crate::memory::shared::for_lines;
use crate::memory::{GENERIC_SHIFT, SHARED_BASE};

pub(super) fn copy<const CHECK: bool, const COUNT: bool>(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
    pc: usize,
    mask: u32,
) {
    let access = &m.code.accesses[m.code.instructions[pc].x as usize];
    let mut to = addresses(w, access);
    // A generic address of shared memory is one too.
    to.iter_mut().filter(|a| **a >> GENERIC_SHIFT == SHARED_BASE >> GENERIC_SHIFT).for_each(|a| *a -= SHARED_BASE);
    let target = Request { access, pc, mask, addresses: &to };
    let ok = within(m, b, w, &target, b.shared.len() as u64, SHARED_BASE);
    let target = target.with(ok);
    if CHECK {
        shared_access::check(m, b, w, &target, Touch::Issue);
    }
    if COUNT {
        shared_access::count(b, &target);
    }
    let data = source::<CHECK, COUNT>(m, b, w, &target);
    let to = to.map(|a| a as u32);
    w.copies.push(Copy { mask: ok, to, bytes: access.bytes, data, group: w.group });
}

/// What the lanes of a copy read; bytes past `src-size` are zeros.
fn source<const CHECK: bool, const COUNT: bool>(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
    r: &Request,
) -> Vec<[u8; 16]> {
    let access = r.access;
    let wide = |row: Row, lane: usize| {
        let row = usize::from(row);
        u64::from(w.rows[row][lane]) | u64::from(w.rows[row + 1][lane]) << 32
    };
    let from: [u64; 32] =
        std::array::from_fn(|lane| wide(access.rows[0], lane).wrapping_add(wide(access.rows[1], lane)));
    let sizes: [usize; 32] = std::array::from_fn(|lane| match access.second {
        NONE => usize::from(access.bytes),
        row => (w.rows[usize::from(row)][lane] as usize).min(usize::from(access.bytes)),
    });
    let full = lanes(r.mask).filter(|&l| sizes[l] == usize::from(access.bytes)).fold(0u32, |all, l| all | 1 << l);
    let request = Request { mask: full, addresses: &from, ..*r };
    let mut data = global::fetch::<CHECK, COUNT>(m, b, w, &request);
    // Lanes that read less do so byte by byte.
    let byte = Access { bytes: 1, ..access.clone() };
    for lane in lanes(r.mask & !full).filter(|&l| sizes[l] > 0) {
        for at in 0..sizes[lane] {
            let mut address = [0; 32];
            address[lane] = from[lane] + at as u64;
            let one = Request { access: &byte, pc: r.pc, mask: 1 << lane, addresses: &address };
            data[lane][at] = global::fetch::<CHECK, false>(m, b, w, &one)[lane][0];
        }
    }
    data
}

/// Lands the copies of `mask`'s lanes whose groups are older than the newest `groups`; `u32::MAX` lands all, committed or not.
pub(super) fn wait(b: &mut Block, w: &mut Warp, groups: u32, mask: u32) {
    let committed = w.group;
    let warp = w.id as usize;
    for copy in &mut w.copies {
        let lands = groups == u32::MAX || (copy.group < committed && copy.group + groups < committed);
        let landing = copy.mask & mask;
        if !lands || landing == 0 {
            continue;
        }
        let bytes = usize::from(copy.bytes);
        for lane in lanes(landing) {
            let at = copy.to[lane] as usize;
            b.shared[at..at + bytes].copy_from_slice(&copy.data[lane][..bytes]);
            if let Some(shadow) = &mut b.shadow {
                for_lines(at, bytes, |line, words, part| {
                    shadow.land(warp, line, words);
                    shadow.note_lane(warp, lane, line, words, part);
                });
            }
        }
        copy.mask &= !landing;
    }
    w.copies.retain(|c| c.mask != 0);
}

/// An operation on an mbarrier; `Some` if the warp must let others run.
pub(super) fn mbarrier(m: &Machine, b: &mut Block, w: &mut Warp, pc: usize, mask: u32) -> Option<Stop> {
    let inst = m.code.instructions[pc];
    let access = &m.code.accesses[inst.x as usize];
    let list = &m.code.lists[usize::from(inst.b) | usize::from(inst.c) << 16];
    let (kind, result, value, parity) = (list[0], list[1], list[2], list[3] == 1);
    let mut at = addresses(w, access);
    at.iter_mut().filter(|a| **a >> GENERIC_SHIFT == SHARED_BASE >> GENERIC_SHIFT).for_each(|a| *a -= SHARED_BASE);
    let request = Request { access, pc, mask, addresses: &at };
    let ok = within(m, b, w, &request, b.shared.len() as u64, SHARED_BASE);
    if matches!(kind, 5 | 6) {
        wait(b, w, u32::MAX, ok);
    }
    let word = |w: &Warp, row: Row, lane: usize| w.rows[usize::from(row)][lane];
    let mut not_yet = false;
    for lane in lanes(ok) {
        let key = at[lane] as u32;
        let count = if value == NONE { 1 } else { word(w, value, lane) };
        if kind == 0 {
            b.mbarriers.insert(key, MBarrier { expected: count, pending: count, ..MBarrier::default() });
            continue;
        }
        let Some(barrier) = b.mbarriers.get_mut(&key) else {
            let text = || "the mbarrier was never initialised".into();
            b.report(m, Kind::Uninitialised, pc, w.id * 32 + lane as u32, SHARED_BASE + at[lane], text);
            continue;
        };
        match kind {
            1 => {
                b.mbarriers.remove(&key);
            }
            2 | 3 | 5 => {
                if result != NONE {
                    let row = usize::from(result);
                    w.rows[row][lane] = barrier.phase as u32;
                    w.rows[row + 1][lane] = (barrier.phase >> 32) as u32;
                }
                if let Some(shadow) = &mut b.shadow {
                    shadow.release(w.id as usize, &mut barrier.next_clock);
                }
                barrier.arrive(if kind == 5 { 1 } else { count }, kind == 3);
            }
            4 => {
                let over = match parity {
                    true => barrier.phase & 1 != u64::from(word(w, value, lane) & 1),
                    false => barrier.phase > u64::from(word(w, value, lane)),
                };
                if let (true, Some(shadow)) = (over, &mut b.shadow) {
                    shadow.acquire(w.id as usize, &barrier.clock);
                }
                if result != NONE {
                    let p = &mut w.predicates[usize::from(result)];
                    *p = *p & !(1 << lane) | u32::from(over) << lane;
                }
                not_yet |= !over;
            }
            _ => {}
        }
    }
    not_yet.then_some(Stop::Yield)
}

impl MBarrier {
    fn arrive(&mut self, count: u32, drop: bool) {
        self.pending = self.pending.saturating_sub(count);
        if drop {
            self.expected = self.expected.saturating_sub(count);
        }
        if self.pending == 0 {
            self.phase += 1;
            self.pending = self.expected;
            self.clock = std::mem::take(&mut self.next_clock);
        }
    }
}
