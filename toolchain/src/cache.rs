//! Compilations kept by content: the same source, headers it includes, options and NVRTC give the same bytes, so they are made once.
//!
//! An entry is one file named by the SHA-256 of everything the result depends on; its own hash stands in front, and an entry
//! that does not fit it is compiled again. The folder is bounded ([`Store`]), and any number of processes may share it.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::ToolError;
use crate::nvrtc::{CompileFailure, Compiled, Nvrtc, Source};
use crate::store::Store;

/// NVRTC with a folder of what it has compiled before.
#[derive(Clone, Debug)]
pub struct CachedNvrtc {
    nvrtc: Nvrtc,
    store: Store,
}

/// Why nothing was compiled.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The source does not compile.
    #[error(transparent)]
    Compile(#[from] CompileFailure),
    /// The folder cannot be written.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// Counts the changes of [`Nvrtc::compile`] that give other results for the same arguments.
const RESULTS: u32 = 2;

/// The folder of compilations in the user's cache.
pub fn folder() -> PathBuf {
    crate::cache().join("cubins")
}

/// Most bytes of the folder, where [`LIMIT_SETTING`] does not say otherwise: some four thousand kernels.
pub const DEFAULT_LIMIT: u64 = 2 << 30;

/// The environment variable that bounds the folder, in bytes; 0 keeps nothing.
pub const LIMIT_SETTING: &str = "MOESAIC_CUBIN_CACHE_BYTES";

/// Most bytes of the folder in the user's cache.
///
/// # Errors
/// If the environment says something that is no number of bytes.
pub fn limit() -> Result<u64, ToolError> {
    parse_limit(std::env::var_os(LIMIT_SETTING).map(|value| value.to_string_lossy().into_owned()).as_deref())
}

fn parse_limit(value: Option<&str>) -> Result<u64, ToolError> {
    match value.map(str::trim) {
        None | Some("") => Ok(DEFAULT_LIMIT),
        Some(value) => value.parse().map_err(|_| ToolError::Setting { name: LIMIT_SETTING, value: value.into() }),
    }
}

/// Bytes of a SHA-256.
const HASH: usize = 32;

impl CachedNvrtc {
    /// Keeps compilations of `nvrtc` in the user's cache folder, as many as [`limit`] says.
    ///
    /// # Errors
    /// As [`limit`].
    pub fn new(nvrtc: Nvrtc) -> Result<CachedNvrtc, ToolError> {
        Ok(CachedNvrtc { nvrtc, store: Store::new(&folder(), limit()?) })
    }

    /// Keeps them in `folder`, which need not exist, up to [`DEFAULT_LIMIT`].
    pub fn within(nvrtc: Nvrtc, folder: &Path) -> CachedNvrtc {
        CachedNvrtc { nvrtc, store: Store::new(folder, DEFAULT_LIMIT) }
    }

    /// The compiler behind it.
    pub fn nvrtc(&self) -> &Nvrtc {
        &self.nvrtc
    }

    /// As [`Nvrtc::compile`]; also whether the result was there already.
    ///
    /// # Errors
    /// If the source does not compile or the folder cannot be written.
    pub fn compile(
        &self,
        source: &Source,
        architecture: &str,
        options: &[String],
    ) -> Result<(Compiled, bool), CacheError> {
        let key = self.key(source, architecture, options);
        if let Some(compiled) = self.store.get(&key).and_then(|bytes| decode(&bytes)) {
            return Ok((compiled, true));
        }
        let compiled = self.nvrtc.compile(source, architecture, options)?;
        self.store.put(&key, &encode(&compiled))?;
        Ok((compiled, false))
    }

    fn key(&self, source: &Source, architecture: &str, options: &[String]) -> String {
        let (major, minor) = self.nvrtc.version();
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        add(&format!("{RESULTS} {major}.{minor} {architecture}"));
        // Two builds of one version differ in their size, if in anything.
        let bytes = fs::metadata(self.nvrtc.path()).map_or(0, |m| m.len());
        let headers = source.included();
        add(&format!("{bytes} {} {}", options.len(), headers.len()));
        options.iter().for_each(|o| add(o));
        add(source.name);
        add(source.text);
        for (name, text) in headers {
            add(name);
            add(text);
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

fn encode(compiled: &Compiled) -> Vec<u8> {
    let parts = [compiled.cubin.as_slice(), compiled.ptx.as_bytes(), compiled.log.as_bytes()];
    let mut bytes = vec![0; HASH];
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let hash = Sha256::digest(&bytes[HASH..]);
    bytes[..HASH].copy_from_slice(&hash);
    bytes
}

/// `None` for bytes that are not what [`encode`] gave.
fn decode(bytes: &[u8]) -> Option<Compiled> {
    let (hash, mut rest) = bytes.split_at_checked(HASH)?;
    if Sha256::digest(rest)[..] != *hash {
        return None;
    }
    let mut part = || {
        let (len, tail) = rest.split_first_chunk::<8>()?;
        let (part, tail) = tail.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        rest = tail;
        Some(part.to_vec())
    };
    let (cubin, ptx, log) = (part()?, part()?, part()?);
    Some(Compiled { cubin, ptx: String::from_utf8(ptx).ok()?, log: String::from_utf8(log).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_a_number_of_bytes() {
        assert_eq!(parse_limit(None).ok(), Some(DEFAULT_LIMIT));
        assert_eq!(parse_limit(Some(" 4096 ")).ok(), Some(4096));
        let refused = parse_limit(Some("2 GiB")).expect_err("no number").to_string();
        assert!(refused.contains(LIMIT_SETTING) && refused.contains("2 GiB") && refused.contains("bytes"), "{refused}");
    }

    #[test]
    fn damaged_entries_are_no_entries() {
        let compiled = Compiled { cubin: vec![1, 2, 3], ptx: ".version 8.8".into(), log: String::new() };
        let bytes = encode(&compiled);
        assert_eq!(decode(&bytes), Some(compiled));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
