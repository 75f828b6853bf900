//! The verbs that need the compiler.

pub mod cache;
pub mod compare;
pub mod compile;
pub mod inspect;
pub mod synth;
