//! `cargo xtask gates`: writes kernels/GATES.md.
//!
//! The figures are made and held by a test; writing them is running that test with leave to bless what it finds. It still fails where a gate
//! is missed without a named exception.

use anyhow::Result;

use crate::workspace::{cargo, succeed};

/// Measures every gate and writes the table.
pub fn run() -> Result<()> {
    let test = ["test", "--package", "moesaic-tests", "--test", "gates", "--locked", "--quiet"];
    succeed(cargo(&test).env("BLESS", "1"))
}
