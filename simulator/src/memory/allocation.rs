//! One allocation: its bytes and which of them were written.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::Access;

/// Where an allocation's bytes are.
pub(crate) enum Storage {
    /// Words that kernels may write, from several threads.
    Words(Vec<AtomicU32>),
    /// Bytes that only the host writes.
    Bytes(Vec<u8>),
    Mapped(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Storage::Words(_) => "Words",
            Storage::Bytes(_) => "Bytes",
            Storage::Mapped(_) => "Mapped",
        })
    }
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub name: String,
    pub size: usize,
    pub access: Access,
    pub storage: Storage,
    /// A bit for each byte, a word for each 32 of them; `None`: all are written.
    pub written: Option<Vec<AtomicU32>>,
    pub weights: bool,
}

fn words(bytes: usize) -> Vec<AtomicU32> {
    (0..bytes.div_ceil(4)).map(|_| AtomicU32::new(0)).collect()
}

/// Bits `from..to` of a word, with to ≤ 32.
pub(crate) fn bit_range(from: usize, to: usize) -> u32 {
    if to <= from { 0 } else { (u32::MAX >> (32 - (to - from))) << from }
}

impl Allocation {
    pub fn new(name: &str, size: usize, access: Access) -> Allocation {
        let written = (0..size.div_ceil(32)).map(|_| AtomicU32::new(0)).collect();
        let storage = match access {
            Access::ReadWrite => Storage::Words(words(size)),
            Access::ReadOnly => Storage::Bytes(vec![0; size]),
        };
        Allocation { name: name.into(), size, access, storage, written: Some(written), weights: false }
    }

    pub fn with(name: &str, data: Vec<u8>, access: Access) -> Allocation {
        let size = data.len();
        let storage = match access {
            Access::ReadOnly => Storage::Bytes(data),
            Access::ReadWrite => Storage::Words(
                data.chunks(4)
                    .map(|c| {
                        let mut word = [0; 4];
                        word[..c.len()].copy_from_slice(c);
                        AtomicU32::new(u32::from_le_bytes(word))
                    })
                    .collect(),
            ),
        };
        Allocation { name: name.into(), size, access, storage, written: None, weights: false }
    }

    pub fn mapped(name: &str, data: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Allocation {
        let size = (*data).as_ref().len();
        let storage = Storage::Mapped(data);
        Allocation { name: name.into(), size, access: Access::ReadOnly, storage, written: None, weights: false }
    }

    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.storage {
            Storage::Words(_) => None,
            Storage::Bytes(bytes) => Some(bytes),
            Storage::Mapped(bytes) => Some((**bytes).as_ref()),
        }
    }

    pub fn host_read(&self, offset: usize, out: &mut [u8]) {
        if let Some(bytes) = self.bytes() {
            out.copy_from_slice(&bytes[offset..offset + out.len()]);
        } else if let Storage::Words(words) = &self.storage {
            for (i, byte) in out.iter_mut().enumerate() {
                let at = offset + i;
                *byte = (words[at / 4].load(Relaxed) >> (at % 4 * 8)) as u8;
            }
        }
    }

    pub fn host_write(&mut self, offset: usize, data: &[u8]) -> Result<(), String> {
        match &mut self.storage {
            Storage::Bytes(bytes) => bytes[offset..offset + data.len()].copy_from_slice(data),
            Storage::Mapped(_) => return Err(format!("`{}` is mapped and cannot be written", self.name)),
            Storage::Words(words) => {
                for (i, &byte) in data.iter().enumerate() {
                    let at = offset + i;
                    let word = words[at / 4].get_mut();
                    *word = *word & !(255 << (at % 4 * 8)) | u32::from(byte) << (at % 4 * 8);
                }
            }
        }
        if offset == 0 && data.len() == self.size {
            self.written = None;
        }
        self.mark(offset, data.len());
        Ok(())
    }

    /// Notes that bytes were written.
    pub fn mark(&self, offset: usize, bytes: usize) {
        let Some(written) = &self.written else { return };
        for_sectors(offset, bytes, |sector, mask| {
            let word = &written[sector];
            if word.load(Relaxed) & mask != mask {
                word.fetch_or(mask, Relaxed);
            }
        });
    }

    /// Notes that bytes of a sector were written.
    pub fn mark_sector(&self, sector: usize, mask: u32) {
        if let Some(written) = &self.written {
            written[sector].fetch_or(mask, Relaxed);
        }
    }

    /// Which bytes of a sector were written.
    #[inline]
    pub fn written_bits(&self, sector: usize) -> u32 {
        self.written.as_ref().map_or(u32::MAX, |w| w[sector].load(Relaxed))
    }

    pub fn initialised(&self, offset: usize, bytes: usize) -> bool {
        let Some(written) = &self.written else { return true };
        let mut all = true;
        for_sectors(offset, bytes, |sector, mask| all &= written[sector].load(Relaxed) & mask == mask);
        all
    }

    pub fn invalidate(&mut self, offset: usize, bytes: usize) {
        let size = self.size;
        let full = || (0..size.div_ceil(32)).map(|_| AtomicU32::new(u32::MAX)).collect();
        let written = self.written.get_or_insert_with(full);
        for_sectors(offset, bytes, |sector, mask| *written[sector].get_mut() &= !mask);
    }

    /// Reads up to 4 bytes at an offset aligned to them, within bounds.
    #[inline(always)]
    pub fn load_part(&self, offset: usize, bytes: usize) -> u32 {
        match &self.storage {
            Storage::Words(words) => {
                let word = words[offset / 4].load(Relaxed) >> (offset % 4 * 8);
                if bytes == 4 { word } else { word & ((1 << (8 * bytes)) - 1) }
            }
            _ => {
                let all = self.bytes().unwrap_or(&[]);
                let mut word = [0u8; 4];
                word[..bytes].copy_from_slice(&all[offset..offset + bytes]);
                u32::from_le_bytes(word)
            }
        }
    }

    /// Writes up to 4 bytes at an offset aligned to them; a read-only allocation is left alone.
    #[inline(always)]
    pub fn store_part(&self, offset: usize, bytes: usize, value: u32) {
        let Storage::Words(words) = &self.storage else { return };
        let word = &words[offset / 4];
        if bytes == 4 {
            return word.store(value, Relaxed);
        }
        let shift = offset % 4 * 8;
        let mask = ((1u32 << (8 * bytes)) - 1) << shift;
        // Two blocks may write different bytes of a word at the same time.
        let put = |old| Some(old & !mask | value << shift & mask);
        let _ = word.fetch_update(Relaxed, Relaxed, put);
    }
}

/// Calls `f(sector, byte mask)` for each 32-byte sector that the range touches.
pub(crate) fn for_sectors(offset: usize, bytes: usize, mut f: impl FnMut(usize, u32)) {
    let end = offset + bytes;
    let mut at = offset;
    while at < end {
        let stop = (at / 32 * 32 + 32).min(end);
        f(at / 32, bit_range(at % 32, (stop - 1) % 32 + 1));
        at = stop;
    }
}
