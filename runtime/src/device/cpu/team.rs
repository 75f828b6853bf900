//! A team of threads that executes launch lists together.
//!
//! A step is hundreds of launches of a few microseconds each, so handing each to a general thread pool would cost more than
//! the work. Instead every thread walks the whole list itself. Within a phase, blocks are taken in chunks from an atomic counter,
//! and a phase is over when its blocks are done, not when every thread has been there: a thread that was descheduled between
//! blocks holds up nobody, which on a busy machine is the difference between slow and stuck.
//! The caller is thread 0. Between steps the others park: an idle engine takes no processor time.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use kernels::catalog::KernelInfo;
use kernels::cpu::CpuKernel;

use super::region::Region;
use crate::device::DeviceError;

/// Turns of a waiting loop before the thread yields its core: a few microseconds.
const SPINS: u32 = 128;

/// Part of a phase's blocks that threads first take in one chunk each: kernels prepare the rows they multiply anew for each chunk.
const FIRST_CHUNKS: (usize, usize) = (3, 4);

/// Chunks each thread would take of all blocks if they were as small as those of the rest, which even out.
const SMALL_CHUNKS_A_THREAD: usize = 8;

/// A kernel with its parameters, ready to be called.
#[derive(Clone, Copy)]
pub(super) struct Launch {
    /// The kernel for the chosen instruction set.
    pub kernel: CpuKernel,
    /// Its parameter struct.
    pub params: *const c_void,
    /// Blocks of its grid.
    pub blocks: usize,
    /// What tells the bytes of weights it reads, for kernels that read any.
    pub reads: Option<WeightReads>,
}

/// A kernel's count of the packed weights a launch reads. It may depend on results of earlier launches (the experts that were
/// selected), so it is taken when the launch begins.
#[derive(Clone, Copy)]
pub(super) struct WeightReads {
    /// The kernel.
    pub info: &'static KernelInfo,
    /// Its variant, which lives as long as the launch.
    pub variant: *const str,
}

/// Launches between two meetings: one launch, or several of one block that one thread executes in order.
#[derive(Debug)]
struct Phase {
    first: usize,
    end: usize,
    blocks: usize,
    chunks: Chunks,
    /// Number of the first chunk not yet taken.
    next: AtomicUsize,
    /// Blocks executed.
    done: AtomicUsize,
}

/// How blocks are cut into chunks: a large one for each thread, then small ones.
#[derive(Clone, Copy, Debug)]
struct Chunks {
    blocks: usize,
    large: usize,
    large_count: usize,
    small: usize,
}

impl Chunks {
    fn new(blocks: usize, threads: usize) -> Chunks {
        let large = blocks * FIRST_CHUNKS.0 / (FIRST_CHUNKS.1 * threads);
        let large_count = if large > 0 { threads } else { 0 };
        Chunks { blocks, large, large_count, small: blocks.div_ceil(SMALL_CHUNKS_A_THREAD * threads).max(1) }
    }

    /// Blocks of the chunk of that number; empty past the last.
    fn get(&self, number: usize) -> Range<usize> {
        let start = |n: usize| self.large * n.min(self.large_count) + self.small * n.saturating_sub(self.large_count);
        start(number).min(self.blocks)..start(number + 1).min(self.blocks)
    }
}

/// A launch list cut into phases for a number of threads.
#[derive(Default)]
pub(super) struct LaunchList {
    launches: Vec<Launch>,
    phases: Vec<Phase>,
}

impl LaunchList {
    /// An empty list with room for `launches`.
    pub fn with_capacity(launches: usize) -> LaunchList {
        LaunchList { launches: Vec::with_capacity(launches), phases: Vec::with_capacity(launches) }
    }

