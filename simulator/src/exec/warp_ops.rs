//! Instructions between the lanes of a warp, and the warp's side of a barrier.

use super::block::{Block, Stop};
use super::machine::Machine;
use super::vector::{Lanes, store};
use super::warp::Warp;
use crate::decode::NONE;
use crate::finding::Kind;

/// What `mask`'s first lane has in a row.
fn first(w: &Warp, row: u16, mask: u32) -> u32 {
    w.rows[usize::from(row)][mask.trailing_zeros() as usize]
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 == 1)
}

/// Lanes that an instruction's member mask names must all take part, and no others.
fn check_members(m: &Machine, b: &mut Block, w: &Warp, pc: usize, mask: u32, members: u16) {
    let named = first(w, members, mask);
    if !m.options.checks || named & w.exists == mask {
        return;
    }
    // Lanes may name different masks, as the halves of a warp do: each must be in its own.
    let own = &w.rows[usize::from(members)];
    let stray = lanes(mask).filter(|&l| own[l] >> l & 1 == 0).fold(0u32, |all, l| all | 1 << l);
    let absent = named & !mask & w.exists;
    if absent != 0 {
        let thread = w.id * 32 + mask.trailing_zeros();
        let why = if absent & w.exited != 0 { "ended" } else { "are elsewhere" };
        b.report(m, Kind::InactiveShuffle, pc, thread, 0, || {
            format!("the mask {named:#010x} names lanes {absent:#010x} that {why}")
        });
    } else if stray != 0 {
        let thread = w.id * 32 + stray.trailing_zeros();
        b.report(m, Kind::InactiveShuffle, pc, thread, 0, || {
            format!("lanes {stray:#010x} execute it that their mask does not name")
        });
    }
}

fn set(w: &mut Warp, predicate: u16, value: u32, mask: u32) {
    if predicate != NONE {
        let p = &mut w.predicates[usize::from(predicate)];
        *p = value & mask | *p & !mask;
    }
}

pub(super) fn shuffle(m: &Machine, b: &mut Block, w: &mut Warp, pc: usize, mask: u32) {
    let inst = m.code.instructions[pc];
    let list = &m.code.lists[inst.x as usize];
    let mode = list[0];
    check_members(m, b, w, pc, mask, list[1]);
    let [values, offsets, clamps] = [inst.a, inst.b, inst.c].map(|r| w.rows[usize::from(r)]);
    let mut out: Lanes = [0; 32];
    let (mut in_range, mut inactive) = (0u32, None);
    for lane in lanes(mask) {
        let (offset, clamp) = (offsets[lane] & 31, clamps[lane]);
        let (segment, limit) = (clamp >> 8 & 31, clamp & 31);
        let here = lane as u32;
        let (low, high) = (here & segment, (here & segment) | (limit & !segment));
        let (from, valid) = match mode {
            0 => {
                let from = low | (offset & !segment);
                (from, from <= high)
            }
            1 => (here.wrapping_sub(offset), here as i32 - offset as i32 >= high as i32),
            2 => (here + offset, here + offset <= high),
            _ => (here ^ offset, here ^ offset <= high),
        };
        let from = if valid { from & 31 } else { here };
        in_range |= u32::from(valid) << lane;
        if valid && mask >> from & 1 == 0 && inactive.is_none() {
            inactive = Some((here, from));
        }
        out[lane] = values[from as usize];
    }
    if let (true, Some((lane, from))) = (m.options.checks, inactive) {
        let thread = w.id * 32 + lane;
        b.report(m, Kind::InactiveShuffle, pc, thread, 0, || {
            format!("lane {lane} reads lane {from}, which does not take part")
        });
    }
    store(&mut w.rows[usize::from(inst.d)], &out, mask);
    set(w, list[2], in_range, mask);
}

