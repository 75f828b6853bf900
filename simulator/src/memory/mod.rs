//! Device memory: named allocations with exact bounds.
//!
//! A pointer is `allocation << 40 | offset`, so that an address names its allocation and no two allocations are neighbours: one byte past
//! the end is outside, always. Allocations that kernels may write hold words as relaxed atomics, because blocks run on several threads and
//! a racing kernel must be reported, not be undefined; read-only ones are plain bytes, which read faster.

mod allocation;
pub(crate) mod footprint;
pub(crate) mod history;
pub(crate) mod lane_writes;
pub(crate) mod shared;

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::SimError;
pub(crate) use allocation::{Allocation, for_sectors};

/// Bits of an offset within an allocation.
pub(crate) const GENERIC_SHIFT: u32 = 40;
/// Windows of generic addresses that are no allocations.
pub(crate) const SHARED_BASE: u64 = 1 << GENERIC_SHIFT;
pub(crate) const LOCAL_BASE: u64 = 2 << GENERIC_SHIFT;
pub(crate) const PARAM_BASE: u64 = 3 << GENERIC_SHIFT;
/// Number of the first allocation; those below are windows, so that small integers are no pointers.
pub(crate) const FIRST_ALLOCATION: u32 = 16;
/// The most allocations at a time.
const MOST_ALLOCATIONS: usize = 1 << 23;

/// An address of device memory, as kernels see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pointer(pub u64);

impl Pointer {
    /// The address `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Pointer {
        Pointer(self.0.wrapping_add(bytes))
    }

    fn split(self) -> (u32, u64) {
        ((self.0 >> GENERIC_SHIFT) as u32, self.0 & ((1 << GENERIC_SHIFT) - 1))
    }
}

/// What kernels may do with an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A kernel's write is a finding, and is dropped.
    ReadOnly,
    /// Kernels may read and write.
    ReadWrite,
}

/// All device memory of one simulated machine.
#[derive(Debug, Default)]
pub struct Memory {
    allocations: Vec<Option<Allocation>>,
    /// Module variables, by the module's identity and their name.
    pub(crate) variables: HashMap<(u64, String), Pointer>,
}

fn outside(message: String) -> SimError {
    SimError::HostAccess(message)
}

