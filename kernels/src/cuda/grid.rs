//! Grids of kernels over rows: a row is a block, or a row of blocks that share its columns.
//!
//! Rows are the grid's first dimension, the only one that holds more than 65535 blocks.

use std::fmt;

use super::{Constraint, CudaLaunch, Define};

/// Threads of a block.
pub(super) const THREADS: u32 = 256;

/// Columns, or elements, of a block of kernels whose elements do not depend on each other.
pub(super) const ELEMENTS: u32 = 4 * THREADS;

/// Most blocks of the first dimension of a grid.
const MOST_FIRST: u64 = i32::MAX as u64;

/// Most blocks of the others.
const MOST_OTHER: u64 = u16::MAX as u64;

/// `THREADS`.
pub(super) fn threads() -> Define {
    Define::new("THREADS", THREADS)
}

/// `THREADS` and `ELEMENTS`.
pub(super) fn elementwise() -> Vec<Define> {
    vec![threads(), Define::new("ELEMENTS", ELEMENTS)]
}

/// A launch of `entry` with `rows` × `columns` blocks of `threads`; none if there are none.
pub(super) fn launch(entry: &'static str, rows: u64, columns: u64, threads: u32) -> Vec<CudaLaunch> {
    if rows == 0 || columns == 0 {
        return Vec::new();
    }
    // What does not fit, `expect` has refused.
    vec![CudaLaunch { entry, grid: [rows as u32, columns as u32, 1], threads, shared_bytes: 0 }]
}

/// A block a row.
pub(super) fn by_row(entry: &'static str, rows: u32) -> Vec<CudaLaunch> {
    launch(entry, rows.into(), 1, THREADS)
}

/// A block each [`ELEMENTS`] columns of a row.
pub(super) fn by_element(entry: &'static str, rows: u64, cols: u64) -> Vec<CudaLaunch> {
    launch(entry, rows, cols.div_ceil(ELEMENTS.into()), THREADS)
}

/// Refuses grids of more blocks than there may be; the way out is fewer tokens a launch.
pub(super) fn expect(kernel: &'static str, variant: &str, rows: u64, columns: u64) -> Result<(), Constraint> {
    if rows <= MOST_FIRST && columns <= MOST_OTHER {
        return Ok(());
    }
    let message = format!(
        "a grid of {rows} x {columns} blocks is more than {MOST_FIRST} x {MOST_OTHER}: launch fewer tokens at a time"
    );
    Err(refused(kernel, variant, message))
}

/// As [`expect`], for [`by_element`].
pub(super) fn expect_elements(kernel: &'static str, rows: u64, cols: u64) -> Result<(), Constraint> {
    expect(kernel, "", rows, cols.div_ceil(ELEMENTS.into()))
}

/// A shape that is not taken.
pub(super) fn refused(kernel: &'static str, variant: &str, message: impl fmt::Display) -> Constraint {
    Constraint { kernel, variant: variant.into(), message: message.to_string() }
}