pub(super) fn vote(m: &Machine, b: &mut Block, w: &mut Warp, pc: usize, mask: u32) {
    let inst = m.code.instructions[pc];
    let list = &m.code.lists[inst.x as usize];
    let members = first(w, list[4], mask);
    check_members(m, b, w, pc, mask, list[4]);
    let p = w.predicates[usize::from(list[2])];
    let taking_part = mask & members;
    let holds = if list[3] == 1 { !p } else { p } & taking_part;
    let all = |condition: bool| if condition { u32::MAX } else { 0 };
    match list[0] {
        0 => set(w, list[1], all(holds == taking_part), mask),
        1 => set(w, list[1], all(holds != 0), mask),
        2 => set(w, list[1], all(holds == taking_part || holds == 0), mask),
        _ => store(&mut w.rows[usize::from(list[1])], &[holds; 32], mask),
    }
}

pub(super) fn match_lanes(m: &Machine, b: &mut Block, w: &mut Warp, pc: usize, mask: u32) {
    let inst = m.code.instructions[pc];
    let list = &m.code.lists[inst.x as usize];
    let members = first(w, list[2], mask);
    check_members(m, b, w, pc, mask, list[2]);
    let a = usize::from(inst.a);
    let value =
        |lane: usize| u64::from(w.rows[a][lane]) | if list[1] == 1 { u64::from(w.rows[a + 1][lane]) << 32 } else { 0 };
    let taking_part = mask & members;
    let same =
        |lane: usize| lanes(taking_part).filter(|&o| value(o) == value(lane)).fold(0u32, |bits, o| bits | 1 << o);
    let mut out: Lanes = [0; 32];
    lanes(mask).for_each(|lane| out[lane] = same(lane));
    if list[0] == 1 {
        let all = lanes(mask).all(|lane| out[lane] == taking_part);
        out.iter_mut().for_each(|o| *o = if all { *o } else { 0 });
        set(w, list[3], if all { u32::MAX } else { 0 }, mask);
    }
    store(&mut w.rows[usize::from(inst.d)], &out, mask);
}

pub(super) fn redux(m: &Machine, b: &mut Block, w: &mut Warp, pc: usize, mask: u32) {
    let inst = m.code.instructions[pc];
    let members = first(w, inst.b, mask);
    check_members(m, b, w, pc, mask, inst.b);
    let values = w.rows[usize::from(inst.a)];
    let step = |x: u32, y: u32| match inst.x {
        0 => x.wrapping_add(y),
        1 => x.min(y),
        2 => (x as i32).min(y as i32) as u32,
        3 => x.max(y),
        4 => (x as i32).max(y as i32) as u32,
        5 => x & y,
        6 => x | y,
        _ => x ^ y,
    };
    let result = lanes(mask & members).map(|l| values[l]).reduce(step).unwrap_or(0);
    store(&mut w.rows[usize::from(inst.d)], &[result; 32], mask);
}

/// One lane of the mask, the lowest, is elected.
pub(super) fn elect(w: &mut Warp, list: &[u16], mask: u32) {
    let leader = (first(w, list[2], mask) & mask).trailing_zeros() & 31;
    if list[0] != NONE {
        store(&mut w.rows[usize::from(list[0])], &[leader; 32], mask);
    }
    set(w, list[1], 1 << leader, mask);
}

/// Some threads of the warp are not at the barrier.
#[cold]
pub(super) fn divergent(m: &Machine, b: &mut Block, w: &Warp, pc: usize, mask: u32) {
    let absent = w.live() & !mask;
    let thread = w.id * 32 + mask.trailing_zeros();
    b.report(m, Kind::DivergentBarrier, pc, thread, 0, || {
        format!("lanes {absent:#010x} of warp {} are elsewhere", w.id)
    });
}

/// The warp stops at a barrier of its block.
pub(super) fn barrier(m: &Machine, w: &mut Warp, pc: usize, mask: u32) -> Stop {
    let inst = m.code.instructions[pc];
    let list = &m.code.lists[inst.x as usize];
    let (barrier, threads) = (first(w, inst.a, mask), first(w, inst.b, mask));
    w.vote = match list[2] {
        NONE => mask,
        p if list[3] == 1 => !w.predicates[usize::from(p)] & mask,
        p => w.predicates[usize::from(p)] & mask,
    };
    Stop::Barrier { barrier, threads, waits: list[0] != 1, pc: pc as u32 }
}
