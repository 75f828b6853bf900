//! What is told of each launch to whoever watches.

use simulator::{Counters, Finding};

/// One launch of an entry, as it was simulated.
#[derive(Clone, Debug)]
pub struct LaunchRecord {
    /// Which step of the device, from 0.
    pub step: u64,
    /// Tokens of the step.
    pub tokens: usize,
    /// Index of the bucket.
    pub bucket: usize,
    /// Index of the launch in the bucket's program.
    pub launch: usize,
    /// The catalog's kernel.
    pub kernel: &'static str,
    /// Its variant.
    pub variant: String,
    /// The launch's label in the program.
    pub label: String,
    /// The `extern "C"` name that ran.
    pub entry: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Warp instructions executed.
    pub warp_instructions: u64,
    /// Findings of the checks that count.
    pub findings: Vec<Finding>,
    /// Counters, if they were asked for.
    pub counters: Option<Counters>,
}

/// Receives each launch when it has run, also one with findings.
pub type Observer = Box<dyn FnMut(LaunchRecord) + Send>;
