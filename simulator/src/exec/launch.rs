//! A launch: its geometry is checked, its blocks run, what they found and counted is put together.
//!
//! Blocks of a kernel without atomics or ordered accesses run in parallel, in batches whose logs are merged in the order of the blocks.
//! Kernels whose blocks talk to each other run on one thread: resident blocks in turn, each until its warps wait, and a further block
//! when all wait. Either way the result does not depend on the number of threads.

use rayon::prelude::*;

use super::block::{Block, Progress, RawFinding, Running};
use super::machine::Machine;
use crate::counters::{BlockCounts, Counters};
use crate::decode::Code;
use crate::error::SimError;
use crate::finding::{Finding, Kind};
use crate::memory::history::Race;
use crate::memory::{Access, GENERIC_SHIFT, Memory};
use crate::parse::{Module, Space};

/// Geometry and parameters of a launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z; at most 1,024 together.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameter block: all parameters at their aligned offsets, as the driver would copy them.
    pub params: Vec<u8>,
    /// All blocks are resident and may wait for each other.
    pub cooperative: bool,
    /// Blocks of a cluster; only `[1, 1, 1]` is simulated.
    pub cluster: [u32; 3],
}

impl Launch {
    /// A plain launch without dynamic shared memory.
    pub fn new(grid: [u32; 3], block: [u32; 3], params: Vec<u8>) -> Launch {
        Launch { grid, block, dynamic_shared: 0, params, cooperative: false, cluster: [1, 1, 1] }
    }
}

/// What a launch watches.
#[derive(Clone, Debug)]
pub struct Options {
    /// All checks. Without them only bounds, alignment and read-only memory are watched, which must be in any case.
    pub checks: bool,
    /// Counters.
    pub counters: bool,
    /// Threads that run blocks; 0 takes the ambient pool of rayon.
    pub threads: usize,
    /// Warp instructions of one block (of the launch, where blocks wait for each other) after which it counts as endless.
    pub instruction_limit: u64,
    /// Leave the processor's AVX2 and FMA aside. Results are the same, only slower: a check of that very claim.
    pub portable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { checks: true, counters: false, threads: 0, instruction_limit: 1 << 33, portable: false }
    }
}

/// What a launch gave.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of blocks; each kind once an instruction.
    pub findings: Vec<Finding>,
    /// If they were asked for.
    pub counters: Option<Counters>,
    /// Warp instructions executed.
    pub warp_instructions: u64,
}

/// Blocks whose logs are merged together. A constant, so that results do not depend on threads.
const BATCH: u32 = 64;
/// Rounds in which all resident blocks only wait, after which they will for ever.
const IDLE_ROUNDS: u32 = 20_000;
/// Shared memory that a block can have on any GPU.
const MOST_SHARED: usize = 227 << 10;

/// Runs one kernel of `module` over `memory`.
pub fn run(
    module: &Module,
    kernel: &str,
    launch: &Launch,
    memory: &mut Memory,
    options: &Options,
) -> Result<Report, SimError> {
    let Some(code) = module.code(kernel) else {
        let available = module.kernels().collect::<Vec<_>>().join(", ");
        return Err(SimError::UnknownKernel { file: module.file.clone(), kernel: kernel.into(), available });
    };
    validate(code, launch)?;
    place_variables(module, memory);
    let machine = Machine::new(module, code, memory, launch, options)?;
    let blocks: u32 = launch.grid.iter().product();
    let mut result = Gathered::default();
    if machine.interleaved {
        interleaved(&machine, blocks, &mut result)?;
    } else if options.threads > 0 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
        let pool = pool.map_err(|e| SimError::BadLaunch { kernel: kernel.into(), message: e.to_string() })?;
        pool.install(|| parallel(&machine, blocks, &mut result))?;
    } else {
        parallel(&machine, blocks, &mut result)?;
    }
    Ok(result.report(&machine))
}

