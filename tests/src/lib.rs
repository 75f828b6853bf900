//! Shared by the integration tests: golden fixtures with their reference outputs, and checkpoints compiled into artifacts.
//!
//! The fixtures stand in `tests/golden`. `MOESAIC_GOLDEN` may name a folder of more checkpoints of the same layout, which the
//! golden tests then run as well.

pub mod artifacts;
pub mod golden;
pub mod interpreted;
pub mod served;
