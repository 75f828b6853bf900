//! What a GPU is judged by, in one executable that `cargo xtask gpu` can carry to a machine without cargo: the tests of whole models that run on
//! any device, and those that compare a GPU with the simulator. All need `MOESAIC_TEST_DEVICE=cuda`; without it the first are those of the
//! processor and the simulator again, so `cargo test` leaves this target out.

mod equality;
#[path = "../parity.rs"]
mod parity;
#[path = "../prefix_cache.rs"]
mod prefix_cache;
#[path = "../simulated.rs"]
mod simulated;
