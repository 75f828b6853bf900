//! Bounded reading of a GGUF header: every length is checked against what is left before anything is allocated.

use crate::ModelError;
use std::io::{BufReader, Read};
use std::path::Path;

/// Most bytes the header (metadata and tensor table) may have. Real ones have up to some 20 MiB, their vocabulary.
const MAX_HEADER_BYTES: u64 = 256 << 20;

/// Reads little-endian values and counts what is left.
pub(super) struct HeaderReader<'a, R> {
    inner: BufReader<R>,
    path: &'a Path,
    position: u64,
    end: u64,
}

impl<'a, R: Read> HeaderReader<'a, R> {
    /// Reads from the start of a file of `len` bytes.
    pub fn new(inner: R, path: &'a Path, len: u64) -> HeaderReader<'a, R> {
        HeaderReader {
            inner: BufReader::with_capacity(1 << 16, inner),
            path,
            position: 0,
            end: len.min(MAX_HEADER_BYTES),
        }
    }

    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// An error about the part `at`.
    pub fn wrong(&self, at: impl Into<String>, problem: impl Into<String>) -> ModelError {
        ModelError::malformed(self.path, at, problem)
    }

    /// Checks that `count` items of at least `each` bytes can still follow. Returns `count` as an index type.
    pub fn fits(&self, at: &str, count: u64, each: u64) -> Result<usize, ModelError> {
        let left = self.end - self.position;
        match count.checked_mul(each) {
            Some(bytes) if bytes <= left => Ok(count as usize),
            _ => {
                let problem = format!("claims {count} items of at least {each} bytes, but {left} bytes are left");
                Err(self.wrong(at, problem))
            }
        }
    }

    /// `count` items of exactly `each` bytes.
    pub fn bytes(&mut self, at: &str, count: u64, each: u64) -> Result<Vec<u8>, ModelError> {
        let mut out = vec![0; self.fits(at, count, each)? * each as usize];
        self.fill(at, &mut out)?;
        Ok(out)
    }

    pub fn array<const N: usize>(&mut self, at: &str) -> Result<[u8; N], ModelError> {
        self.fits(at, 1, N as u64)?;
        let mut out = [0; N];
        self.fill(at, &mut out)?;
        Ok(out)
    }

    pub fn u32(&mut self, at: &str) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array(at)?))
    }

    pub fn u64(&mut self, at: &str) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array(at)?))
    }

    /// A string: its length, then UTF-8.
    pub fn string(&mut self, at: &str) -> Result<String, ModelError> {
        let len = self.u64(at)?;
        let bytes = self.bytes(at, len, 1)?;
        String::from_utf8(bytes).map_err(|_| self.wrong(at, "is not valid UTF-8"))
    }

    /// Appends a string to `text`.
    pub fn append_string(&mut self, at: &str, text: &mut Vec<u8>) -> Result<(), ModelError> {
        let len = self.u64(at)?;
        let len = self.fits(at, len, 1)?;
        let start = text.len();
        text.resize(start + len, 0);
        self.fill(at, &mut text[start..])
    }

    fn fill(&mut self, at: &str, out: &mut [u8]) -> Result<(), ModelError> {
        let len = out.len();
        let action = || format!("read {len} bytes at {} ({at})", self.position);
        self.inner.read_exact(out).map_err(|e| ModelError::io(self.path, action(), e))?;
        self.position += out.len() as u64;
        Ok(())
    }
}
