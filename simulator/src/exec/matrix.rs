//! Matrix instructions of a whole warp: ldmatrix, stmatrix, movmatrix, mma.

use super::block::Block;
use super::machine::Machine;
use super::memory_access::{Request, addresses, lanes, within, word};
use super::shared_access::{self, Touch};
use super::vector::{Lanes, store as put};
use super::warp::Warp;
use crate::decode::Access;
use crate::finding::Kind;
use crate::memory::SHARED_BASE;
use crate::mma::Shape;

/// These instructions need all lanes.
fn check_full(m: &Machine, b: &mut Block, w: &Warp, pc: usize, mask: u32) {
    if mask != u32::MAX {
        let thread = w.id * 32 + mask.trailing_zeros();
        b.report(m, Kind::PartialMma, pc, thread, 0, || format!("only lanes {mask:#010x} take part"));
    }
}

/// The rows of 16 bytes that lanes 8i … 8i + 7 address, as one request a matrix.
fn matrix_rows(m: &Machine, w: &Warp, pc: usize) -> (Vec<u16>, Access, [u64; 32]) {
    let inst = m.code.instructions[pc];
    let list = m.code.lists[usize::from(inst.b) | usize::from(inst.c) << 16].clone();
    let access = m.code.accesses[inst.x as usize].clone();
    let mut at = addresses(w, &access);
    at.iter_mut().filter(|a| **a >= SHARED_BASE && **a < 2 * SHARED_BASE).for_each(|a| *a -= SHARED_BASE);
    (list, Access { bytes: 16, count: 1, ..access }, at)
}

pub(super) fn load<const CHECK: bool, const COUNT: bool>(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
    pc: usize,
    mask: u32,
) {
    if CHECK {
        check_full(m, b, w, pc, mask);
    }
    let (list, access, at) = matrix_rows(m, w, pc);
    let (matrices, transposed) = (usize::from(list[0]), list[1] == 1);
    let used = if matrices == 4 { u32::MAX } else { (1 << (8 * matrices)) - 1 };
    let request = Request { access: &access, pc, mask: used, addresses: &at };
    let ok = within(m, b, w, &request, b.shared.len() as u64, SHARED_BASE);
    let valid = request.with(ok);
    if CHECK {
        shared_access::check(m, b, w, &valid, Touch::ReadForAll);
    }
    if COUNT {
        shared_access::count(b, &valid);
    }
    let fetch = |shared: &[u8], row: usize, offset: usize, bytes: usize| match ok >> row & 1 {
        1 => word(shared, at[row] as usize + offset, bytes),
        _ => 0,
    };
    for matrix in 0..matrices {
        let mut out: Lanes = [0; 32];
        for (lane, out) in out.iter_mut().enumerate() {
            let (g, t) = (lane / 4, lane % 4);
            *out = match transposed {
                true => {
                    fetch(&b.shared, 8 * matrix + 2 * t + 1, 2 * g, 2) << 16
                        | fetch(&b.shared, 8 * matrix + 2 * t, 2 * g, 2)
                }
                false => fetch(&b.shared, 8 * matrix + g, 4 * t, 4),
            };
        }
        let d = usize::from(list[2 + matrix]);
        put(&mut w.rows[d], &out, mask);
        if COUNT {
            w.depth[d] = w.depth[usize::from(access.address)];
        }
    }
}

pub(super) fn store<const CHECK: bool, const COUNT: bool>(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
    pc: usize,
    mask: u32,
) {
    if CHECK {
        check_full(m, b, w, pc, mask);
    }
    let (list, access, at) = matrix_rows(m, w, pc);
    let (matrices, transposed) = (usize::from(list[0]), list[1] == 1);
    let used = if matrices == 4 { u32::MAX } else { (1 << (8 * matrices)) - 1 };
    let request = Request { access: &access, pc, mask: used, addresses: &at };
    let ok = within(m, b, w, &request, b.shared.len() as u64, SHARED_BASE);
    let valid = request.with(ok);
    if CHECK {
        shared_access::check(m, b, w, &valid, Touch::Write);
    }
    if COUNT {
        shared_access::count(b, &valid);
    }
    for matrix in 0..matrices {
        let values = w.rows[usize::from(list[2 + matrix])];
        for lane in lanes(mask) {
            let (g, t) = (lane / 4, lane % 4);
            for n in 0..2 {
                let (row, column) = if transposed { (2 * t + n, g) } else { (g, 2 * t + n) };
                let row = 8 * matrix + row;
                if ok >> row & 1 == 1 {
                    let half = (values[lane] >> (16 * n)) as u16;
                    b.shared[at[row] as usize + 2 * column..][..2].copy_from_slice(&half.to_le_bytes());
                }
            }
        }
    }
}

/// `movmatrix.trans`: an 8 × 8 matrix held by the warp, transposed.
pub(super) fn transpose(m: &Machine, b: &mut Block, w: &mut Warp, pc: usize, mask: u32) {
    if m.options.checks {
        check_full(m, b, w, pc, mask);
    }
    let list = &m.code.lists[m.code.instructions[pc].x as usize];
    let values = w.rows[usize::from(list[1])];
    let half = |row: usize, column: usize| values[row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff;
    let out: Lanes = std::array::from_fn(|lane| {
        let (g, t) = (lane / 4, lane % 4);
        half(2 * t + 1, g) << 16 | half(2 * t, g)
    });
    put(&mut w.rows[usize::from(list[0])], &out, mask);
}

#[inline(always)]
pub(super) fn multiply<const CHECK: bool, const COUNT: bool>(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
    pc: usize,
    mask: u32,
) {
    if CHECK {
        check_full(m, b, w, pc, mask);
    }
    let list = &m.code.lists[m.code.instructions[pc].x as usize];
    let shape = Shape::from_code(list[0]);
    let count = shape.registers()[0];
    let sources = &list[1 + count..];
    let out = shape.multiply(|i| w.rows[usize::from(sources[i])]);
    let depth = sources.iter().map(|&r| w.depth[usize::from(r)]).max().unwrap_or(0);
    for (values, &d) in out.iter().zip(&list[1..1 + count]) {
        put(&mut w.rows[usize::from(d)], values, mask);
        if COUNT {
            w.depth[usize::from(d)] = depth;
        }
    }
}
