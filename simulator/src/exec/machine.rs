//! What all blocks of a launch share: code, memory, the rows that constants fill.

use std::collections::HashMap;
use std::sync::Mutex;

use super::launch::{Launch, Options};
use super::vector::Lanes;
use crate::decode::{Code, Constant, Op};
use crate::error::SimError;
use crate::memory::footprint::Footprint;
use crate::memory::history::{BlockLog, Clock, History, Race};
use crate::memory::{FIRST_ALLOCATION, GENERIC_SHIFT, LOCAL_BASE, Memory, PARAM_BASE, SHARED_BASE};
use crate::parse::{LaneMask, Module, Special};

/// How an instruction passes on the depth of loads in COUNT mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    None,
    /// d depends on a, b and c.
    Abc,
    /// d depends on a and b; c is no row.
    Ab,
}

/// Order between blocks, and the accesses compared so far; used only where blocks run one at a time.
#[derive(Debug, Default)]
pub(crate) struct Synchronisation {
    pub history: History,
    /// What a reader of each atomic location learns.
    pub locations: HashMap<u64, Clock>,
    pub races: Vec<Race>,
}

pub(crate) struct Machine<'a> {
    pub module: &'a Module,
    pub code: &'a Code,
    pub memory: &'a Memory,
    pub launch: &'a Launch,
    pub options: &'a Options,
    /// Addresses of module variables, by their index in the code.
    pub variables: Vec<u64>,
    pub depth: Vec<Depth>,
    pub footprint: Footprint,
    pub synchronisation: Mutex<Synchronisation>,
    pub threads_per_block: u32,
    pub shared_bytes: usize,
    /// Blocks run one at a time and may wait for each other.
    pub interleaved: bool,
    pub fused: bool,
}

fn depth_of(op: Op) -> Depth {
    match op {
        Op::Select32 | Op::Select64 => Depth::Ab,
        Op::Unpack16 | Op::Moves | Op::LaneSet | Op::SetS32 | Op::SetU32 | Op::SetF32 | Op::SetS64 | Op::SetU64 => {
            Depth::None
        }
        Op::Predicate
        | Op::PredicateFromRow
        | Op::Load
        | Op::Store
        | Op::Atomic
        | Op::CpAsync
        | Op::CpAsyncCommit
        | Op::CpAsyncWait => Depth::None,
        Op::LdMatrix
        | Op::StMatrix
        | Op::MovMatrix
        | Op::Mma
        | Op::Vote
        | Op::Match
        | Op::Redux
        | Op::Elect
        | Op::Branch => Depth::None,
        Op::Exit | Op::Barrier | Op::WarpBarrier | Op::Fence | Op::NanoSleep | Op::MBarrier | Op::GridDependency => {
            Depth::None
        }
        Op::ClusterBarrier | Op::Trap | Op::Nop | Op::ActiveMask => Depth::None,
        _ => Depth::Abc,
    }
}