    /// Replaces the content without allocating, as long as the capacity suffices. Launches without blocks are left out.
    pub fn fill(&mut self, launches: impl Iterator<Item = Launch>, threads: usize) {
        self.launches.clear();
        self.phases.clear();
        for launch in launches.filter(|l| l.blocks > 0) {
            let at = self.launches.len();
            self.launches.push(launch);
            match self.phases.last_mut() {
                Some(phase) if phase.blocks == 1 && launch.blocks == 1 => phase.end = at + 1,
                _ => self.phases.push(Phase {
                    first: at,
                    end: at + 1,
                    blocks: launch.blocks,
                    chunks: Chunks::new(launch.blocks, threads),
                    next: AtomicUsize::new(0),
                    done: AtomicUsize::new(0),
                }),
            }
        }
    }

    fn rewind(&self) {
        for phase in &self.phases {
            phase.next.store(0, Ordering::Relaxed);
            phase.done.store(0, Ordering::Relaxed);
        }
    }
}

/// A kernel that panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelPanic {
    /// Parameter struct of its launch.
    pub params: usize,
    /// What it said.
    pub message: String,
}

/// What the threads share.
struct Shared {
    threads: usize,
    /// Counts steps; workers wait for it to change.
    epoch: AtomicU64,
    /// Whether workers may enter the list. A worker that wakes after the step is over finds it closed.
    open: AtomicBool,
    /// Workers that are in the list, or about to look whether they may be.
    inside: AtomicUsize,
    list: UnsafeCell<*const LaunchList>,
    stop: AtomicBool,
    aborted: AtomicBool,
    /// Bytes of packed weights read so far.
    weight_bytes: AtomicU64,
    panic: Mutex<Option<KernelPanic>>,
}

// SAFETY: `list` is written by the caller of `run` only, while the list is closed and no worker inside, and read by workers
// inside an open list only. Its launches may be executed by any thread (the contract of `Team::run`).
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// Threads that execute launch lists.
pub(super) struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    scratch: Region,
}

impl Team {
    /// Starts `threads - 1` workers; with the caller that makes `threads`. Each has `scratch_bytes` of scratch memory.
    pub fn start(threads: usize, scratch_bytes: u64) -> Result<Team, DeviceError> {
        let shared = Arc::new(Shared {
            threads,
            epoch: AtomicU64::new(0),
            open: AtomicBool::new(false),
            inside: AtomicUsize::new(0),
            list: UnsafeCell::new(std::ptr::null()),
            stop: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            weight_bytes: AtomicU64::new(0),
            panic: Mutex::new(None),
        });
        let mut team = Team { shared, workers: Vec::new(), scratch: Region::new("scratch memory", scratch_bytes)? };
        for thread in 1..threads {
            let (shared, scratch) = (team.shared.clone(), Region::new("scratch memory", scratch_bytes)?);
            let worker = std::thread::Builder::new()
                .name(format!("kernel-{thread}"))
                .spawn(move || work(&shared, scratch))
                .map_err(|source| DeviceError::Thread { thread, source })?;
            team.workers.push(worker);
        }
        Ok(team)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Bytes of scratch memory of all threads.
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch.bytes() * self.threads() as u64
    }

    /// Bytes of packed weights that all launches so far have read.
    pub fn weight_bytes(&self) -> u64 {
        self.shared.weight_bytes.load(Ordering::Relaxed)
    }

