//! What a folder holds and what its disk has room for.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache;

/// The cache folder, which need not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheFolder {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of all files in it.
    pub bytes: u64,
    /// Bytes its disk has room for, where the system tells.
    pub free_bytes: Option<u64>,
}

impl CacheFolder {
    /// This user's.
    pub fn look() -> CacheFolder {
        CacheFolder::at(cache::folder())
    }

    pub fn at(path: PathBuf) -> CacheFolder {
        let free_bytes = path.ancestors().find(|folder| folder.is_dir()).and_then(free_bytes);
        CacheFolder { bytes: bytes(&path), free_bytes, path }
    }
}

/// Bytes of the files below a folder; what cannot be read counts nothing, links are not followed.
fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes(&entry.path()),
        Ok(meta) if meta.is_file() => meta.len(),
        _ => 0,
    };
    entries.map(of).sum()
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_below_are_counted_and_a_folder_that_is_not_there_has_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/x"), [0; 700]).unwrap();
        fs::write(folder.path().join("y"), [0; 30]).unwrap();
        let found = CacheFolder::at(folder.path().into());
        assert_eq!(found.bytes, 730);
        assert!(found.free_bytes.is_some_and(|bytes| bytes > 0));
        let absent = CacheFolder::at(folder.path().join("no/such"));
        assert_eq!((absent.bytes, absent.free_bytes.is_some()), (0, true));
    }
}
