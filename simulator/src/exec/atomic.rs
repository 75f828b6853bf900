//! `atom` and `red`, on device and shared memory. Lanes of a warp go in ascending order, which makes float sums repeatable.

use super::block::Block;
use super::global;
use super::machine::Machine;
use super::memory_access::{Request, addresses, lanes, within};
use super::shared_access;
use super::warp::Warp;
use crate::decode::{AtomicOp, NONE};
use crate::finding::Kind;
use crate::memory::shared::for_lines;
use crate::memory::{GENERIC_SHIFT, SHARED_BASE};
use crate::numeric::{float, half_ops};
use crate::parse::Space;

/// The value that memory holds afterwards.
fn apply(op: AtomicOp, bits: u32, old: u64, value: u64, compare: u64) -> u64 {
    let signed = |x: u64| crate::numeric::integer::sign_extend(x, bits);
    match op {
        AtomicOp::Add => old.wrapping_add(value),
        // Float atomics on device memory flush nothing in `.add.f32` of generic targets from sm_20 on.
        AtomicOp::AddF32 => float::add_f32(0, old, value, 0),
        AtomicOp::AddF64 => float::add_f64(0, old, value, 0),
        AtomicOp::AddF16x2 => half_ops::add2::<false>(0, old, value, 0),
        AtomicOp::AddBf16x2 => half_ops::add2::<true>(0, old, value, 0),
        AtomicOp::AddF16 => half_ops::add::<false>(0, old, value, 0),
        AtomicOp::AddBf16 => half_ops::add::<true>(0, old, value, 0),
        AtomicOp::MinS => {
            if signed(old) < signed(value) {
                old
            } else {
                value
            }
        }
        AtomicOp::MaxS => {
            if signed(old) > signed(value) {
                old
            } else {
                value
            }
        }
        AtomicOp::MinU => old.min(value),
        AtomicOp::MaxU => old.max(value),
        AtomicOp::And => old & value,
        AtomicOp::Or => old | value,
        AtomicOp::Xor => old ^ value,
        AtomicOp::Exch => value,
        // `value` is what is compared, `compare` what is stored.
        AtomicOp::Cas => {
            if old == value {
                compare
            } else {
                old
            }
        }
        AtomicOp::Inc => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        AtomicOp::Dec => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
    }
}

/// Applies the operation lane by lane between `read` and `write` of up to 8 bytes at a lane's address.
fn each_lane(w: &mut Warp, r: &Request, mut exchange: impl FnMut(usize, &dyn Fn(u64) -> u64) -> u64) {
    let access = r.access;
    let Some(op) = access.atomic else { return };
    let wide = access.bytes == 8;
    let bits = u32::from(access.bytes) * 8;
    let keep = u64::MAX >> (64 - bits);
    let read = |w: &Warp, row: u16, lane: usize| {
        let low = u64::from(w.rows[usize::from(row)][lane]);
        (if wide { low | u64::from(w.rows[usize::from(row) + 1][lane]) << 32 } else { low }) & keep
    };
    for lane in lanes(r.mask) {
        let value = read(w, access.rows[1], lane);
        let second = if access.second == NONE { 0 } else { read(w, access.second, lane) };
        let old = exchange(lane, &|old| apply(op, bits, old & keep, value, second) & keep) & keep;
        if access.rows[0] != NONE {
            let d = usize::from(access.rows[0]);
            w.rows[d][lane] = old as u32;
            if wide {
                w.rows[d + 1][lane] = (old >> 32) as u32;
            }
        }
    }
}

