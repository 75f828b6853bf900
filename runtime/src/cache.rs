//! Where this user's caches are.

use std::env;
use std::path::PathBuf;

/// The cache folder: `MOESAIC_CACHE`, else `moesaic` in `XDG_CACHE_HOME` or `~/.cache`, else in the temporary folder. It
/// need not exist.
pub fn folder() -> PathBuf {
    let set = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(folder) = set("MOESAIC_CACHE") {
        return folder;
    }
    let parent = set("XDG_CACHE_HOME").filter(|p| p.is_absolute()).or_else(|| Some(set("HOME")?.join(".cache")));
    parent.unwrap_or_else(env::temp_dir).join("moesaic")
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_always_a_folder() {
        assert!(super::folder().file_name().is_some());
    }
}
