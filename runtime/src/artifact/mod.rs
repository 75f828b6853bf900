//! Artifacts.
mod manifest;
pub use manifest::*;
