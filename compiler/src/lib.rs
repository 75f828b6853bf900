//! The compiler: checkpoints to artifacts. [`pipeline`] is the list of passes, in order.

pub mod budget;
pub mod cost;
pub mod emit;
pub mod fuse;
pub mod kv_type;
pub mod lower;
pub mod package;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod quantise;
pub mod report;
mod rewrite;
pub mod schedule;
pub mod target;
