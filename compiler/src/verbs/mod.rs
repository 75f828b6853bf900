//! The verbs that need the compiler.

pub mod cache;
pub mod compare;
pub mod compile;
mod costs;
pub mod fit;
pub mod inspect;
pub mod synth;
pub mod toolchain;
