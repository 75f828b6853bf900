//! Names of answers and the time they were asked for.

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// A name that no other answer has.
pub(crate) fn fresh(prefix: &str) -> String {
    format!("{prefix}{}", Uuid::new_v4().simple())
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
