//! Files of an artifact folder, opened by names that are never trusted.
//!
//! A name in a manifest may lead to a file below the folder and nowhere else: no absolute path, no `..`, no symbolic link
//! on the way. The folder itself may be reached through links, since its path comes from the user.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::error::{ArtifactError, Fault};
use super::hash::hash_file;
use super::manifest::FileInfo;

/// An artifact's folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder at a path.
    pub fn new(path: &Path) -> Folder {
        Folder(path.to_path_buf())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it, for messages and, after [`check_name`], for opening.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Opens a regular file and gives its length.
    pub fn open(&self, name: &str) -> Result<(File, u64), Fault> {
        check_name(name)?;
        self.check_links(name)?;
        // O_NONBLOCK: opening a FIFO must not hang before its type is known.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.join(name))
            .map_err(Fault::io("open the file"))?;
        let meta = file.metadata().map_err(Fault::io("read the file's length"))?;
        if !meta.is_file() {
            return Err(Fault::Path("it must be a regular file"));
        }
        Ok((file, meta.len()))
    }

    fn check_links(&self, name: &str) -> Result<(), Fault> {
        let mut path = self.0.clone();
        for component in Path::new(name).components() {
            path.push(component);
            if path.symlink_metadata().map_err(Fault::io("open the file"))?.is_symlink() {
                return Err(Fault::Path("a symbolic link; an artifact holds its files itself"));
            }
        }
        Ok(())
    }

    /// Opens a file, checking its length and, if `hash`, its content.
    pub fn open_listed(&self, name: &str, info: &FileInfo, hash: bool) -> Result<File, ArtifactError> {
        let check = || {
            let (file, found) = self.open(name)?;
            if found != info.bytes {
                return Err(Fault::Length { expected: info.bytes, found });
            }
            if hash {
                let found = hash_file(&file, info.bytes).map_err(Fault::io("read the file"))?.to_hex();
                if !info.blake3.eq_ignore_ascii_case(&found) {
                    return Err(Fault::Hash { expected: info.blake3.clone(), found: found.to_string() });
                }
            }
            Ok(file)
        };
        check().map_err(|fault| fault.at(&self.join(name), ""))
    }

    /// The whole content of a file of at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Fault> {
        let (file, len) = self.open(name)?;
        if len > limit {
            return Err(Fault::Invalid(format!("{len} bytes, more than the {limit} such a file may have")));
        }
        let mut content = vec![0; len as usize];
        file.read_exact_at(&mut content, 0).map_err(Fault::io("read the file"))?;
        Ok(content)
    }
}

/// Refuses names that are no plain relative paths.
fn check_name(name: &str) -> Result<(), Fault> {
    let plain = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    if name.is_empty() || !plain || name.ends_with('/') || name.contains(['\0', '\\']) {
        return Err(Fault::Path("a file's name must be a relative path without `..`"));
    }
    Ok(())
}

/// Whether an error says that there is no such file.
pub(super) fn is_missing(fault: &Fault) -> bool {
    matches!(fault, Fault::Io { source, .. } if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "./a", "a/..", "a/", "a\0b", "..\\x", "."] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "programs/tokens-1.ir", "..a", "a..b"] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn links_and_special_files_are_refused() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path().parent().unwrap(), folder.path().join("links")).unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let under_link = format!("links/{}", outside.path().file_name().unwrap().to_string_lossy());
        let folder = Folder::new(folder.path());
        for bad in ["link", &under_link, "sub"] {
            assert!(matches!(folder.open(bad), Err(Fault::Path(_))), "{bad}");
        }
        assert!(is_missing(&folder.open("absent").unwrap_err()));
    }
}
