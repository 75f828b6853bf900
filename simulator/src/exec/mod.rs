//! Execution: a launch is blocks, a block is warps, a warp runs until a barrier or its end.

// A lane number indexes several rows at once; loops over it are what the compiler vectorises.
#![allow(clippy::needless_range_loop)]

mod async_copy;
mod atomic;
mod barrier;
mod block;
mod global;
mod interpreter;
mod lanes;
mod launch;
mod machine;
mod matrix;
mod memory_access;
mod shared_access;
pub(crate) mod vector;
mod warp;
mod warp_ops;

pub use launch::{Launch, Options, Report, run};
