//! The verbs that need the compiler.

pub mod cache;
pub mod compile;
pub mod inspect;