impl Memory {
    /// A machine without allocations.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn insert(&mut self, allocation: Allocation) -> Pointer {
        assert!(self.allocations.len() < MOST_ALLOCATIONS, "more allocations than addresses can name");
        // Numbers are not used again, so that a stale pointer stays invalid.
        self.allocations.push(Some(allocation));
        Pointer(u64::from(FIRST_ALLOCATION + self.allocations.len() as u32 - 1) << GENERIC_SHIFT)
    }

    /// Allocates `bytes` bytes whose contents are uninitialised: reading them is a finding. `name` appears in findings.
    pub fn allocate(&mut self, name: &str, bytes: usize, access: Access) -> Pointer {
        self.insert(Allocation::new(name, bytes, access))
    }

    /// Allocates and fills with `data`.
    pub fn allocate_with(&mut self, name: &str, data: Vec<u8>, access: Access) -> Pointer {
        self.insert(Allocation::with(name, data, access))
    }

    /// A read-only allocation over bytes that live elsewhere, such as a mapped file; nothing is copied.
    pub fn map(&mut self, name: &str, data: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Pointer {
        self.insert(Allocation::mapped(name, data))
    }

    pub(crate) fn allocation(&self, id: u32) -> Option<&Allocation> {
        self.allocations.get(id.checked_sub(FIRST_ALLOCATION)? as usize)?.as_ref()
    }

    fn find(&self, at: Pointer, bytes: usize) -> Result<(&Allocation, usize), SimError> {
        let (id, offset) = at.split();
        let Some(allocation) = self.allocation(id) else {
            return Err(outside(format!("{:#x} is in no allocation", at.0)));
        };
        let end = offset.checked_add(bytes as u64).filter(|&end| end <= allocation.size as u64);
        match end {
            Some(_) => Ok((allocation, offset as usize)),
            None => Err(outside(format!(
                "{bytes} bytes at {offset} leave `{}` of {} bytes",
                allocation.name, allocation.size
            ))),
        }
    }

    fn find_mut(&mut self, at: Pointer, bytes: usize) -> Result<(&mut Allocation, usize), SimError> {
        self.find(at, bytes)?;
        let (id, offset) = at.split();
        match self.allocations[(id - FIRST_ALLOCATION) as usize].as_mut() {
            Some(allocation) => Ok((allocation, offset as usize)),
            None => Err(outside(format!("{:#x} is in no allocation", at.0))),
        }
    }

    /// Returns an allocation's memory; `at` must be its start. Later accesses through it are out of bounds.
    pub fn free(&mut self, at: Pointer) -> Result<(), SimError> {
        let (id, offset) = at.split();
        self.find(at, 0)?;
        if offset != 0 {
            return Err(outside(format!("{:#x} is not the start of an allocation", at.0)));
        }
        self.allocations[(id - FIRST_ALLOCATION) as usize] = None;
        Ok(())
    }

    /// Marks the allocation that holds `at` as weights, for instructions per weight byte.
    pub fn mark_weights(&mut self, at: Pointer) -> Result<(), SimError> {
        self.find_mut(at, 0)?.0.weights = true;
        Ok(())
    }

    /// Copies `data` to `at`; also into read-only allocations, but not into mapped ones.
    pub fn write(&mut self, at: Pointer, data: &[u8]) -> Result<(), SimError> {
        let (allocation, offset) = self.find_mut(at, data.len())?;
        allocation.host_write(offset, data).map_err(outside)
    }

    /// Reads `bytes` bytes; uninitialised ones read as what they happen to be.
    pub fn read(&self, at: Pointer, bytes: usize) -> Result<Vec<u8>, SimError> {
        self.find(at, bytes)?;
        let mut out = vec![0; bytes];
        self.read_into(at, &mut out)?;
        Ok(out)
    }

    /// Reads into `out`.
    pub fn read_into(&self, at: Pointer, out: &mut [u8]) -> Result<(), SimError> {
        let (allocation, offset) = self.find(at, out.len())?;
        allocation.host_read(offset, out);
        Ok(())
    }

    /// Sets `bytes` bytes to `value`.
    pub fn fill(&mut self, at: Pointer, bytes: usize, value: u8) -> Result<(), SimError> {
        let (allocation, offset) = self.find_mut(at, bytes)?;
        allocation.host_write(offset, &vec![value; bytes]).map_err(outside)
    }

    /// Copies within device memory, and with the bytes whether they are initialised (as a whole).
    pub fn copy(&mut self, to: Pointer, from: Pointer, bytes: usize) -> Result<(), SimError> {
        let initialised = self.initialised(from, bytes)?;
        let data = self.read(from, bytes)?;
        self.write(to, &data)?;
        if initialised { Ok(()) } else { self.invalidate(to, bytes) }
    }

    /// Whether all of `bytes` bytes at `at` were written.
    pub fn initialised(&self, at: Pointer, bytes: usize) -> Result<bool, SimError> {
        let (allocation, offset) = self.find(at, bytes)?;
        Ok(allocation.initialised(offset, bytes))
    }

    /// Makes the contents uninitialised again, as when an arena's bytes pass to another tensor.
    pub fn invalidate(&mut self, at: Pointer, bytes: usize) -> Result<(), SimError> {
        let (allocation, offset) = self.find_mut(at, bytes)?;
        allocation.invalidate(offset, bytes);
        Ok(())
    }

    /// Gives an allocation another size under the same address; `at` must be its start. Its contents are uninitialised afterwards. A
    /// mapped allocation has the size of what it maps.
    pub fn resize(&mut self, at: Pointer, bytes: usize) -> Result<(), SimError> {
        let (allocation, offset) = self.find_mut(at, 0)?;
        if offset != 0 || matches!(allocation.storage, allocation::Storage::Mapped(_)) {
            return Err(outside(format!("{:#x} is not the start of an allocation of its own", at.0)));
        }
        let (weights, access) = (allocation.weights, allocation.access);
        let made_for = match allocation.storage {
            allocation::Storage::Words(_) => Access::ReadWrite,
            _ => Access::ReadOnly,
        };
        *allocation = Allocation { weights, access, ..Allocation::new(&allocation.name, bytes, made_for) };
        Ok(())
    }

    /// Changes what kernels may do with the allocation that holds `at`, from the next launch on. Only what was allocated for reading and
    /// writing can be written to.
    pub fn protect(&mut self, at: Pointer, access: Access) -> Result<(), SimError> {
        let (allocation, _) = self.find_mut(at, 0)?;
        if access == Access::ReadWrite && !matches!(allocation.storage, allocation::Storage::Words(_)) {
            return Err(outside(format!("`{}` was allocated for reading only", allocation.name)));
        }
        allocation.access = access;
        Ok(())
    }

    /// Sizes of all allocations by number, 0 for freed ones.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> {
        self.allocations.iter().map(|a| a.as_ref().map_or(0, |a| a.size))
    }

    /// Name of the allocation that holds `at` and the offset within it.
    pub fn locate(&self, at: Pointer) -> Option<(&str, u64)> {
        let (id, offset) = at.split();
        self.allocation(id).map(|a| (a.name.as_str(), offset))
    }

    /// Bytes of all live allocations.
    pub fn allocated_bytes(&self) -> usize {
        self.allocations.iter().flatten().map(|a| a.size).sum()
    }
}
