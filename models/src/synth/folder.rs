//! A folder that appears whole or not at all, as the compiler's artifacts do.
//!
//! Files are written into a hidden sibling, which is renamed at the end. The sibling is locked while its writer lives; what
//! a killed one left is swept away by the next.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::SynthError;
use super::error::at;

/// A folder in the making; removed when dropped before [`StagedFolder::commit`].
pub(super) struct StagedFolder {
    folder: PathBuf,
    destination: PathBuf,
    committed: bool,
    _lock: File,
}

impl StagedFolder {
    /// Starts a folder that will become `destination`, where nothing or an empty folder may stand.
    pub fn create(destination: &Path) -> Result<StagedFolder, SynthError> {
        check_free(destination)?;
        let no_name = || io::Error::other("the path names no folder");
        let name = destination.file_name().ok_or_else(no_name).map_err(at(destination, "write a model"))?;
        let parent = parent_of(destination);
        fs::create_dir_all(parent).map_err(at(parent, "create the folder"))?;
        let prefix = format!(".{}.partial-", name.to_string_lossy());
        sweep(parent, &prefix);
        let folder = parent.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&folder).map_err(at(&folder, "create the folder"))?;
        let lock = File::open(&folder).map_err(at(&folder, "open the folder"))?;
        let staged = StagedFolder { folder, destination: destination.into(), committed: false, _lock: lock };
        staged._lock.try_lock().map_err(io::Error::from).map_err(at(&staged.folder, "lock the folder"))?;
        Ok(staged)
    }

    /// Path of a file while it is written.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a whole file, synced.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), SynthError> {
        let path = self.path(name);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(at(&path, "write the file"))
    }

    /// Makes the folder appear at its destination.
    pub fn commit(mut self) -> Result<(), SynthError> {
        sync(&self.folder)?;
        // Renaming replaces an empty folder, and only an empty one.
        fs::rename(&self.folder, &self.destination).map_err(at(&self.destination, "move the model into place"))?;
        self.committed = true;
        sync(parent_of(&self.destination))
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn check_free(path: &Path) -> Result<(), SynthError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(at(path, "write a model")(e)),
        Ok(meta) if meta.is_dir() => {
            let mut entries = fs::read_dir(path).map_err(at(path, "read the folder"))?;
            entries.next().map_or(Ok(()), |_| Err(SynthError::Occupied { path: path.into() }))
        }
        Ok(_) => Err(SynthError::Occupied { path: path.into() }),
    }
}

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

fn sync(folder: &Path) -> Result<(), SynthError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(at(folder, "sync the folder"))
}
