//! Arithmetic run lane by lane, through the scalar definitions.

use super::vector::{Lanes, store};
use super::warp::Warp;
use crate::decode::LaneOp;

/// The operands of one lane; a fourth goes above bit 32 of the third.
#[inline(always)]
fn operands(w: &Warp, op: &LaneOp, lane: usize) -> [u64; 3] {
    let mut values = [0u64; 4];
    for (value, arg) in values.iter_mut().zip(&op.args) {
        let row = usize::from(arg.row);
        *value = u64::from(w.rows[row][lane]);
        match arg.bits {
            33.. => *value |= u64::from(w.rows[row + 1][lane]) << 32,
            1 => *value &= 1,
            32 => {}
            bits => *value &= (1 << bits) - 1,
        }
    }
    if op.args.len() == 4 {
        values[2] |= values[3] << 32;
    }
    [values[0], values[1], values[2]]
}

pub(super) fn lane(w: &mut Warp, op: &LaneOp, d: usize, mask: u32) {
    let (mut low, mut high): (Lanes, Lanes) = ([0; 32], [0; 32]);
    let keep = if op.result_bits >= 64 { u64::MAX } else { (1 << op.result_bits) - 1 };
    for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
        let [a, b, c] = operands(w, op, lane);
        let result = (op.function)(op.modifiers, a, b, c) & keep;
        (low[lane], high[lane]) = (result as u32, (result >> 32) as u32);
    }
    store(&mut w.rows[d], &low, mask);
    if op.result_bits > 32 {
        store(&mut w.rows[d + 1], &high, mask);
    }
}

/// Lanes where a predicate-valued operation holds.
pub(super) fn lane_set(w: &Warp, op: &LaneOp, mask: u32) -> u32 {
    (0..32).filter(|l| mask >> l & 1 == 1).fold(0, |bits, lane| {
        let [a, b, c] = operands(w, op, lane);
        bits | ((op.function)(op.modifiers, a, b, c) as u32 & 1) << lane
    })
}

/// Moves rows, all read before the first is written; `list` holds pairs (to, from).
pub(super) fn moves<const COUNT: bool>(w: &mut Warp, list: &[u16], mask: u32) {
    let mut values = [([0u32; 32], 0u16); 4];
    for (value, pair) in values.iter_mut().zip(list.chunks_exact(2)) {
        *value = (w.rows[usize::from(pair[1])], w.depth[usize::from(pair[1])]);
    }
    for (value, pair) in values.iter().zip(list.chunks_exact(2)) {
        store(&mut w.rows[usize::from(pair[0])], &value.0, mask);
        if COUNT {
            w.depth[usize::from(pair[0])] = value.1;
        }
    }
}