    /// Executes a list filled for this number of threads.
    ///
    /// # Safety
    /// Every launch must satisfy its kernel's contract when the launches are executed in order.
    pub unsafe fn run(&mut self, list: &LaunchList) -> Result<(), KernelPanic> {
        let shared = &*self.shared;
        if list.phases.is_empty() {
            return Ok(());
        }
        list.rewind();
        shared.aborted.store(false, Ordering::Relaxed);
        // SAFETY: the list is closed and no worker inside.
        unsafe { *shared.list.get() = list };
        shared.open.store(true, Ordering::SeqCst);
        shared.epoch.fetch_add(1, Ordering::Release);
        self.workers.iter().for_each(|w| w.thread().unpark());
        execute(shared, list, self.scratch.as_mut_slice());
        // From here on no worker enters; only when those inside have left may the list change.
        shared.open.store(false, Ordering::SeqCst);
        wait_until(|| shared.inside.load(Ordering::SeqCst) == 0);
        match shared.aborted.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(lock(&shared.panic).take().unwrap_or(KernelPanic { params: 0, message: String::new() })),
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker's life: take part in each step that it sees in time.
fn work(shared: &Shared, mut scratch: Region) {
    let mut seen = 0;
    loop {
        seen = next_epoch(shared, seen);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // In the one order of these operations, either this thread sees the list closed, or `run` sees it inside and waits.
        shared.inside.fetch_add(1, Ordering::SeqCst);
        if shared.open.load(Ordering::SeqCst) {
            // SAFETY: the list was set before it was opened, and lives until this thread is no longer inside.
            let list = unsafe { &**shared.list.get() };
            execute(shared, list, scratch.as_mut_slice());
        }
        shared.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits until there is an epoch after `seen`: spinning for a moment, then parked.
fn next_epoch(shared: &Shared, seen: u64) -> u64 {
    let mut turns = 0;
    loop {
        let epoch = shared.epoch.load(Ordering::Acquire);
        if epoch != seen {
            return epoch;
        }
        turns += 1;
        if turns < SPINS { std::hint::spin_loop() } else { std::thread::park() }
    }
}

/// Executes this thread's share of a list, until all of it is done or a kernel has failed.
fn execute(shared: &Shared, list: &LaunchList, scratch: &mut [u8]) {
    let aborted = || shared.aborted.load(Ordering::Relaxed);
    for phase in list.phases.iter().take_while(|_| !aborted()) {
        let is_done = || phase.done.load(Ordering::Acquire) >= phase.blocks;
        if !is_done() {
            execute_phase(shared, list, phase, scratch);
            wait_until(|| is_done() || aborted());
        }
    }
}

/// Takes chunks of a phase until none is left.
fn execute_phase(shared: &Shared, list: &LaunchList, phase: &Phase, scratch: &mut [u8]) {
    let launches = &list.launches[phase.first..phase.end];
    let mut done = 0;
    loop {
        let blocks = phase.chunks.get(phase.next.fetch_add(1, Ordering::Relaxed));
        if blocks.is_empty() {
            break;
        }
        for launch in launches {
            if let Some(reads) = launch.reads.filter(|_| blocks.start == 0) {
                // SAFETY: the variant lives as long as the list; what the launch reads is ready when it begins.
                let bytes = unsafe { reads.info.weight_bytes(&*reads.variant, launch.params) };
                shared.weight_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            // SAFETY: by the contract of `Team::run`; the range lies in the grid.
            let call = || unsafe { (launch.kernel)(launch.params, blocks.clone(), scratch) };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(call)) {
                lock(&shared.panic)
                    .get_or_insert(KernelPanic { params: launch.params.addr(), message: text(&*payload) });
                // The other threads skip what is left.
                shared.aborted.store(true, Ordering::Relaxed);
                return;
            }
        }
        done += blocks.len();
    }
    if done > 0 {
        phase.done.fetch_add(done, Ordering::AcqRel);
    }
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without message").to_string()
}

/// Waits for a condition that other threads make true: spinning for a moment, then yielding the core.
fn wait_until(condition: impl Fn() -> bool) {
    let mut turns = 0u32;
    while !condition() {
        turns = turns.saturating_add(1);
        if turns < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters of the test kernel: `cells[block] = cells[block] * 3 + step`, for launches that must run in order.
    struct Steps {
        cells: *mut u64,
        step: u64,
    }

    unsafe fn affine(params: *const c_void, blocks: Range<usize>, scratch: &mut [u8]) {
        // SAFETY: tests pass `Steps` with as many cells as blocks.
        let params = unsafe { &*params.cast::<Steps>() };
        scratch.fill(params.step as u8);
        for block in blocks {
            // SAFETY: as above; blocks are disjoint.
            let cell = unsafe { &mut *params.cells.add(block) };
            *cell = cell.wrapping_mul(3).wrapping_add(params.step);
        }
        assert!(scratch.iter().all(|b| *b == params.step as u8), "scratch is shared");
    }

    unsafe fn failing(_: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
        assert!(!blocks.contains(&5), "block five");
    }

    fn list(params: &[Steps], blocks: impl Fn(usize) -> usize, threads: usize) -> LaunchList {
        let mut list = LaunchList::with_capacity(params.len());
        let launch = |(i, p): (usize, &Steps)| Launch {
            kernel: affine,
            params: std::ptr::from_ref(p).cast(),
            blocks: blocks(i),
            reads: None,
        };
        list.fill(params.iter().enumerate().map(launch), threads);
        list
    }

    #[test]
    fn launches_run_once_a_block_and_in_order() {
        for threads in [1, 2, 3, 8] {
            let mut team = Team::start(threads, 64).unwrap();
            let sizes = [1, 1, 7, 1, 1, 64, 0, 3, 1];
            let mut cells = vec![0u64; 64];
            let params: Vec<Steps> =
                (0..sizes.len()).map(|i| Steps { cells: cells.as_mut_ptr(), step: i as u64 }).collect();
            let list = list(&params, |i| sizes[i], threads);
            assert_eq!(list.phases.len(), 6);
            let mut expected = vec![0u64; 64];
            for _ in 0..50 {
                for (step, size) in sizes.iter().enumerate() {
                    expected[..*size].iter_mut().for_each(|c| *c = c.wrapping_mul(3).wrapping_add(step as u64));
                }
                // SAFETY: the parameters live and have as many cells as blocks.
                unsafe { team.run(&list) }.unwrap();
            }
            assert_eq!(cells, expected, "{threads} threads");
        }
    }

    #[test]
    fn chunks_cover_all_blocks_once_and_threads_begin_with_equal_ones() {
        for (blocks, threads) in (1..70).flat_map(|blocks| [1, 2, 3, 16].map(|threads| (blocks, threads))) {
            let chunks = Chunks::new(blocks, threads);
            let all: Vec<Range<usize>> = (0..).map(|n| chunks.get(n)).take_while(|c| !c.is_empty()).collect();
            assert_eq!(all.iter().cloned().flatten().collect::<Vec<_>>(), (0..blocks).collect::<Vec<_>>());
            assert!(all.windows(2).all(|w| w[0].len() >= w[1].len()), "{blocks} {threads} {all:?}");
            assert!(all[0].len() <= blocks.div_ceil(threads));
        }
        assert_eq!([0, 1, 2, 3, 4, 5].map(|n| Chunks::new(9, 2).get(n).len()), [3, 3, 1, 1, 1, 0]);
    }

    #[test]
    fn a_panicking_kernel_ends_the_step_and_not_the_team() {
        let mut team = Team::start(3, 0).unwrap();
        let mut cells = [0u64; 16];
        let params = [Steps { cells: cells.as_mut_ptr(), step: 1 }];
        let good = list(&params, |_| 16, 3);
        let mut bad = LaunchList::with_capacity(2);
        let launch = Launch { kernel: failing, params: params.as_ptr().cast(), blocks: 16, reads: None };
        bad.fill([launch, good.launches[0]].into_iter(), 3);
        for _ in 0..3 {
            // SAFETY: the kernel uses no memory.
            let panic = unsafe { team.run(&bad) }.unwrap_err();
            assert_eq!((panic.params, panic.message.as_str()), (params.as_ptr().addr(), "block five"));
        }
        assert_eq!(cells, [0; 16]);
        // SAFETY: the parameters live and have 16 cells.
        unsafe { team.run(&good) }.unwrap();
        assert_eq!(cells, [1; 16]);
    }

    #[test]
    fn an_empty_list_is_done_at_once() {
        let mut team = Team::start(2, 0).unwrap();
        for _ in 0..100 {
            // SAFETY: nothing is executed.
            unsafe { team.run(&LaunchList::default()) }.unwrap();
        }
    }
}
