//! One value from either kind of checkpoint: a field of config.json, or a key of GGUF metadata below the architecture's name.

use super::gguf;
use crate::ModelError;
use crate::config::{Fields, MAX_SIZE};
use crate::source::{Checkpoint, Metadata};

/// The fields of config.json, if the checkpoint has one.
pub fn config(checkpoint: &Checkpoint) -> Option<Fields<'_>> {
    match checkpoint.metadata() {
        Metadata::HuggingFace(config) => Some(config.fields()),
        Metadata::Gguf(_) => None,
    }
}

/// A finite number; `None` if absent.
///
/// # Errors
/// If it is of another type.
pub fn number(checkpoint: &Checkpoint, field: &str, key: &str) -> Result<Option<f64>, ModelError> {
    const FINITE: std::ops::RangeInclusive<f64> = f64::MIN..=f64::MAX;
    match checkpoint.metadata() {
        Metadata::HuggingFace(config) => config.fields().opt_f64(field, FINITE),
        Metadata::Gguf(metadata) => metadata.opt_f64(&gguf::key(metadata, key)?, FINITE),
    }
}

/// A positive number, such as a divisor; `None` if absent.
///
/// # Errors
/// If it is of another type or not positive.
pub fn positive(checkpoint: &Checkpoint, field: &str, key: &str) -> Result<Option<f64>, ModelError> {
    const POSITIVE: std::ops::RangeInclusive<f64> = f64::MIN_POSITIVE..=f64::MAX;
    match checkpoint.metadata() {
        Metadata::HuggingFace(config) => config.fields().opt_f64(field, POSITIVE),
        Metadata::Gguf(metadata) => metadata.opt_f64(&gguf::key(metadata, key)?, POSITIVE),
    }
}

/// A count, possibly zero; `None` if absent.
///
/// # Errors
/// If it is of another type.
pub fn count(checkpoint: &Checkpoint, field: &str, key: &str) -> Result<Option<u64>, ModelError> {
    match checkpoint.metadata() {
        Metadata::HuggingFace(config) => config.fields().opt_u64(field, 0..=MAX_SIZE),
        Metadata::Gguf(metadata) => metadata.opt_u64(&gguf::key(metadata, key)?, 0..=MAX_SIZE),
    }
}

/// A truth value; `None` if absent.
///
/// # Errors
/// If it is of another type.
pub fn flag(checkpoint: &Checkpoint, field: &str, key: &str) -> Result<Option<bool>, ModelError> {
    match checkpoint.metadata() {
        Metadata::HuggingFace(config) => config.fields().opt_bool(field),
        Metadata::Gguf(metadata) => metadata.opt_bool(&gguf::key(metadata, key)?),
    }
}
