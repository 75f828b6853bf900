//! Barriers of a block: who arrived, when all have, what warps learn.

use super::block::Running;
use super::machine::Machine;
use super::warp::State;
use crate::decode::{NONE, Op};
use crate::error::SimError;
use crate::finding::Kind;

impl Running {
    /// Warp `at` reached a barrier.
    pub(super) fn arrive(
        &mut self,
        m: &Machine,
        at: usize,
        barrier: u32,
        threads: u32,
        waits: bool,
        pc: u32,
    ) -> Result<(), SimError> {
        let warp = &mut self.warps[at];
        let Some(state) = self.block.barriers.get_mut(barrier as usize) else {
            let message = format!("barrier {barrier}, of 16");
            return Err(SimError::Deadlock { kernel: m.code.kernel.clone(), message });
        };
        let live = warp.live();
        if state.arrived == 0 {
            state.all_hold = true;
            state.holds = 0;
            state.threads = 0;
            state.expected = threads;
        }
        state.arrived |= 1 << at;
        state.threads += if threads == 0 { live.count_ones() } else { 32 };
        state.holds += (warp.vote & live).count_ones();
        state.all_hold &= warp.vote & live == live;
        state.pc = pc;
        if waits {
            state.waiting |= 1 << at;
            warp.state = State::Waiting;
        }
        Ok(())
    }

    /// Opens every barrier whose threads have all arrived.
    pub(super) fn release_barriers(&mut self, m: &Machine) {
        let running: u32 = self.warps.iter().filter(|w| w.state != State::Done).fold(0, |all, w| all | 1 << w.id);
        for number in 0..self.block.barriers.len() {
            let state = &self.block.barriers[number];
            if state.arrived == 0 {
                continue;
            }
            let whole = state.expected == 0 || state.expected >= m.warps() as u32 * 32;
            let complete =
                if state.expected == 0 { state.arrived & running == running } else { state.threads >= state.expected };
            if complete {
                self.open(m, number, whole && state.arrived & running == running);
            }
        }
    }

    fn open(&mut self, m: &Machine, number: usize, whole: bool) {
        let state = std::mem::take(&mut self.block.barriers[number]);
        if let Some(shadow) = &mut self.block.shadow {
            shadow.barrier(state.arrived, whole);
        }
        self.block.counts.sums.barriers += u64::from(whole);
        if m.options.checks && whole {
            self.missing(m, state.arrived, state.pc);
        }
        for warp in self.warps.iter_mut().filter(|w| state.waiting >> w.id & 1 == 1) {
            // `pc` stands behind the barrier already.
            let inst = m.code.instructions[warp.pc as usize - 1];
            debug_assert_eq!(inst.op, Op::Barrier);
            let list = &m.code.lists[inst.x as usize];
            let mask = warp.active;
            match list[0] {
                2 if list[1] != NONE => {
                    super::vector::store(&mut warp.rows[usize::from(list[1])], &[state.holds; 32], mask);
                }
                3 | 4 if list[1] != NONE => {
                    let holds = if list[0] == 3 { state.all_hold } else { state.holds > 0 };
                    let p = &mut warp.predicates[usize::from(list[1])];
                    *p = if holds { *p | mask } else { *p & !mask };
                }
                _ => {}
            }
            warp.state = State::Ready;
        }
    }

    /// A barrier of the whole block opened; threads that ended before it never met the others.
    fn missing(&mut self, m: &Machine, arrived: u32, pc: u32) {
        for at in 0..self.warps.len() {
            let warp = &self.warps[at];
            let absent = if arrived >> at & 1 == 1 { warp.exited } else { warp.exists };
            if absent != 0 {
                let thread = warp.id * 32 + absent.trailing_zeros();
                let count = absent.count_ones();
                self.block.report(m, Kind::MissingBarrier, pc as usize, thread, 0, || {
                    format!("the barrier opened although {count} threads of warp {at} had ended without it")
                });
                return;
            }
        }
    }

    /// A warp ended: its copies that nobody waited for never land, and barriers may open without it.
    pub(super) fn end_of_warp(&mut self, m: &Machine, at: usize) {
        self.warps[at].copies.clear();
        self.release_barriers(m);
    }
}
