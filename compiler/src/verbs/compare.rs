//! `moesaic compare`: compiles what is no artifact yet, then compares.

use runtime::cli::CompareArgs;

use super::cache;

/// Compares two artifacts or models.
pub fn compare(mut args: CompareArgs) -> Result<(), Box<dyn std::error::Error>> {
    args.a = cache::artifact_for(&args.a)?;
    args.b = cache::artifact_for(&args.b)?;
    runtime::cli::compare(&args)
}
