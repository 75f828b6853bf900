//! A block: its warps, its shared and local memory, what was found in it. Warps run one after the other, each to its next barrier.

use std::collections::{HashMap, HashSet};

use super::machine::Machine;
use super::warp::{State, Warp};
use crate::counters::BlockCounts;
use crate::error::SimError;
use crate::finding::Kind;
use crate::memory::footprint::BlockFootprint;
use crate::memory::history::{BlockLog, Clock};
use crate::memory::shared::Shadow;

/// A finding before its names are looked up.
#[derive(Clone, Debug)]
pub(crate) struct RawFinding {
    pub kind: Kind,
    pub pc: u32,
    pub block: u32,
    pub thread: u32,
    pub address: u64,
    pub allocation: String,
    pub message: String,
}

/// Why a warp stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Exit,
    /// At a barrier of the block: its number, threads expected (0: all), whether the warp waits, and what to do with its votes.
    Barrier {
        barrier: u32,
        threads: u32,
        waits: bool,
        pc: u32,
    },
    /// Waits for others by looking at memory.
    Yield,
}

/// One of the sixteen barriers of a block.
#[derive(Clone, Debug, Default)]
pub(crate) struct BarrierState {
    /// Warps that arrived, and those of them that wait.
    pub arrived: u32,
    pub waiting: u32,
    pub threads: u32,
    pub expected: u32,
    /// Threads whose condition held, and instructions, of `bar.red`.
    pub holds: u32,
    pub all_hold: bool,
    pub pc: u32,
}

/// A split barrier in shared memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct MBarrier {
    pub expected: u32,
    pub pending: u32,
    pub phase: u64,
    /// What a waiter of the last phase learns, and what those that arrived in this one know.
    pub clock: Vec<u32>,
    pub next_clock: Vec<u32>,
}

/// Everything of a block but its warps.
pub(crate) struct Block {
    pub linear: u32,
    pub index: [u32; 3],
    pub shared: Vec<u8>,
    /// Local memory of thread t starts at t × `local_stride`.
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    pub shadow: Option<Shadow>,
    pub log: BlockLog,
    pub footprint: BlockFootprint,
    /// What this block knows of others, and its own epoch.
    pub clock: Clock,
    pub epoch: u32,
    /// The clock a later relaxed atomic publishes, and what relaxed reads brought but no fence has made valid.
    pub released: Option<Clock>,
    pub pending: Clock,
    pub findings: Vec<RawFinding>,
    found: HashSet<(u32, Kind)>,
    pub counts: BlockCounts,
    pub barriers: Vec<BarrierState>,
    pub mbarriers: HashMap<u32, MBarrier>,
    pub executed: u64,
}

impl Block {
    fn new(m: &Machine, linear: u32) -> Block {
        let checks = m.options.checks;
        let local = m.code.local_bytes as usize * m.warps() * 32;
        Block {
            linear,
            index: m.block_index(linear),
            shared: vec![0; m.shared_bytes],
            local: vec![0; local],
            local_written: vec![false; if checks { local } else { 0 }],
            shadow: checks.then(|| Shadow::new(m.shared_bytes, m.warps())),
            log: BlockLog::default(),
            footprint: BlockFootprint::default(),
            clock: Clock::new(),
            epoch: 1,
            released: None,
            pending: Clock::new(),
            findings: Vec::new(),
            found: HashSet::new(),
            counts: BlockCounts::new(if m.options.counters { m.code.instructions.len() } else { 0 }),
            barriers: vec![BarrierState::default(); 16],
            mbarriers: HashMap::new(),
            executed: 0,
        }
    }

    /// Keeps the first finding of a kind at an instruction.
    #[cold]
    pub fn report(
        &mut self,
        m: &Machine,
        kind: Kind,
        pc: usize,
        thread: u32,
        address: u64,
        message: impl FnOnce() -> String,
    ) {
        if self.found.insert((pc as u32, kind)) {
            let allocation =
                if address == 0 && kind != Kind::OutOfBounds { String::new() } else { m.describe(address) };
            let finding =
                RawFinding { kind, pc: pc as u32, block: self.linear, thread, address, allocation, message: message() };
            self.findings.push(finding);
        }
    }
}

/// A block and its warps.
pub(crate) struct Running {
    pub block: Block,
    pub warps: Vec<Warp>,
}

/// Whether a block is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    /// Some warps wait for what other blocks must do.
    Waits,
}

impl Running {
    pub fn new(m: &Machine, linear: u32) -> Running {
        let block = Block::new(m, linear);
        let warps = (0..m.warps() as u32).map(|id| {
            let threads = (m.threads_per_block - id * 32).min(32);
            Warp::new(id, m.rows(block.index, linear, id), m.code.predicates, u32::MAX >> (32 - threads))
        });
        let warps = warps.collect();
        Running { block, warps }
    }

    /// Runs until the block is over or all that can run wait for others.
    pub fn advance(&mut self, m: &Machine) -> Result<Progress, SimError> {
        loop {
            let (mut ran, mut yielded, mut left) = (false, false, false);
            for at in 0..self.warps.len() {
                if self.warps[at].state != State::Ready {
                    left |= self.warps[at].state == State::Waiting;
                    continue;
                }
                match super::interpreter::run_warp(m, &mut self.block, &mut self.warps[at])? {
                    Stop::Exit => {
                        self.warps[at].state = State::Done;
                        self.end_of_warp(m, at);
                        ran = true;
                    }
                    Stop::Barrier { barrier, threads, waits, pc } => {
                        self.arrive(m, at, barrier, threads, waits, pc)?;
                        ran = true;
                        left = true;
                    }
                    Stop::Yield => {
                        yielded = true;
                        left = true;
                    }
                }
                self.release_barriers(m);
            }
            if !left && self.warps.iter().all(|w| w.state == State::Done) {
                return Ok(Progress::Done);
            }
            if self.block.executed > m.options.instruction_limit {
                let limit = m.options.instruction_limit;
                return Err(SimError::InstructionLimit { kernel: m.code.kernel.clone(), limit });
            }
            if ran {
                continue;
            }
            if !yielded {
                return Err(self.deadlock(m));
            }
            // All that is left looks at memory: another block's turn, if there is one that could write it.
            return Ok(Progress::Waits);
        }
    }

    fn deadlock(&self, m: &Machine) -> SimError {
        let stuck = self.block.barriers.iter().enumerate().filter(|(_, b)| b.arrived != 0);
        let places: Vec<String> = stuck
            .map(|(n, b)| {
                let at = m.module.source_name(m.code.sources[b.pc as usize]);
                format!("barrier {n} at {at} has {} of {} threads", b.threads, b.expected)
            })
            .collect();
        let message = format!("block {:?} waits for ever: {}", self.block.index, places.join(", "));
        SimError::Deadlock { kernel: m.code.kernel.clone(), message }
    }

    /// Adds what only the whole block knows to its counts.
    pub fn finish(&mut self, m: &Machine) {
        if m.options.counters {
            let sums = &mut self.block.counts.sums;
            sums.blocks += 1;
            sums.l2_bytes += std::mem::take(&mut self.block.footprint).sectors() * 32;
            let deepest = self.warps.iter().flat_map(|w| w.depth.iter()).max().copied().unwrap_or(0);
            sums.dependent_load_depth = sums.dependent_load_depth.max(u32::from(deepest));
        }
    }
}
