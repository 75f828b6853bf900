//! Memory for arena, KV pages and inputs: anonymous mappings, zero until written.
//!
//! A page of such a mapping becomes resident when it is first touched, so that a large KV cache costs only what is used of
//! it. The address never changes, which lets launches hold pointers.

use memmap2::{MmapMut, MmapOptions};

use crate::device::DeviceError;

/// A fixed piece of zeroed memory, aligned to a page of the machine.
pub(super) struct Region {
    /// `None` for an empty region.
    map: Option<MmapMut>,
    base: *mut u8,
    bytes: usize,
}

// SAFETY: a region owns its mapping; the pointer is into it. Whoever dereferences it answers for races.
unsafe impl Send for Region {}

impl Region {
    /// Reserves memory for the purpose `what`.
    pub fn new(what: &'static str, bytes: u64) -> Result<Region, DeviceError> {
        let fail = |source| DeviceError::Memory { what, bytes, source };
        let size = usize::try_from(bytes).map_err(|e| fail(std::io::Error::other(e)))?;
        if size == 0 {
            return Ok(Region { map: None, base: std::ptr::null_mut(), bytes: 0 });
        }
        let mut map = MmapOptions::new().len(size).no_reserve_swap().map_anon().map_err(fail)?;
        let base = map.as_mut_ptr();
        Ok(Region { map: Some(map), base, bytes: size })
    }

    /// The first byte; null if the region is empty.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Its bytes.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_zeroed_and_aligned() {
        let mut region = Region::new("a test", 1 << 20).unwrap();
        assert!(region.base().addr().is_multiple_of(4096));
        assert!(region.as_mut_slice().iter().all(|b| *b == 0));
        assert_eq!(region.bytes(), 1 << 20);
    }

    #[test]
    fn empty_and_impossible_regions() {
        assert_eq!(Region::new("a test", 0).unwrap().as_mut_slice().len(), 0);
        assert!(matches!(Region::new("a test", 1 << 62), Err(DeviceError::Memory { what: "a test", .. })));
    }
}
