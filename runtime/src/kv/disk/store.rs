//! The files of the disk tier: written whole or not at all, kept within a size, shared by processes.
//!
//! A page is written beside its place, synced and renamed, so that a process killed at any moment leaves old files, whole
//! files and temporary ones that the next trimming removes. Nothing else is kept: the order of last use is the files' time of
//! modification, and whatever cannot be read is a page that is not there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::super::key::{PageKey, Place};
use super::file::{HEADER, claimed_place, header, place_of};

/// Ending of a page's file.
const EXTENSION: &str = "kv";

/// Beginning of a temporary file.
const TEMPORARY: &str = ".partial-";

/// Age after which a temporary file has no writer any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Bytes of a write.
const PIECE: usize = 1 << 20;

/// The operations that change the file system, apart so that tests can end them at any point.
pub(super) trait Storage: Send {
    /// Creates a file, which following writes go to.
    fn create(&mut self, path: &Path) -> io::Result<()>;
    /// Appends to the file.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Waits until the file is on disk, and closes it.
    fn sync(&mut self) -> io::Result<()>;
    /// Renames a file over another.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
}

/// The real file system.
#[derive(Debug, Default)]
pub(super) struct FileSystem {
    file: Option<File>,
}

impl Storage for FileSystem {
    fn create(&mut self, path: &Path) -> io::Result<()> {
        // A page holds what tenants have written: nobody else may read it.
        self.file = Some(OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_mut().ok_or(io::ErrorKind::NotConnected)?.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.take().ok_or(io::ErrorKind::NotConnected)?.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// A file of the tier.
#[derive(Clone, Debug)]
struct Found {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
    /// `None` for a temporary file.
    key: Option<PageKey>,
}

/// The tier's folders: one below `root` for each artifact and arithmetic.
#[derive(Clone, Debug)]
pub(super) struct Store {
    root: PathBuf,
    folder: PathBuf,
    page_bytes: usize,
}

impl Store {
    /// Opens or creates the folder of an identity.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn open(root: &Path, identity: &blake3::Hash, page_bytes: usize) -> io::Result<Store> {
        let folder = root.join(identity.to_hex().as_str());
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Store { root: root.into(), folder, page_bytes })
    }

    /// Bytes of a page's file.
    pub fn file_bytes(&self) -> u64 {
        (HEADER + self.page_bytes) as u64
    }

    fn path(&self, key: &PageKey) -> PathBuf {
        let name = blake3::Hash::from_bytes(*key.as_bytes()).to_hex();
        self.folder.join(name.as_str()).with_extension(EXTENSION)
    }

    /// Writes a page unless it is there; true if it was written.
    ///
    /// # Errors
    /// What the system says; then nothing but perhaps a temporary file is left.
    pub fn write(&self, storage: &mut dyn Storage, key: &PageKey, place: &Place, bytes: &[u8]) -> io::Result<bool> {
        let path = self.path(key);
        if path.symlink_metadata().is_ok_and(|meta| meta.len() == self.file_bytes()) {
            return Ok(false);
        }
        let temporary = self.folder.join(temporary_name());
        let mut write = || {
            storage.create(&temporary)?;
            storage.write(&header(key, place, bytes))?;
            bytes.chunks(PIECE).try_for_each(|piece| storage.write(piece))?;
            storage.sync()?;
            storage.rename(&temporary, &path)
        };
        write().map(|()| true).inspect_err(|_| {
            let _ = storage.remove(&temporary);
        })
    }

    /// Reads a page; `None` if there is no whole and unharmed one. A file that is none is removed, so that it can be
    /// written anew.
    pub fn read(&self, key: &PageKey) -> Option<(Place, Vec<u8>)> {
        let path = self.path(key);
        // O_NONBLOCK: opening a FIFO must not hang before its type is known.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(&path).ok()?;
        let page = self.read_open(&mut file, key);
        if page.is_none() {
            let _ = fs::remove_file(&path);
        }
        page
    }

    /// What the header of a page's file says of its place; whether the file is whole shows when it is read.
    pub fn read_place(&self, key: &PageKey) -> Option<Place> {
        let mut head = [0; HEADER];
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(self.path(key)).ok()?;
        file.read_exact(&mut head).ok()?;
        claimed_place(&head, key)
    }

    fn read_open(&self, file: &mut File, key: &PageKey) -> Option<(Place, Vec<u8>)> {
        let meta = file.metadata().ok()?;
        if !meta.is_file() || meta.len() != self.file_bytes() {
            return None;
        }
        let (mut head, mut bytes) = ([0; HEADER], Vec::with_capacity(self.page_bytes));
        file.read_exact(&mut head).ok()?;
        // Memory that is read into need not be zeroed before; a short page has another hash.
        file.take(self.page_bytes as u64).read_to_end(&mut bytes).ok()?;
        Some((place_of(&head, &bytes, key)?, bytes))
    }

    /// Notes that a page was used.
    pub fn touch(&self, key: &PageKey) {
        if let Ok(file) = File::open(self.path(key)) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// The pages of this identity, the most recently used first.
    pub fn recent(&self) -> Vec<PageKey> {
        let mut found = files_of(&self.folder);
        found.sort_by_key(|f| std::cmp::Reverse(f.modified));
        found.into_iter().filter_map(|f| f.key).collect()
    }

    /// Removes abandoned temporary files and then, if all artifacts' pages take more than `limit` bytes, the least
    /// recently used ones until they take no more than `target`. Gives the bytes that are left.
    pub fn trim(&self, storage: &mut dyn Storage, limit: u64, target: u64) -> u64 {
        let folders = fs::read_dir(&self.root).into_iter().flatten().flatten().map(|e| e.path());
        let is_identity =
            |path: &PathBuf| path.file_name().is_some_and(|n| blake3::Hash::from_hex(n.as_encoded_bytes()).is_ok());
        let mut found: Vec<Found> = folders.filter(is_identity).flat_map(|folder| files_of(&folder)).collect();
        let now = SystemTime::now();
        let abandoned = |f: &Found| f.key.is_none() && now.duration_since(f.modified).is_ok_and(|age| age > ABANDONED);
        found.retain(|f| !abandoned(f) || storage.remove(&f.path).is_err());
        let mut total: u64 = found.iter().map(|f| f.bytes).sum();
        if total <= limit {
            return total;
        }
        found.sort_by_key(|f| f.modified);
        for file in found.iter().filter(|f| f.key.is_some()) {
            if total <= target {
                break;
            }
            if storage.remove(&file.path).is_ok() {
                total -= file.bytes;
            }
        }
        total
    }
}

/// A name that no other writer uses, be it of this process or of one that has the same number in another container.
fn temporary_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{TEMPORARY}{}-{time}-{count}", std::process::id())
}

/// The tier's files in a folder; others are not its own and stay.
fn files_of(folder: &Path) -> Vec<Found> {
    let describe = |entry: fs::DirEntry| {
        let (path, meta) = (entry.path(), entry.metadata().ok()?);
        let name = path.file_name()?.to_str()?;
        let key = name.strip_suffix(".kv").and_then(|hex| blake3::Hash::from_hex(hex).ok());
        if !meta.is_file() || (key.is_none() && !name.starts_with(TEMPORARY)) {
            return None;
        }
        let key = key.map(|hash| PageKey::from_bytes(hash.into()));
        Some(Found { bytes: meta.len(), modified: meta.modified().ok()?, key, path })
    };
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::salt::CacheSalt;

    const PAGE: usize = 3 * PIECE / 2;
    const PLACE: Place = Place { tokens: [3; 16], parent: None };

    fn keys(n: usize) -> Vec<PageKey> {
        PageKey::chain(PageKey::root(&CacheSalt::PUBLIC, 0), &vec![3; 16 * n])
    }

    fn store(root: &Path) -> Store {
        Store::open(root, &blake3::hash(b"an artifact"), PAGE).unwrap()
    }

    /// A file system whose process is killed before operation `left`: that one is done in half, none after it at all.
    struct Killed {
        inner: FileSystem,
        left: usize,
    }

    impl Killed {
        fn next(&mut self) -> io::Result<()> {
            self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::Interrupted)?;
            Ok(())
        }
    }

