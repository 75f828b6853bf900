//! What a launch costs on a target: a roofline over its operands, from the program alone.
//!
//! A launch takes bytes / bandwidth + operations / rate + τ, and τ twice where GPUs prepare a product's activations in a launch of
//! their own. The terms are added, not overlapped: a launch of a small model is too short to hide one behind another, and a sum ranks
//! alternatives by everything they save. Costs rank ways to carry out the same graph; they promise no time, and launches that every
//! way has in common cancel out.
//!
//! Sizes are the program's upper bounds. What depends on the sequences in a step is fixed by two assumptions:
//! steps of at most [`DECODE_TOKENS`] tokens are decoding, one token a sequence with [`CONTEXT_TOKENS`] positions before it;
//! larger ones are one chunk of a prompt, without a cache before it.
//!
//! The model knows operands by the names of the catalog's fields ([`call`]) and kernels by name only where an element takes more than
//! one operation ([`work`]). A kernel it has never seen costs the bytes of its operands and an operation for each element.

mod call;
mod targets;
#[cfg(test)]
mod tests;
mod traffic;
mod work;

use std::iter::Sum;
use std::ops::Add;

use ir::program::{Launch, Program};
pub use targets::{COST_TABLE_SCHEMA, CostTable, CostTableError, TargetSpec, read_cost_table};

use self::call::Call;

/// Positions that a decoded token attends to.
pub const CONTEXT_TOKENS: u64 = 1024;

/// Most tokens of a step that decodes; more are a chunk of one prompt.
pub const DECODE_TOKENS: u64 = 8;

/// What a launch, or several, cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LaunchCost {
    /// Bytes from and to memory: each operand once.
    pub bytes: u64,
    /// Bytes that blocks read again, from the cache all units share.
    pub cached_bytes: u64,
    /// Arithmetic operations, a multiplication and an addition counted as two.
    pub operations: u64,
    /// Time by the roofline.
    pub seconds: f64,
}

impl Add for LaunchCost {
    type Output = LaunchCost;

    fn add(self, other: LaunchCost) -> LaunchCost {
        LaunchCost {
            bytes: self.bytes.saturating_add(other.bytes),
            cached_bytes: self.cached_bytes.saturating_add(other.cached_bytes),
            operations: self.operations.saturating_add(other.operations),
            seconds: self.seconds + other.seconds,
        }
    }
}

impl Sum for LaunchCost {
    fn sum<I: Iterator<Item = LaunchCost>>(costs: I) -> LaunchCost {
        costs.fold(LaunchCost::default(), Add::add)
    }
}

/// What a launch costs, at the upper bounds of the program's symbols. Sizes that overflow count as the largest number.
pub fn launch_cost(program: &Program, launch: &Launch, spec: &TargetSpec) -> LaunchCost {
    let call = Call::new(program, launch);
    let (bytes, cached_bytes) = traffic::bytes(&call, spec);
    let work = work::operations(&call, spec);
    let seconds = bytes as f64 / spec.bytes_per_s
        + cached_bytes as f64 / spec.cached_bytes_per_s
        + work.products as f64 / work.rate(spec)
        + work.elementwise as f64 / spec.f32_ops_per_s
        + spec.launch_s * if call.prepares(spec) { 2.0 } else { 1.0 };
    LaunchCost { bytes, cached_bytes, operations: work.products.saturating_add(work.elementwise), seconds }
}

/// What a whole step costs: the launches one after the other.
pub fn program_cost(program: &Program, spec: &TargetSpec) -> LaunchCost {
    program.launches.iter().map(|launch| launch_cost(program, launch, spec)).sum()
}

/// The decoder layer a launch belongs to, by its label `layers.N.…`.
pub fn layer_of(label: &str) -> Option<u64> {
    label.strip_prefix("layers.")?.split_once('.')?.0.parse().ok()
}
