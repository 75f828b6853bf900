//! Where NVRTC is: the library a user names, that of a CUDA toolkit, the system's, else the pinned wheel's.
//!
//! The libraries are looked up by file, not by the dynamic linker's name search, so that the one used can be named, and opened by
//! its absolute path.

use std::env;
use std::path::{Path, PathBuf};

use crate::ToolError;
use crate::nvrtc::Nvrtc;
use crate::wheel::{NVRTC, Pin};

/// Names an NVRTC of CUDA 12 has on disk.
const FILE_NAMES: &[&str] = &["libnvrtc.so.12", "libnvrtc.so"];

/// Folders of a toolkit that hold libraries.
const LIBRARY_FOLDERS: &[&str] = &["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];

/// Folders in which systems keep libraries or a toolkit.
const SYSTEM_FOLDERS: &[&str] =
    &["/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];

/// How an NVRTC was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The user named it.
    Named,
    /// It is part of the toolkit in `CUDA_PATH`.
    CudaPath,
    /// It stands among the system's libraries.
    System,
    /// It came from the pinned wheel.
    Wheel,
}

impl Origin {
    /// In one word, for machines: `named`, `cuda_path`, `system` or `wheel`.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Named => "named",
            Origin::CudaPath => "cuda_path",
            Origin::System => "system",
            Origin::Wheel => "wheel",
        }
    }

    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Origin::Named => "named by the user",
            Origin::CudaPath => "from CUDA_PATH",
            Origin::System => "of the system",
            Origin::Wheel => "from the pinned wheel",
        }
    }
}

/// Opens NVRTC: the library `named` or of no other; else the first that is usable of `CUDA_PATH`, the system and the wheel.
///
/// # Errors
/// If the named library is not usable, or none is found and the wheel cannot be fetched.
pub fn nvrtc(named: Option<&Path>) -> Result<(Nvrtc, Origin), ToolError> {
    find(named, |wheel| wheel.fetch().map_err(|e| ToolError::NoNvrtc { reason: e.to_string() }))
}

/// As [`nvrtc`], of the libraries that are on this machine: nothing is fetched.
///
/// # Errors
/// If the named library is not usable, or none is found.
pub fn nvrtc_here(named: Option<&Path>) -> Result<(Nvrtc, Origin), ToolError> {
    let absent = || ToolError::NoNvrtc { reason: "it was not fetched yet".into() };
    find(named, |wheel| wheel.kept().ok_or_else(absent))
}

/// The library named, else the toolkit's, else the system's, else that of the wheel.
fn find(
    named: Option<&Path>,
    from_wheel: impl FnOnce(&Pin) -> Result<PathBuf, ToolError>,
) -> Result<(Nvrtc, Origin), ToolError> {
    if let Some(path) = named {
        return Ok((Nvrtc::open(path)?, Origin::Named));
    }
    let toolkit = env::var_os("CUDA_PATH").map(PathBuf::from).into_iter();
    let toolkit = toolkit.flat_map(|root| LIBRARY_FOLDERS.iter().map(move |folder| root.join(folder)));
    let system = SYSTEM_FOLDERS.iter().map(PathBuf::from);
    let folders = toolkit.map(|f| (f, Origin::CudaPath)).chain(system.map(|f| (f, Origin::System)));
    for (folder, origin) in folders {
        // A library of another version is not an error: there may be a better one.
        if let Some(nvrtc) = in_folder(&folder).find_map(|path| Nvrtc::open(&path).ok()) {
            return Ok((nvrtc, origin));
        }
    }
    Ok((Nvrtc::open(&from_wheel(&NVRTC)?)?, Origin::Wheel))
}

/// Files in a folder that may be NVRTC.
fn in_folder(folder: &Path) -> impl Iterator<Item = PathBuf> {
    FILE_NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_library_is_used_or_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libnvrtc.so.12");
        let error = nvrtc(Some(&path)).err().unwrap().to_string();
        assert!(error.contains("libnvrtc.so.12"), "{error}");
        std::fs::write(&path, b"no library").unwrap();
        let error = nvrtc(Some(&path)).err().unwrap().to_string();
        assert!(error.contains("libnvrtc.so.12") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn libraries_are_looked_for_by_their_file_names() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(in_folder(folder.path()).count(), 0);
        std::fs::write(folder.path().join("libnvrtc.so"), b"").unwrap();
        std::fs::write(folder.path().join("libnvrtc.so.12"), b"").unwrap();
        let names: Vec<_> = in_folder(folder.path()).filter_map(|p| p.file_name().map(|n| n.to_owned())).collect();
        assert_eq!(names, ["libnvrtc.so.12", "libnvrtc.so"]);
    }
}
