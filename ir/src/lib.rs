//! The intermediate representation: types, ops, graphs, programs, their text form, verifier and interpreter.
//!
//! A leaf crate: it does no IO and knows no device.

pub mod expand;
pub mod graph;
pub mod interp;
pub mod op;
pub mod program;
pub mod quant;
pub mod text;
pub mod types;
pub mod verify;