    impl Storage for Killed {
        fn create(&mut self, path: &Path) -> io::Result<()> {
            self.next()?;
            self.inner.create(path)
        }
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            let dies = self.left == 1;
            self.next()?;
            self.inner.write(if dies { &bytes[..bytes.len() / 2] } else { bytes })?;
            if dies { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        }
        fn sync(&mut self) -> io::Result<()> {
            self.next()?;
            self.inner.sync()
        }
        fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
            self.next()?;
            self.inner.rename(from, to)
        }
        fn remove(&mut self, path: &Path) -> io::Result<()> {
            self.next()?;
            self.inner.remove(path)
        }
    }

    #[test]
    fn a_process_killed_at_any_operation_leaves_a_whole_page_or_none() {
        let (key, bytes) = (keys(1)[0], vec![9; PAGE]);
        let mut whole = 0;
        for left in 0..9 {
            let root = tempfile::tempdir().unwrap();
            let store = store(root.path());
            let mut killed = Killed { inner: FileSystem::default(), left };
            let written = store.write(&mut killed, &key, &PLACE, &bytes).is_ok();
            // Another process, later.
            let page = store.read(&key);
            assert_eq!(page.is_some(), written, "killed before operation {left}");
            whole += usize::from(page.is_some_and(|(place, b)| place == PLACE && b == bytes));
            assert!(store.write(&mut FileSystem::default(), &key, &PLACE, &bytes).is_ok());
            assert!(store.read(&key).is_some());
        }
        // Create, three writes (header and two pieces), sync, rename: six operations, so that 6, 7 and 8 suffice.
        assert_eq!(whole, 3);
    }

    #[test]
    fn a_damaged_or_foreign_file_is_a_miss_and_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let (store, key) = (store(root.path()), keys(1)[0]);
        let bytes = vec![1; PAGE];
        type Damage = fn(&Path);
        let damages: [Damage; 5] = [
            |p| fs::write(p, b"").unwrap(),
            |p| fs::write(p, vec![0; HEADER + PAGE]).unwrap(),
            |p| {
                let mut content = fs::read(p).unwrap();
                content[HEADER + 77] ^= 1;
                fs::write(p, content).unwrap();
            },
            |p| fs::write(p, vec![7; HEADER + PAGE + 1]).unwrap(),
            |p| {
                fs::remove_file(p).unwrap();
                std::os::unix::fs::symlink("/dev/zero", p).unwrap();
            },
        ];
        for damage in damages {
            let _ = fs::remove_file(store.path(&key));
            assert!(store.write(&mut FileSystem::default(), &key, &PLACE, &bytes).unwrap());
            assert!(!store.write(&mut FileSystem::default(), &key, &PLACE, &bytes).unwrap(), "it is there already");
            damage(&store.path(&key));
            assert!(store.read(&key).is_none());
            assert!(store.write(&mut FileSystem::default(), &key, &PLACE, &bytes).unwrap());
            assert_eq!(store.read(&key), Some((PLACE, bytes.clone())));
        }
    }

    #[test]
    fn trimming_removes_the_least_recently_used_of_all_artifacts_and_abandoned_files() {
        let root = tempfile::tempdir().unwrap();
        let ours = Store::open(root.path(), &blake3::hash(b"a"), 100).unwrap();
        let theirs = Store::open(root.path(), &blake3::hash(b"b"), 100).unwrap();
        let (keys, file) = (keys(4), ours.file_bytes());
        let epoch = SystemTime::UNIX_EPOCH;
        for (age, (store, key)) in
            [(&ours, keys[0]), (&theirs, keys[1]), (&ours, keys[2]), (&ours, keys[3])].into_iter().enumerate()
        {
            store.write(&mut FileSystem::default(), &key, &PLACE, &[0; 100]).unwrap();
            let at = epoch + Duration::from_secs(10_000 + age as u64);
            File::open(store.path(&key)).unwrap().set_modified(at).unwrap();
        }
        let (old, young) = (ours.folder.join(".partial-1-x"), theirs.folder.join(".partial-2-x"));
        fs::write(&old, b"half").unwrap();
        fs::write(&young, b"half").unwrap();
        File::open(&old).unwrap().set_modified(epoch).unwrap();
        let foreign = ours.folder.join("notes.txt");
        fs::write(&foreign, b"mine").unwrap();
        ours.touch(&keys[0]);
        assert_eq!(ours.recent(), [keys[0], keys[3], keys[2]]);
        let mut storage = FileSystem::default();
        assert_eq!(ours.trim(&mut storage, 4 * file + 4, 0), 4 * file + 4, "within the limit nothing goes");
        assert_eq!(ours.trim(&mut storage, 3 * file, 2 * file + 4), 2 * file + 4);
        assert!(!old.exists() && young.exists() && foreign.exists());
        assert!(theirs.read(&keys[1]).is_none() && ours.read(&keys[2]).is_none());
        assert!(ours.read(&keys[0]).is_some() && ours.read(&keys[3]).is_some());
    }
}
