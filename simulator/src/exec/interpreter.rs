//! The loop that executes a warp. It is compiled for each choice of checks and counters, so that what is switched off costs nothing, and
//! on x86-64 once more for machines with AVX2 and FMA.

use super::block::{Block, Stop};
use super::machine::{Depth, Machine};
use super::vector::{self, Lanes, canonical, store};
use super::warp::Warp;
use crate::decode::{BoolOp, NONE, Op, PredicateOut};
use crate::error::SimError;
use crate::finding::Kind;
use crate::numeric::compare::Comparison;

/// Warp instructions after which a warp of a communicating kernel lets others run.
const SLICE: u64 = 50_000;

/// Whether the vectorised copy of the loop can run here.
pub(crate) fn has_vector_units() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Runs until the warp stops, with what the launch's options ask for.
pub(crate) fn run_warp(m: &Machine, b: &mut Block, w: &mut Warp) -> Result<Stop, SimError> {
    match (m.options.checks, m.options.counters) {
        (false, false) => dispatch::<false, false>(m, b, w),
        (false, true) => dispatch::<false, true>(m, b, w),
        (true, false) => dispatch::<true, false>(m, b, w),
        (true, true) => dispatch::<true, true>(m, b, w),
    }
}

#[inline]
fn dispatch<const CHECK: bool, const COUNT: bool>(m: &Machine, b: &mut Block, w: &mut Warp) -> Result<Stop, SimError> {
    #[cfg(target_arch = "x86_64")]
    if m.fused {
        // SAFETY: `fused` is set only where AVX2 and FMA were detected.
        return unsafe { run_vector::<CHECK, COUNT>(m, b, w) };
    }
    run::<CHECK, COUNT>(m, b, w)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_vector<const CHECK: bool, const COUNT: bool>(
    m: &Machine,
    b: &mut Block,
    w: &mut Warp,
) -> Result<Stop, SimError> {
    run::<CHECK, COUNT>(m, b, w)
}

/// Lanes where a comparison holds.
macro_rules! compare {
    ($x:ident, $a:ident, $b:ident, $read:expr) => {{
        use Comparison::*;
        let read = $read;
        macro_rules! lanes {
            (|$p:ident, $q:ident| $test:expr) => {{
                let mut bits = 0u32;
                for i in 0..32 {
                    let ($p, $q) = (read($a, i), read($b, i));
                    bits |= u32::from($test) << i;
                }
                bits
            }};
        }
        match Comparison::ALL[($x >> 16) as usize & 15] {
            Eq => lanes!(|p, q| p == q),
            Ne => lanes!(|p, q| p < q || p > q),
            Lt => lanes!(|p, q| p < q),
            Le => lanes!(|p, q| p <= q),
            Gt => lanes!(|p, q| p > q),
            Ge => lanes!(|p, q| p >= q),
            Equ => !lanes!(|p, q| p < q || p > q),
            Neu => lanes!(|p, q| p != q),
            Ltu => !lanes!(|p, q| p >= q),
            Leu => !lanes!(|p, q| p > q),
            Gtu => !lanes!(|p, q| p <= q),
            Geu => !lanes!(|p, q| p < q),
            Num => lanes!(|p, q| p <= q || p > q),
            Nan => !lanes!(|p, q| p <= q || p > q),
        }
    }};
}

/// Writes a comparison's result to its predicates.
#[inline(always)]
fn set_predicates(w: &mut Warp, out: PredicateOut, result: u32, mask: u32) {
    let (mut p, mut q) = (result, !result);
    if let Some((join, c, negated)) = out.combine {
        let c = w.predicates[usize::from(c)];
        let c = if negated { !c } else { c };
        (p, q) = match join {
            BoolOp::And => (p & c, q & c),
            BoolOp::Or => (p | c, q | c),
            BoolOp::Xor => (p ^ c, q ^ c),
        };
    }
    for (to, value) in [(out.p, p), (out.q, q)] {
        if to != NONE {
            let to = &mut w.predicates[usize::from(to)];
            *to = value & mask | *to & !mask;
        }
    }
}

// Of NaN, "less or greater" and "not equal" differ.
#[allow(clippy::double_comparisons)]
#[inline(always)]
fn run<const CHECK: bool, const COUNT: bool>(m: &Machine, b: &mut Block, w: &mut Warp) -> Result<Stop, SimError> {
    let code = m.code;
    let until = b.executed + SLICE;
    loop {
        if w.pc == w.meet || w.active == 0 {
            if !w.resume(&code.blocks) {
                return Ok(Stop::Exit);
            }
            continue;
        }
        let pc = w.pc as usize;
        let inst = code.instructions[pc];
        let mut mask = w.active;
        if inst.guard != NONE {
            let p = w.predicates[usize::from(inst.guard >> 1)];
            mask &= if inst.guard & 1 == 1 { !p } else { p };
        }
        b.executed += 1;
        if COUNT {
            b.counts.executions[pc] += 1;
            b.counts.lanes[pc] += u64::from(mask.count_ones());
            if mask != 0 {
                follow_depth(m.depth[pc], w, inst.d, [inst.a, inst.b, inst.c]);
            }
        }
        w.pc += 1;
        if mask == 0 {
            continue;
        }
        let (d, a, bb, c) = (usize::from(inst.d), usize::from(inst.a), usize::from(inst.b), usize::from(inst.c));

        macro_rules! put {
            ($row:expr, |$i:ident| $value:expr) => {{
                let mut out: Lanes = [0; 32];
                for $i in 0..32 {
                    out[$i] = $value;
                }
                store(&mut w.rows[$row], &out, mask);
            }};
        }
        macro_rules! one {
            (|$x:ident| $value:expr) => {{
                let x = w.rows[a];
                put!(d, |i| {
                    let $x = x[i];
                    $value
                });
            }};
        }
        macro_rules! two {
            (|$x:ident, $y:ident| $value:expr) => {{
                let (x, y) = (w.rows[a], w.rows[bb]);
                put!(d, |i| {
                    let ($x, $y) = (x[i], y[i]);
                    $value
                });
            }};
        }
        macro_rules! three {
            (|$x:ident, $y:ident, $z:ident| $value:expr) => {{
                let (x, y, z) = (w.rows[a], w.rows[bb], w.rows[c]);
                put!(d, |i| {
                    let ($x, $y, $z) = (x[i], y[i], z[i]);
                    $value
                });
            }};
        }
        macro_rules! floats {
            (|$x:ident, $y:ident| $value:expr) => {
                two!(|p, q| {
                    let ($x, $y) = (f32::from_bits(p), f32::from_bits(q));
                    $value
                })
            };
        }
        /// Both rows of a 64-bit result, computed before either is written.
        macro_rules! wide {
            (|$i:ident| $value:expr) => {{
                let (mut low, mut high): (Lanes, Lanes) = ([0; 32], [0; 32]);
                for $i in 0..32 {
                    let value: u64 = $value;
                    (low[$i], high[$i]) = (value as u32, (value >> 32) as u32);
                }
                store(&mut w.rows[d], &low, mask);
                store(&mut w.rows[d + 1], &high, mask);
            }};
        }
        if CHECK && inst.x != 0 && matches!(inst.op, Op::Add32 | Op::Sub32 | Op::MulLo32 | Op::MadLo32 | Op::Shl32) {
            check_overflow(m, b, w, pc, mask);
        }
        match inst.op {
            Op::Mov32 => {
                let x = w.rows[a];
                store(&mut w.rows[d], &x, mask);
            }
            Op::Mov64 => {
                let (low, high) = (w.rows[a], w.rows[a + 1]);
                store(&mut w.rows[d], &low, mask);
                store(&mut w.rows[d + 1], &high, mask);
            }
            Op::Add32 => two!(|x, y| x.wrapping_add(y)),
            Op::Sub32 => two!(|x, y| x.wrapping_sub(y)),
            Op::MulLo32 => two!(|x, y| x.wrapping_mul(y)),
            Op::MadLo32 => three!(|x, y, z| x.wrapping_mul(y).wrapping_add(z)),
            Op::And32 => two!(|x, y| x & y),
            Op::Or32 => two!(|x, y| x | y),
            Op::Xor32 => two!(|x, y| x ^ y),
            Op::Not32 => one!(|x| !x),
            Op::Shl32 => two!(|x, y| if y < 32 { x << (y & 31) } else { 0 }),
            Op::ShrU32 => two!(|x, y| if y < 32 { x >> (y & 31) } else { 0 }),
            Op::ShrS32 => two!(|x, y| (x as i32 >> y.min(31)) as u32),
            Op::MinS32 => two!(|x, y| (x as i32).min(y as i32) as u32),
            Op::MaxS32 => two!(|x, y| (x as i32).max(y as i32) as u32),
            Op::MinU32 => two!(|x, y| x.min(y)),
            Op::MaxU32 => two!(|x, y| x.max(y)),
            Op::Lop3 => {
                let table: [u32; 8] = std::array::from_fn(|i| 0u32.wrapping_sub(inst.x >> i & 1));
                three!(|x, y, z| {
                    let low = (!y & (!z & table[0] | z & table[1])) | (y & (!z & table[2] | z & table[3]));
                    let high = (!y & (!z & table[4] | z & table[5])) | (y & (!z & table[6] | z & table[7]));
                    !x & low | x & high
                });
            }
            Op::Select32 => {
                let p = w.predicates[c] ^ 0u32.wrapping_sub(inst.x);
                let (x, y) = (w.rows[a], w.rows[bb]);
                put!(d, |i| if p >> i & 1 == 1 { x[i] } else { y[i] });
            }
            Op::Select64 => {
                let p = w.predicates[c] ^ 0u32.wrapping_sub(inst.x);
                let (x, y, xh, yh) = (w.rows[a], w.rows[bb], w.rows[a + 1], w.rows[bb + 1]);
                put!(d, |i| if p >> i & 1 == 1 { x[i] } else { y[i] });
                put!(d + 1, |i| if p >> i & 1 == 1 { xh[i] } else { yh[i] });
            }
            Op::Add64 => {
                let (x, y, xh, yh) = (w.rows[a], w.rows[bb], w.rows[a + 1], w.rows[bb + 1]);
                put!(d, |i| x[i].wrapping_add(y[i]));
                put!(d + 1, |i| xh[i].wrapping_add(yh[i]).wrapping_add(u32::from(x[i].wrapping_add(y[i]) < x[i])));
            }
            Op::Sub64 => {
                let (x, y, xh, yh) = (w.rows[a], w.rows[bb], w.rows[a + 1], w.rows[bb + 1]);
                put!(d, |i| x[i].wrapping_sub(y[i]));
                put!(d + 1, |i| xh[i].wrapping_sub(yh[i]).wrapping_sub(u32::from(x[i] < y[i])));
            }
            Op::Shl64 => {
                let (x, xh, y) = (w.rows[a], w.rows[a + 1], w.rows[bb]);
                wide!(|i| {
                    let value = u64::from(x[i]) | u64::from(xh[i]) << 32;
                    if y[i] < 64 { value << (y[i] & 63) } else { 0 }
                });
            }
            Op::MulWideS32 => {
                let (x, y) = (w.rows[a], w.rows[bb]);
                wide!(|i| i64::from(x[i] as i32).wrapping_mul(i64::from(y[i] as i32)) as u64);
            }
            Op::MulWideU32 => {
                let (x, y) = (w.rows[a], w.rows[bb]);
                wide!(|i| u64::from(x[i]) * u64::from(y[i]));
            }
            Op::MadWideS32 => {
                let (x, y, z, zh) = (w.rows[a], w.rows[bb], w.rows[c], w.rows[c + 1]);
                wide!(|i| {
                    let product = i64::from(x[i] as i32).wrapping_mul(i64::from(y[i] as i32)) as u64;
                    product.wrapping_add(u64::from(z[i]) | u64::from(zh[i]) << 32)
                });
            }
            Op::MadWideU32 => {
                let (x, y, z, zh) = (w.rows[a], w.rows[bb], w.rows[c], w.rows[c + 1]);
                wide!(|i| (u64::from(x[i]) * u64::from(y[i])).wrapping_add(u64::from(z[i]) | u64::from(zh[i]) << 32));
            }
            Op::SignExtend64 => {
                let x = w.rows[a];
                store(&mut w.rows[d], &x, mask);
                put!(d + 1, |i| (x[i] as i32 >> 31) as u32);
            }
            Op::ZeroExtend64 => {
                let x = w.rows[a];
                store(&mut w.rows[d], &x, mask);
                put!(d + 1, |_i| 0);
            }
            Op::Narrow32 => one!(|x| x),
            Op::SetS32 | Op::SetU32 | Op::SetF32 => {
                let (x, y) = (&w.rows[a], &w.rows[bb]);
                let selector = inst.x;
                let result = match inst.op {
                    Op::SetS32 => compare!(selector, x, y, |r: &Lanes, i: usize| r[i] as i32),
                    Op::SetU32 => compare!(selector, x, y, |r: &Lanes, i: usize| r[i]),
                    _ => compare!(selector, x, y, |r: &Lanes, i: usize| f32::from_bits(r[i])),
                };
                set_predicates(w, code.outs[(inst.x & 0xffff) as usize], result, mask);
            }
            Op::SetS64 | Op::SetU64 => {
                let join = |r: usize, i: usize| u64::from(w.rows[r][i]) | u64::from(w.rows[r + 1][i]) << 32;
                let selector = inst.x;
                let result = if inst.op == Op::SetS64 {
                    compare!(selector, a, bb, |r: usize, i: usize| join(r, i) as i64)
                } else {
                    compare!(selector, a, bb, join)
                };
                set_predicates(w, code.outs[(inst.x & 0xffff) as usize], result, mask);
            }
            Op::AddF32 => floats!(|x, y| canonical(x + y)),
            Op::SubF32 => floats!(|x, y| canonical(x - y)),
            Op::MulF32 => floats!(|x, y| canonical(x * y)),
            Op::FmaF32 => three!(|x, y, z| canonical(f32::from_bits(x).mul_add(f32::from_bits(y), f32::from_bits(z)))),
            Op::MinF32 => floats!(|x, y| vector::min_f32(x, y)),
            Op::MaxF32 => floats!(|x, y| vector::max_f32(x, y)),
            Op::AddF16x2 => two!(|x, y| vector::halves(x, y, |p, q| p + q)),
            Op::SubF16x2 => two!(|x, y| vector::halves(x, y, |p, q| p - q)),
            Op::MulF16x2 => two!(|x, y| vector::halves(x, y, |p, q| p * q)),
            Op::FmaF16x2 => three!(|x, y, z| {
                let low = vector::fma_f16(x & 0xffff, y & 0xffff, z & 0xffff);
                vector::fma_f16(x >> 16, y >> 16, z >> 16) << 16 | low
            }),
            Op::F32FromF16 => one!(|x| canonical(vector::f32_from_f16(x))),
            Op::F16FromF32 => one!(|x| vector::f16_from_f32(f32::from_bits(x))),
            Op::F32FromS32 => one!(|x| (x as i32 as f32).to_bits()),
            Op::Pack16 => two!(|x, y| x & 0xffff | y << 16),
            Op::Unpack16 => {
                let x = w.rows[a];
                let list = &code.lists[inst.x as usize];
                if list[0] != NONE {
                    put!(usize::from(list[0]), |i| x[i] & 0xffff);
                }
                if list[1] != NONE {
                    put!(usize::from(list[1]), |i| x[i] >> 16);
                }
                if COUNT {
                    list.iter().filter(|r| **r != NONE).for_each(|&r| w.depth[usize::from(r)] = w.depth[a]);
                }
            }
            Op::Lane => super::lanes::lane(w, &code.lane_ops[inst.x as usize], d, mask),
            Op::LaneSet => {
                let result = super::lanes::lane_set(w, &code.lane_ops[inst.x as usize], mask);
                set_predicates(w, code.outs[d], result, mask);
            }
            Op::Moves => super::lanes::moves::<COUNT>(w, &code.lists[inst.x as usize], mask),
            Op::Predicate => {
                let x = w.predicates[a] ^ 0u32.wrapping_sub(inst.x & 1);
                let y = w.predicates[bb] ^ 0u32.wrapping_sub(inst.x >> 1 & 1);
                let result = match inst.x >> 2 {
                    0 => x & y,
                    1 => x | y,
                    2 => x ^ y,
                    _ => x,
                };
                if inst.d != NONE {
                    w.predicates[d] = result & mask | w.predicates[d] & !mask;
                }
            }
            Op::PredicateFromRow => {
                let x = &w.rows[a];
                let result = (0..32).fold(0, |bits, i| bits | u32::from(x[i] != 0) << i);
                if inst.d != NONE {
                    w.predicates[d] = result & mask | w.predicates[d] & !mask;
                }
            }
            Op::Load => {
                super::memory_access::load::<CHECK, COUNT>(m, b, w, pc, mask);
                if m.interleaved && code.accesses[inst.x as usize].ordering != crate::decode::Ordering::Weak {
                    return Ok(Stop::Yield);
                }
            }
            Op::Store => super::memory_access::store::<CHECK, COUNT>(m, b, w, pc, mask),
            Op::Atomic => {
                super::atomic::atomic::<CHECK, COUNT>(m, b, w, pc, mask);
                if m.interleaved && b.executed > until {
                    return Ok(Stop::Yield);
                }
            }
            Op::CpAsync => super::async_copy::copy::<CHECK, COUNT>(m, b, w, pc, mask),
            Op::CpAsyncCommit => w.group += 1,
            Op::CpAsyncWait => super::async_copy::wait(b, w, inst.x, mask),
            Op::LdMatrix => super::matrix::load::<CHECK, COUNT>(m, b, w, pc, mask),
            Op::StMatrix => super::matrix::store::<CHECK, COUNT>(m, b, w, pc, mask),
            Op::MovMatrix => super::matrix::transpose(m, b, w, pc, mask),
            Op::Mma => super::matrix::multiply::<CHECK, COUNT>(m, b, w, pc, mask),
            Op::Shuffle => super::warp_ops::shuffle(m, b, w, pc, mask),
            Op::Vote => super::warp_ops::vote(m, b, w, pc, mask),
            Op::Match => super::warp_ops::match_lanes(m, b, w, pc, mask),
            Op::Redux => super::warp_ops::redux(m, b, w, pc, mask),
            Op::ActiveMask => store(&mut w.rows[d], &[mask; 32], mask),
            Op::Elect => super::warp_ops::elect(w, &code.lists[inst.x as usize], mask),
            Op::Branch => {
                if mask == w.active {
                    w.jump(&code.blocks, code.block_of[pc], inst.x);
                } else {
                    w.diverge(&code.blocks, code.block_of[pc], mask);
                }
                if m.interleaved && b.executed > until {
                    return Ok(Stop::Yield);
                }
                // An endless loop must end even where nothing else stops it.
                if b.executed > m.options.instruction_limit {
                    return Ok(Stop::Yield);
                }
            }
            Op::Exit => {
                w.exited |= mask;
                w.active &= !mask;
            }
            Op::Barrier => {
                if CHECK && mask != w.live() {
                    super::warp_ops::divergent(m, b, w, pc, mask);
                }
                return Ok(super::warp_ops::barrier(m, w, pc, mask));
            }
            Op::WarpBarrier => {
                let named = w.rows[bb][mask.trailing_zeros() as usize] & w.live();
                if CHECK && named & !mask != 0 {
                    super::warp_ops::divergent(m, b, w, pc, mask);
                }
                if let Some(shadow) = &mut b.shadow {
                    shadow.warp_barrier(w.id as usize);
                }
            }
            Op::Fence => super::global::fence(m, b, inst.x == 1),
            Op::NanoSleep => {
                if m.interleaved {
                    return Ok(Stop::Yield);
                }
            }
            Op::MBarrier => {
                if let Some(stop) = super::async_copy::mbarrier(m, b, w, pc, mask) {
                    return Ok(stop);
                }
            }
            // Blocks of the launch before are over when this one starts, and clusters have one block.
            Op::GridDependency | Op::ClusterBarrier | Op::Nop => {}
            Op::Trap => {
                let place = m.module.source_name(code.sources[pc]);
                let place = format!("{place}, block {:?}, warp {}", b.index, w.id);
                return Err(SimError::Trap { kernel: code.kernel.clone(), place });
            }
        }
    }
}

/// A value depends on as many loads as the deepest of its operands.
#[inline(always)]
fn follow_depth(how: Depth, w: &mut Warp, d: u16, [a, b, c]: [u16; 3]) {
    let of = |row: u16| w.depth[usize::from(row)];
    match how {
        Depth::None => {}
        Depth::Abc => w.depth[usize::from(d)] = of(a).max(of(b)).max(of(c)),
        Depth::Ab => w.depth[usize::from(d)] = of(a).max(of(b)),
    }
}

/// Whether the 32-bit result of an instruction that feeds an address differs from the true one. Results that are sign-extended must fit as
/// signed numbers; those that are zero-extended may fit either way, because PTX does not say which was meant.
fn check_overflow(m: &Machine, b: &mut Block, w: &Warp, pc: usize, mask: u32) {
    let inst = m.code.instructions[pc];
    let row = |r: u16| &w.rows[usize::from(r)];
    let exact = |x: i64, y: i64, z: i64| match inst.op {
        Op::Add32 => x + y,
        Op::Sub32 => x - y,
        Op::MulLo32 => x * y,
        Op::MadLo32 => x * y + z,
        _ if y.clamp(0, 32) == y => x << y,
        _ => 0,
    };
    let mut any = false;
    for lane in 0..32 {
        let signed = exact(
            i64::from(row(inst.a)[lane] as i32),
            i64::from(row(inst.b)[lane] as i32),
            i64::from(row(inst.c)[lane] as i32),
        );
        any |= signed != i64::from(signed as i32);
    }
    if !any {
        return;
    }
    for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
        let (x, y, z) = (row(inst.a)[lane], row(inst.b)[lane], row(inst.c)[lane]);
        // Unsigned products of 32 bits and a sum fit i128 only; as signed they fit i64.
        let signed = i128::from(exact(i64::from(x as i32), i64::from(y as i32), i64::from(z as i32)));
        if i32::try_from(signed).is_ok() {
            continue;
        }
        let unsigned = match inst.op {
            Op::MulLo32 => i128::from(x) * i128::from(y),
            Op::MadLo32 => i128::from(x) * i128::from(y) + i128::from(z),
            _ => i128::from(exact(i64::from(x), i64::from(y), i64::from(z))),
        };
        if inst.x & 1 == 0 && u32::try_from(unsigned).is_ok() {
            continue;
        }
        b.report(m, Kind::OffsetOverflow, pc, w.id * 32 + lane as u32, 0, || {
            format!(
                "the exact result {signed} of operands {}, {} and {} does not fit 32 bits",
                x as i32, y as i32, z as i32
            )
        });
        return;
    }
}