impl<'a> Machine<'a> {
    pub fn new(
        module: &'a Module,
        code: &'a Code,
        memory: &'a Memory,
        launch: &'a Launch,
        options: &'a Options,
    ) -> Result<Machine<'a>, SimError> {
        let variables = code.variables.iter().map(|v| {
            let key = (module.identity, v.name.clone());
            memory.variables.get(&key).map_or(0, |p| p.0)
        });
        let variables = variables.collect();
        let threads_per_block = launch.block.iter().product();
        let sizes = memory.sizes();
        Ok(Machine {
            module,
            code,
            memory,
            launch,
            options,
            variables,
            depth: code.instructions.iter().map(|i| depth_of(i.op)).collect(),
            footprint: if options.counters { Footprint::new(sizes) } else { Footprint::default() },
            synchronisation: Mutex::default(),
            threads_per_block,
            shared_bytes: code.static_shared as usize + launch.dynamic_shared as usize,
            interleaved: launch.cooperative || code.communicates,
            fused: !options.portable && super::interpreter::has_vector_units(),
        })
    }

    pub fn warps(&self) -> usize {
        self.threads_per_block.div_ceil(32) as usize
    }

    pub fn block_index(&self, linear: u32) -> [u32; 3] {
        let [x, y, _] = self.launch.grid;
        [linear % x, linear / x % y, linear / x / y]
    }

    pub fn thread_index(&self, thread: u32) -> [u32; 3] {
        let [x, y, _] = self.launch.block;
        [thread % x, thread / x % y, thread / x / y]
    }

    /// The register file of a warp before its first instruction.
    pub fn rows(&self, block: [u32; 3], linear: u32, warp: u32) -> Vec<Lanes> {
        let mut rows = vec![[0u32; 32]; self.code.rows];
        for (row, constant) in &self.code.constants {
            rows[usize::from(*row)] = match constant {
                Constant::Bits(bits) => [*bits; 32],
                Constant::Param { offset, bytes, signed } => {
                    [self.param(*offset as usize, usize::from(*bytes), *signed); 32]
                }
                Constant::Global { variable, offset, high } => {
                    let address = self.variables[*variable as usize].wrapping_add(*offset as u64);
                    [if *high { (address >> 32) as u32 } else { address as u32 }; 32]
                }
                Constant::Special(special) => {
                    std::array::from_fn(|lane| self.special(*special, block, linear, warp, lane as u32))
                }
            };
        }
        rows
    }

    fn param(&self, offset: usize, bytes: usize, signed: bool) -> u32 {
        let mut word = [0u8; 4];
        word[..bytes].copy_from_slice(&self.launch.params[offset..offset + bytes]);
        let value = u32::from_le_bytes(word);
        let shift = 32 - 8 * bytes as u32;
        if signed { ((value << shift) as i32 >> shift) as u32 } else { value }
    }

    fn special(&self, special: Special, block: [u32; 3], linear: u32, warp: u32, lane: u32) -> u32 {
        let launch = self.launch;
        match special {
            Special::Tid(axis) => self.thread_index(warp * 32 + lane)[usize::from(axis)],
            Special::Ntid(axis) => launch.block[usize::from(axis)],
            Special::Ctaid(axis) => block[usize::from(axis)],
            Special::Nctaid(axis) => launch.grid[usize::from(axis)],
            Special::LaneId => lane,
            Special::WarpId => warp,
            Special::NWarpId => self.warps() as u32,
            // One multiprocessor a block: the kernel may not depend on it.
            Special::SmId => linear % 132,
            Special::NSmId => 132,
            Special::LaneMask(which) => match which {
                LaneMask::Equal => 1 << lane,
                LaneMask::Less => (1 << lane) - 1,
                LaneMask::LessEqual => u32::MAX >> (31 - lane),
                LaneMask::Greater => !(u32::MAX >> (31 - lane)),
                LaneMask::GreaterEqual => u32::MAX << lane,
            },
            Special::DynamicShared => launch.dynamic_shared,
            Special::TotalShared => self.shared_bytes as u32,
            Special::ClusterNctaid(_) | Special::ClusterNctaRank => 1,
            Special::ClusterId(axis) => block[usize::from(axis)],
            Special::NClusterId(axis) => launch.grid[usize::from(axis)],
            // Time does not pass here, and clusters have one block.
            Special::GridId | Special::Clock | Special::ClusterCtaid(_) | Special::ClusterCtaRank | Special::Zero => 0,
        }
    }

    /// Name of what an address lies in, with the offset.
    pub fn describe(&self, address: u64) -> String {
        match address {
            // The number below the first allocation is where its negative offsets land.
            a if a >= u64::from(FIRST_ALLOCATION - 1) << GENERIC_SHIFT => {
                let (id, offset) = ((a >> GENERIC_SHIFT) as u32, a & ((1 << GENERIC_SHIFT) - 1));
                let negative = (1u64 << GENERIC_SHIFT) - offset;
                match (self.memory.allocation(id), self.memory.allocation(id.wrapping_add(1))) {
                    // Just below an allocation: an offset gone negative.
                    (_, Some(next)) if negative < 1 << 32 => format!("`{}` − {negative}", next.name),
                    (Some(found), _) => format!("`{}` + {offset} (of {} bytes)", found.name, found.size),
                    _ => "no allocation".into(),
                }
            }
            a if a >= PARAM_BASE => format!("parameters + {}", a - PARAM_BASE),
            a if a >= LOCAL_BASE => format!("local memory + {}", a - LOCAL_BASE),
            a if a >= SHARED_BASE => format!("shared memory + {} (of {} bytes)", a - SHARED_BASE, self.shared_bytes),
            0 => "the null pointer".into(),
            _ => "no allocation".into(),
        }
    }

    /// Compares a block's log with what other blocks did, and starts a new one.
    pub fn merge(&self, log: &mut BlockLog, block: u32, epoch: u32, clock: &Clock) {
        if log.is_empty() {
            return;
        }
        for (id, sector, mask) in log.writes() {
            if let Some(allocation) = self.memory.allocation(id) {
                allocation.mark_sector(sector, mask);
            }
        }
        let mut shared = self.synchronisation.lock().unwrap_or_else(|e| e.into_inner());
        let Synchronisation { history, races, .. } = &mut *shared;
        history.merge(log, block, epoch, clock, |race| {
            // One finding an instruction and kind is enough; the rest would only cost memory.
            if !races.iter().any(|r| r.site >> 10 == race.site >> 10 && r.writes == race.writes) {
                races.push(race);
            }
        });
    }
}