pub(super) fn atomic<const CHECK: bool, const COUNT: bool>(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
    pc: usize,
    mask: u32,
) {
    let access = &m.code.accesses[m.code.instructions[pc].x as usize];
    let mut addresses = addresses(w, access);
    // One window a warp: kernels do not mix them in one atomic.
    let in_window = addresses[mask.trailing_zeros() as usize] >> GENERIC_SHIFT == SHARED_BASE >> GENERIC_SHIFT;
    let shared = access.space == Space::Shared || (access.space == Space::Generic && in_window);
    if shared && access.space == Space::Generic {
        addresses.iter_mut().for_each(|a| *a = a.wrapping_sub(SHARED_BASE));
    }
    let request = Request { access, pc, mask, addresses: &addresses };
    if COUNT && !shared && access.rows[0] != NONE {
        w.depth[usize::from(access.rows[0])] = w.depth[usize::from(access.address)].saturating_add(1);
    }
    if shared {
        shared_atomic::<CHECK, COUNT>(m, b, w, &request)
    } else {
        device_atomic::<CHECK, COUNT>(m, b, w, &request)
    }
}

fn shared_atomic<const CHECK: bool, const COUNT: bool>(m: &Machine, b: &mut Block, w: &mut Warp, r: &Request) {
    let ok = within(m, b, w, r, b.shared.len() as u64, SHARED_BASE);
    let valid = r.with(ok);
    if CHECK {
        for lane in lanes(ok) {
            let mut written = true;
            let shadow = b.shadow.as_mut();
            if let Some(shadow) = shadow {
                for_lines(r.addresses[lane] as usize, r.bytes(), |line, words, _| {
                    written &= shadow.is_written(line, words);
                    shadow.mark(line, words);
                });
            }
            if !written {
                let address = SHARED_BASE + r.addresses[lane];
                let text = || "an atomic on shared memory that nobody wrote".into();
                b.report(m, Kind::Uninitialised, r.pc, w.id * 32 + lane as u32, address, text);
            }
        }
    }
    if COUNT {
        shared_access::count(b, &valid);
    }
    let memory = &mut b.shared;
    let bytes = r.bytes();
    each_lane(w, &valid, |lane, f| {
        let at = r.addresses[lane] as usize;
        let mut old = [0u8; 8];
        old[..bytes].copy_from_slice(&memory[at..at + bytes]);
        let old = u64::from_le_bytes(old);
        memory[at..at + bytes].copy_from_slice(&f(old).to_le_bytes()[..bytes]);
        old
    });
}

fn device_atomic<const CHECK: bool, const COUNT: bool>(m: &Machine, b: &mut Block, w: &mut Warp, r: &Request) {
    if CHECK {
        order(m, b, r);
    }
    global::by_allocation(m, b, w, r, |b, w, id, allocation, r| {
        let ok = within(m, b, w, r, allocation.size as u64, u64::from(id) << GENERIC_SHIFT);
        let valid = r.with(ok);
        if !global::writable(m, b, w, id, allocation, &valid) {
            return;
        }
        let bytes = r.bytes();
        for lane in lanes(ok).filter(|_| CHECK) {
            let at = r.addresses[lane] as usize;
            if !allocation.initialised(at, bytes) {
                let address = u64::from(id) << GENERIC_SHIFT | r.addresses[lane];
                b.report(m, Kind::Uninitialised, r.pc, w.id * 32 + lane as u32, address, || {
                    "an atomic on memory that nobody wrote".into()
                });
            }
        }
        if COUNT {
            global::count_atomic(m, b, id, allocation, &valid);
        }
        let part = bytes.min(4);
        each_lane(w, &valid, |lane, f| {
            let at = r.addresses[lane] as usize;
            let high = if bytes == 8 { u64::from(allocation.load_part(at + 4, 4)) << 32 } else { 0 };
            let old = u64::from(allocation.load_part(at, part)) | high;
            let new = f(old);
            allocation.store_part(at, part, new as u32);
            if bytes == 8 {
                allocation.store_part(at + 4, 4, (new >> 32) as u32);
            }
            allocation.mark(at, bytes);
            old
        });
    });
}

/// The order an atomic makes with others on its address.
fn order(m: &Machine, b: &mut Block, r: &Request) {
    global::acquire_lanes(m, b, r);
    let mut last = None;
    for lane in lanes(r.mask) {
        if last != Some(r.addresses[lane]) {
            last = Some(r.addresses[lane]);
            global::publish(m, b, r.addresses[lane], r.access.ordering);
        }
    }
}
