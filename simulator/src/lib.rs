//! A simulator of PTX: it runs the very text that NVRTC emits for a GPU, on any machine, and reports what a kernel does wrong.
//!
//! [`Module::parse`] reads a module, [`Memory`] holds device memory, [`run`] launches a kernel and returns findings and counters. Results,
//! findings and counters do not depend on the number of threads.
//!
//! What it does not see: how ptxas schedules, caches with finite size, time, and reorderings of memory that the hardware may make within
//! a block. Trade-off: an interpreter over rows of 32 lanes, not a compiler; about 30 million warp instructions a second and core.

mod control_flow;
mod counters;
mod decode;
mod error;
mod exec;
mod finding;
mod memory;
mod mma;
mod numeric;
mod parse;

pub use counters::Counters;
pub use error::{ParseError, SimError};
pub use exec::{Launch, Options, Report, run};
pub use finding::{Finding, Kind};
pub use memory::{Access, Memory, Pointer};
pub use parse::Module;