fn validate(code: &Code, launch: &Launch) -> Result<(), SimError> {
    let bad = |message: String| Err(SimError::BadLaunch { kernel: code.kernel.clone(), message });
    let product = |d: [u32; 3]| d.iter().try_fold(1u32, |all, &n| all.checked_mul(n));
    let Some(threads) = product(launch.block).filter(|&n| (1..=1024).contains(&n)) else {
        return bad(format!("a block of {:?} threads; 1 to 1,024 are possible", launch.block));
    };
    if product(launch.grid).is_none_or(|n| n == 0) {
        return bad(format!("a grid of {:?} blocks", launch.grid));
    }
    if code.max_threads != 0 && threads > code.max_threads {
        return bad(format!("{threads} threads, but the kernel is compiled for at most {}", code.max_threads));
    }
    if launch.params.len() != code.param_bytes {
        return bad(format!("{} bytes of parameters, but the kernel has {}", launch.params.len(), code.param_bytes));
    }
    if launch.cluster != [1, 1, 1] {
        return bad(format!("clusters of {:?} blocks are not simulated", launch.cluster));
    }
    let shared = code.static_shared as usize + launch.dynamic_shared as usize;
    if shared > MOST_SHARED {
        return bad(format!("{shared} bytes of shared memory; a block has at most {MOST_SHARED}"));
    }
    Ok(())
}

/// Allocates the module's variables on first use; they keep their values from launch to launch.
fn place_variables(module: &Module, memory: &mut Memory) {
    let key = |name: &str| (module.identity, name.to_string());
    let mut fresh = Vec::new();
    for variable in module.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const)) {
        if memory.variables.contains_key(&key(&variable.name)) {
            continue;
        }
        let mut bytes = variable.initial.clone().unwrap_or_default();
        bytes.resize(variable.size as usize, 0);
        let access = if variable.space == Space::Const { Access::ReadOnly } else { Access::ReadWrite };
        let pointer = memory.allocate_with(&variable.name, bytes, access);
        memory.variables.insert(key(&variable.name), pointer);
        fresh.push((pointer, variable));
    }
    for (pointer, variable) in fresh {
        for (at, name, offset) in &variable.relocations {
            if let Some(target) = memory.variables.get(&key(name)).copied() {
                let address = target.offset(*offset as u64).0.to_le_bytes();
                // The place was allocated above with room for its initial values.
                let _ = memory.write(pointer.offset(*at as u64), &address);
            }
        }
    }
}

/// Results of the blocks so far.
#[derive(Default)]
struct Gathered {
    findings: Vec<RawFinding>,
    counts: BlockCounts,
    executed: u64,
}

impl Gathered {
    fn take(&mut self, m: &Machine, block: &mut Block) {
        if m.options.counters && self.counts.executions.is_empty() {
            self.counts = BlockCounts::new(m.code.instructions.len());
        }
        m.merge(&mut block.log, block.linear, block.epoch, &block.clock);
        self.findings.append(&mut block.findings);
        self.counts.add(&block.counts);
        self.executed += block.executed;
    }

    fn report(mut self, m: &Machine) -> Report {
        let races = std::mem::take(&mut m.synchronisation.lock().unwrap_or_else(|e| e.into_inner()).races);
        self.findings.extend(races.iter().map(|r| race_finding(m, r)));
        self.findings.sort_by_key(|f| f.block);
        let mut seen = std::collections::HashSet::new();
        self.findings.retain(|f| seen.insert((f.pc, f.kind)));
        let findings = self.findings.iter().map(|f| named(m, f)).collect();
        let counters = m.options.counters.then(|| self.counters(m));
        Report { findings, counters, warp_instructions: self.executed }
    }

    fn counters(&self, m: &Machine) -> Counters {
        let mut all = self.counts.sums.clone();
        all.warp_instructions = self.counts.executions.iter().sum();
        all.lane_instructions = self.counts.lanes.iter().sum();
        for (count, &opcode) in self.counts.executions.iter().zip(&m.code.opcode_of) {
            if *count > 0 {
                *all.mix.entry(m.code.opcodes[usize::from(opcode)].clone()).or_insert(0) += count;
            }
        }
        let (sectors, bytes) = m.footprint.totals();
        (all.dram_bytes, all.minimum_bytes) = (sectors * 32, bytes);
        all
    }
}

