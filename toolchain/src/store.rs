//! A folder of entries by name that is bounded in bytes: what was used longest ago goes first.
//!
//! An entry appears whole (written beside, then renamed) and its time of change is that of its last use, so that any number of processes may share
//! the folder without speaking to each other. The folder is looked through only once a process has added a sixteenth of the bound itself; so it may
//! exceed the bound by that much for each process, and adding an entry costs no walk. One process at a time removes entries; one that
//! another still wants is made again, for a reader has either the whole entry or none.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use crate::ToolError;

/// The part of the bound that a process adds before it looks at the whole folder, and that is freed beyond need.
const SHARE: u64 = 16;

/// What is beside entries and this old was left by a process that ended while it wrote.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Entries in a folder.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    limit: u64,
    /// Bytes added since the folder was last looked through; at first as if there were many.
    added: Arc<AtomicU64>,
}

/// An entry, or a file that is none.
struct Found {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Store {
    /// Entries in `folder`, which need not exist, of at most `limit` bytes together.
    pub fn new(folder: &Path, limit: u64) -> Store {
        Store { folder: folder.to_path_buf(), limit, added: Arc::new(AtomicU64::new(u64::MAX / 2)) }
    }

    /// The same folder with another bound.
    pub fn bounded(self, limit: u64) -> Store {
        Store { limit, ..self }
    }

    /// Most bytes of all entries.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// An entry, which is thereby used.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.folder.join(name);
        let bytes = fs::read(&path).ok()?;
        // Of a folder that may not be written the times stay as they are.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(bytes)
    }

    /// Keeps an entry, unless it alone exceeds the bound. `name` is of letters and digits.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ToolError> {
        let size = bytes.len() as u64;
        if size > self.limit {
            return Ok(());
        }
        let path = self.folder.join(name);
        fs::create_dir_all(&self.folder).map_err(ToolError::io(&self.folder))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(ToolError::io(&self.folder))?;
        file.write_all(bytes).map_err(ToolError::io(&path))?;
        file.persist(&path).map_err(|e| ToolError::io(&path)(e.error))?;
        if self.added.fetch_add(size, Relaxed).saturating_add(size) >= self.limit / SHARE {
            self.added.store(0, Relaxed);
            self.prune(&path);
        }
        Ok(())
    }

    /// Removes what was used longest ago until the rest keeps the bound, all but `newest`. What cannot be removed stays: the folder is a
    /// cache, and no reason for a compilation to fail.
    fn prune(&self, newest: &Path) {
        // A folder can be locked like a file; where it cannot, removing the same entries twice does no harm. Who finds another at it
        // waits: the other may have looked before this entry was added, and nobody else would count it.
        let folder = File::open(&self.folder);
        let _lock = folder.as_ref().map(File::lock);
        let (mut entries, others): (Vec<Found>, Vec<Found>) = self.files().partition(|found| is_entry(&found.path));
        let old = |found: &Found| found.used.elapsed().is_ok_and(|age| age > ABANDONED);
        others.iter().filter(|found| old(found)).for_each(|found| drop(fs::remove_file(&found.path)));
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        if total <= self.limit {
            return;
        }
        entries.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        for entry in entries.iter().filter(|entry| entry.path != newest) {
            if total <= self.limit - self.limit / SHARE {
                break;
            }
            if fs::remove_file(&entry.path).is_ok() {
                total -= entry.bytes;
            }
        }
    }

    fn files(&self) -> impl Iterator<Item = Found> {
        fs::read_dir(&self.folder).into_iter().flatten().flatten().filter_map(|entry| {
            let about = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some(Found { path: entry.path(), bytes: about.len(), used: about.modified().ok()? })
        })
    }
}

/// Files that are being written have a dot in front.
fn is_entry(path: &Path) -> bool {
    path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(store: &Store) -> u64 {
        store.files().map(|found| found.bytes).sum()
    }

    /// Says that an entry was last used so many minutes ago.
    fn used(store: &Store, name: &str, minutes: u64) {
        let file = File::open(store.folder.join(name)).expect("the entry is there");
        file.set_modified(SystemTime::now() - Duration::from_secs(60 * minutes)).expect("its time can be set");
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path(), 1000);
        for i in 0..10 {
            store.put(&format!("e{i}"), &[i; 100]).expect("it is kept");
            used(&store, &format!("e{i}"), 60 - u64::from(i));
        }
        assert_eq!(total(&store), 1000, "as much as may be");
        assert_eq!(store.get("e0"), Some(vec![0; 100]));
        store.put("new", &[7; 100]).expect("it is kept");
        assert!(total(&store) <= 1000);
        assert_eq!((store.get("e1"), store.get("e2")), (None, None), "used longest ago");
        assert!(["e0", "e3", "e9", "new"].iter().all(|name| store.get(name).is_some()));
    }

    #[test]
    fn a_folder_that_was_filled_before_is_bounded_by_the_first_entry() {
        let folder = tempfile::tempdir().expect("a folder");
        let before = Store::new(folder.path(), 1 << 20);
        (0..50).for_each(|i| before.put(&format!("e{i}"), &[1; 100]).expect("it is kept"));
        let store = before.clone().bounded(1000);
        assert_eq!((before.limit(), store.limit()), (1 << 20, 1000));
        Store::new(folder.path(), 1000).put("one", &[2; 100]).expect("it is kept");
        assert!(total(&store) <= 1000 && store.get("one").is_some());
    }

    #[test]
    fn what_exceeds_the_bound_alone_is_not_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path(), 10);
        store.put("small", &[1; 10]).expect("it is kept");
        store.put("large", &[1; 11]).expect("nothing is wrong");
        assert!(store.get("small").is_some() && store.get("large").is_none());
        let nothing = Store::new(&folder.path().join("none"), 0);
        nothing.put("any", &[1]).expect("nothing is wrong");
        assert!(nothing.get("any").is_none());
    }

    #[test]
    fn what_an_ended_process_left_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path(), 1000);
        for (name, minutes) in [(".tmpOLD", 60 * 25), (".tmpNEW", 5)] {
            fs::write(folder.path().join(name), [0; 500]).expect("a file");
            used(&store, name, minutes);
        }
        store.put("e", &[1; 900]).expect("it is kept");
        assert!(!folder.path().join(".tmpOLD").exists() && folder.path().join(".tmpNEW").exists());
        assert!(store.get("e").is_some(), "what is being written does not count");
    }

    /// Stores of their own lock and count as processes do. Nobody ever reads half an entry or another's.
    #[test]
    fn many_may_share_a_folder() {
        const LIMIT: u64 = 64 << 10;
        const WRITERS: u64 = 8;
        let folder = tempfile::tempdir().expect("a folder");
        let content = |i: u64| vec![i as u8; 512 + 16 * i as usize];
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let folder = folder.path();
                scope.spawn(move || {
                    let store = Store::new(folder, LIMIT);
                    for round in 0..200u64 {
                        let i = (round * 7 + writer * 31) % 160;
                        match store.get(&format!("e{i}")) {
                            Some(bytes) => assert_eq!(bytes, content(i)),
                            None => store.put(&format!("e{i}"), &content(i)).expect("it is kept"),
                        }
                    }
                });
            }
        });
        let store = Store::new(folder.path(), LIMIT);
        assert!(total(&store) <= LIMIT + WRITERS * (LIMIT / SHARE + 4096), "{}", total(&store));
        store.put("last", &content(1)).expect("it is kept");
        assert!(total(&store) <= LIMIT);
    }
}
