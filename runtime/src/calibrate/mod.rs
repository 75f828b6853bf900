//! What a target can do in a second, as a table in a file; and measuring this machine's row.
//!
//! The compiler reads the table to choose among ways of carrying out the same graph, so a row needs to be about right and no more: a
//! measurement ends after a few seconds. One set of types serves both sides, as with the manifest.

mod measure;
mod table;

pub use measure::{Measured, measure};
pub use table::{COST_TABLE_SCHEMA, CostTable, CostTableError, TargetSpec};