fn race_finding(m: &Machine, race: &Race) -> RawFinding {
    let verb = |writes| if writes { "write" } else { "read" };
    let [x, y, z] = m.block_index(race.other_block);
    let [tx, ty, tz] = m.thread_index(race.other_site & 1023);
    let place = m.module.source_name(m.code.sources[(race.other_site >> 10) as usize]);
    let address = u64::from(race.allocation) << GENERIC_SHIFT | race.offset;
    RawFinding {
        kind: Kind::GlobalRace,
        pc: race.site >> 10,
        block: race.block,
        thread: race.site & 1023,
        address,
        allocation: m.describe(address),
        message: format!(
            "this {} and the {} of block ({x},{y},{z}), thread ({tx},{ty},{tz}) at {place} are not ordered",
            verb(race.writes),
            verb(race.other_writes)
        ),
    }
}

fn named(m: &Machine, raw: &RawFinding) -> Finding {
    let pc = raw.pc as usize;
    Finding {
        kind: raw.kind,
        kernel: m.code.kernel.clone(),
        source: m.module.source_name(m.code.sources[pc]),
        ptx_line: m.code.ptx_lines[pc],
        instruction: m.code.opcodes[usize::from(m.code.opcode_of[pc])].clone(),
        block: m.block_index(raw.block),
        thread: m.thread_index(raw.thread),
        address: raw.address,
        allocation: raw.allocation.clone(),
        message: raw.message.clone(),
    }
}

fn deadlock(m: &Machine, blocks: usize) -> SimError {
    let message = format!("{blocks} resident blocks only look at memory that nobody will write");
    SimError::Deadlock { kernel: m.code.kernel.clone(), message }
}

/// One block from start to end, where it need not wait for others.
fn alone(m: &Machine, linear: u32) -> Result<Block, SimError> {
    let mut running = Running::new(m, linear);
    for _ in 0..IDLE_ROUNDS {
        if running.advance(m)? == Progress::Done {
            running.finish(m);
            return Ok(running.block);
        }
    }
    Err(deadlock(m, 1))
}

fn parallel(m: &Machine, blocks: u32, result: &mut Gathered) -> Result<(), SimError> {
    for first in (0..blocks).step_by(BATCH as usize) {
        let last = blocks.min(first.saturating_add(BATCH));
        let done: Vec<Result<Block, SimError>> = (first..last).into_par_iter().map(|linear| alone(m, linear)).collect();
        for block in done {
            result.take(m, &mut block?);
        }
    }
    Ok(())
}

/// Blocks in turn. A cooperative launch has all of them resident; otherwise one more is admitted when those there only wait.
fn interleaved(m: &Machine, blocks: u32, result: &mut Gathered) -> Result<(), SimError> {
    let mut resident: Vec<Running> = Vec::new();
    let mut next = 0;
    let mut idle = 0;
    loop {
        let admitted = if m.launch.cooperative { blocks } else { u32::from(resident.is_empty() || idle > 0) };
        for _ in 0..admitted.min(blocks - next) {
            resident.push(Running::new(m, next));
            next += 1;
        }
        if resident.is_empty() {
            return Ok(());
        }
        let before = resident.len();
        let mut waiting = Vec::with_capacity(before);
        for mut running in resident {
            match running.advance(m)? {
                Progress::Done => {
                    running.finish(m);
                    result.take(m, &mut running.block);
                }
                Progress::Waits => waiting.push(running),
            }
        }
        resident = waiting;
        idle = if resident.len() < before { 0 } else { idle + 1 };
        if idle > IDLE_ROUNDS && next == blocks {
            return Err(deadlock(m, resident.len()));
        }
    }
}
