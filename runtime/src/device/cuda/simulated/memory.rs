//! Memory of the simulated GPU and page-locked memory of the host.

use std::collections::HashMap;

use simulator::{Access, Memory, Pointer, SimError};

use crate::device::cuda::driver::{DeviceAddress, HostAddress, MemoryInfo};

/// Distance of blocks that have no contents.
const EMPTY_STRIDE: u64 = 1 << 40;

/// All memory.
pub(super) struct Memories {
    /// Contents of the GPU's; empty where nothing is executed.
    pub device: Memory,
    executes: bool,
    /// Bytes of each block, by its address.
    blocks: HashMap<DeviceAddress, u64>,
    next_empty: u64,
    /// Words of each block of the host, by its address. Held as raw memory, for the caller has views of it.
    host: HashMap<HostAddress, usize>,
}

impl Memories {
    pub fn new(executes: bool) -> Memories {
        let (blocks, host) = (HashMap::new(), HashMap::new());
        Memories { device: Memory::new(), executes, blocks, next_empty: EMPTY_STRIDE, host }
    }

    pub fn info(&self, total: u64) -> MemoryInfo {
        MemoryInfo { free: total.saturating_sub(self.blocks.values().sum()), total }
    }

    /// Blocks that were not returned.
    pub fn live(&self) -> usize {
        self.blocks.len() + self.host.len()
    }

    pub fn allocate(&mut self, bytes: u64) -> DeviceAddress {
        let at = match self.executes {
            true => DeviceAddress(self.device.allocate("a block", bytes as usize, Access::ReadWrite).0),
            false => DeviceAddress(self.next_empty),
        };
        self.next_empty += EMPTY_STRIDE;
        self.blocks.insert(at, bytes);
        at
    }

    /// Whether there was such a block.
    pub fn free(&mut self, at: DeviceAddress) -> bool {
        let known = self.blocks.remove(&at).is_some();
        known && (!self.executes || self.device.free(Pointer(at.0)).is_ok())
    }

    /// Whether a range lies in one block.
    pub fn holds(&self, at: DeviceAddress, bytes: u64) -> bool {
        self.blocks.iter().any(|(start, size)| start.0 <= at.0 && at.0.saturating_add(bytes) <= start.0 + size)
    }

    pub fn allocate_host(&mut self, bytes: u64) -> HostAddress {
        let words = (bytes as usize).div_ceil(8);
        let block: *mut [u64] = Box::into_raw(vec![0u64; words].into_boxed_slice());
        let at = HostAddress(block.cast::<u64>() as u64);
        self.host.insert(at, words);
        at
    }

    /// Whether there was such a block.
    pub fn free_host(&mut self, at: HostAddress) -> bool {
        let Some(words) = self.host.remove(&at) else { return false };
        // SAFETY: made by `allocate_host` of so many words, and just removed from the list, so that it is returned once.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(at.0 as usize as *mut u64, words)) });
        true
    }

    /// Whether a range lies in one block of the host.
    pub fn holds_host(&self, at: HostAddress, bytes: u64) -> bool {
        self.host.iter().any(|(start, words)| start.0 <= at.0 && at.0 + bytes <= start.0 + 8 * *words as u64)
    }

    /// Copies from the host, if there are contents.
    pub fn upload(&mut self, to: DeviceAddress, from: HostAddress, bytes: u64) -> Result<(), SimError> {
        if !self.executes {
            return Ok(());
        }
        // SAFETY: the range lies in a block of this list, as was checked when the copy was asked for and since.
        let data = unsafe { std::slice::from_raw_parts(from.0 as usize as *const u8, bytes as usize) };
        self.device.write(Pointer(to.0), data)
    }

    /// Copies to the host; words without contents leave it as it is.
    pub fn download(&mut self, to: HostAddress, from: DeviceAddress, bytes: u64) -> Result<(), SimError> {
        if !self.executes {
            return Ok(());
        }
        let data = self.device.read(Pointer(from.0), bytes as usize)?;
        // SAFETY: as above; the caller has no view of it while a copy is under way, by the driver's contract.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to.0 as usize as *mut u8, data.len()) };
        Ok(())
    }

    pub fn copy(&mut self, to: DeviceAddress, from: DeviceAddress, bytes: u64) -> Result<(), SimError> {
        match self.executes {
            true => self.device.copy(Pointer(to.0), Pointer(from.0), bytes as usize),
            false => Ok(()),
        }
    }

    pub fn fill(&mut self, at: DeviceAddress, value: u8, bytes: u64) -> Result<(), SimError> {
        match self.executes {
            true => self.device.fill(Pointer(at.0), bytes as usize, value),
            false => Ok(()),
        }
    }
}

impl Drop for Memories {
    fn drop(&mut self) {
        for at in self.host.keys().copied().collect::<Vec<_>>() {
            self.free_host(at);
        }
    }
}
