//! A folder that appears whole or not at all.
//!
//! Files are written into a hidden sibling of the destination, each hashed on its way and synced; the sibling is renamed
//! into place at the end. A compile that is killed leaves at most the sibling, which holds a lock while its writer lives
//! and is swept away by the next compile to the same place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use runtime::artifact::{FileInfo, MANIFEST_FILE};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {source}", .path.display())]
pub struct WriteError {
    /// The file or folder.
    pub path: PathBuf,
    /// What was attempted.
    pub action: &'static str,
    /// The system's answer.
    pub source: io::Error,
}

fn at(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_path_buf();
    move |source| WriteError { path, action, source }
}

/// A folder in the making.
pub struct Staging {
    folder: PathBuf,
    destination: PathBuf,
    files: BTreeMap<String, FileInfo>,
    committed: bool,
    _lock: File,
}

impl Staging {
    /// Starts a folder that will become `destination`. That may exist only as an artifact, which is replaced.
    pub fn create(destination: &Path) -> Result<Staging, WriteError> {
        let name = destination.file_name().ok_or_else(|| WriteError {
            path: destination.into(),
            action: "create the artifact",
            source: io::Error::other("the path names no folder"),
        })?;
        check_replaceable(destination)?;
        let parent = match destination.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(at(parent, "create the folder"))?;
        let prefix = format!(".{}.partial-", name.to_string_lossy());
        sweep(parent, &prefix);
        let folder = parent.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&folder).map_err(at(&folder, "create the folder"))?;
        let lock = File::open(&folder).map_err(at(&folder, "open the folder"))?;
        lock.try_lock().map_err(io::Error::from).map_err(at(&folder, "lock the folder"))?;
        Ok(Staging { folder, destination: destination.into(), files: BTreeMap::new(), committed: false, _lock: lock })
    }

    /// The folder while it is in the making.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Opens a file of the folder for writing; `name` may have one sub-folder.
    pub fn file(&self, name: &str) -> Result<StagedFile, WriteError> {
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(at(parent, "create the folder"))?;
        }
        let file = File::create(&path).map_err(at(&path, "create the file"))?;
        let out = BufWriter::with_capacity(1 << 20, file);
        Ok(StagedFile { name: name.into(), path, out, hash: blake3::Hasher::new(), bytes: 0 })
    }

    /// Closes a file, synced, and notes its hash.
    pub fn close(&mut self, file: StagedFile) -> Result<(), WriteError> {
        let StagedFile { name, path, out, hash, bytes } = file;
        let inner = out.into_inner().map_err(|e| e.into_error()).map_err(at(&path, "write the file"))?;
        inner.sync_all().map_err(at(&path, "sync the file"))?;
        self.files.insert(name, FileInfo { bytes, blake3: hash.finalize().to_hex().to_string() });
        Ok(())
    }

    /// Writes a whole file.
    pub fn write(&mut self, name: &str, content: &[u8]) -> Result<(), WriteError> {
        let mut file = self.file(name)?;
        file.write(content)?;
        self.close(file)
    }

    /// Every file closed so far.
    pub fn files(&self) -> &BTreeMap<String, FileInfo> {
        &self.files
    }

    /// Makes the folder appear at its destination.
    pub fn commit(mut self) -> Result<(), WriteError> {
        sync_folder(&self.folder)?;
        let aside = self.folder.with_extension("replaced");
        let replaces = self.destination.exists();
        if replaces {
            fs::rename(&self.destination, &aside).map_err(at(&self.destination, "move the old artifact aside"))?;
        }
        if let Err(error) = fs::rename(&self.folder, &self.destination) {
            if replaces {
                let _ = fs::rename(&aside, &self.destination);
            }
            return Err(at(&self.destination, "move the artifact into place")(error));
        }
        self.committed = true;
        if replaces {
            fs::remove_dir_all(&aside).map_err(at(&aside, "remove the old artifact"))?;
        }
        match self.destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
            _ => sync_folder(Path::new(".")),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// A file being written and hashed.
pub struct StagedFile {
    name: String,
    path: PathBuf,
    out: BufWriter<File>,
    hash: blake3::Hasher,
    bytes: u64,
}

impl StagedFile {
    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(at(&self.path, "write the file"))
    }
}

/// Refuses to replace anything that is not an artifact, so that a mistyped path costs nothing.
fn check_replaceable(destination: &Path) -> Result<(), WriteError> {
    let occupied = |why: &str| WriteError {
        path: destination.into(),
        action: "write the artifact",
        source: io::Error::new(io::ErrorKind::AlreadyExists, why.to_string()),
    };
    match fs::symlink_metadata(destination) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(at(destination, "write the artifact")(e)),
        Ok(m) if !m.is_dir() => Err(occupied("a file that is no artifact folder stands there; name another path")),
        Ok(_) if destination.join(MANIFEST_FILE).is_file() => Ok(()),
        Ok(_) => {
            let mut entries = fs::read_dir(destination).map_err(at(destination, "read the folder"))?;
            match entries.next() {
                None => Ok(()),
                Some(_) => Err(occupied("a folder that is no artifact stands there; name another path")),
            }
        }
    }
}

/// Removes what killed compiles to the same destination left; a folder whose writer lives is locked.
fn sweep(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let stale = entry.file_name().to_string_lossy().starts_with(prefix)
            && File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok());
        if stale {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn sync_folder(folder: &Path) -> Result<(), WriteError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(at(folder, "sync the folder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_appears_before_commit_and_nothing_stays_after_drop() {
        let parent = tempfile::tempdir().unwrap();
        let destination = parent.path().join("model.moesaic");
        let mut staging = Staging::create(&destination).unwrap();
        staging.write("programs/a.ir", b"text").unwrap();
        assert!(!destination.exists());
        drop(staging);
        assert!(names(parent.path()).is_empty());
    }

    #[test]
    fn commit_replaces_an_artifact_and_refuses_anything_else() {
        let parent = tempfile::tempdir().unwrap();
        let destination = parent.path().join("model.moesaic");
        for content in [b"1", b"2"] {
            let mut staging = Staging::create(&destination).unwrap();
            staging.write(MANIFEST_FILE, content).unwrap();
            staging.commit().unwrap();
            assert_eq!(fs::read(destination.join(MANIFEST_FILE)).unwrap(), content);
            assert_eq!(names(parent.path()), ["model.moesaic"]);
        }
        let other = parent.path().join("photos");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("cat.jpg"), b"cat").unwrap();
        let error = Staging::create(&other).err().unwrap().to_string();
        assert!(error.contains("no artifact"), "{error}");
        assert_eq!(names(&other), ["cat.jpg"]);
    }

    #[test]
    fn what_a_killed_compile_left_is_swept_and_a_living_one_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let destination = parent.path().join("m");
        let stale = parent.path().join(".m.partial-1");
        fs::create_dir(&stale).unwrap();
        fs::write(stale.join("weights"), b"half").unwrap();
        let living = parent.path().join(".m.partial-2");
        fs::create_dir(&living).unwrap();
        let lock = File::open(&living).unwrap();
        lock.try_lock().unwrap();
        let staging = Staging::create(&destination).unwrap();
        assert!(!stale.exists() && living.exists());
        drop(staging);
    }
}
