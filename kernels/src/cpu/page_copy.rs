//! Copies whole pages of one layer, for prefixes that sequences share until one of them writes.

use std::ffi::c_void;
use std::ops::Range;

use super::CpuKernel;
use crate::abi::PageCopyParams;

/// Blocks of the launch's grid: one a pair of pages.
pub fn blocks(params: &PageCopyParams) -> usize {
    params.count as usize
}

/// The kernel over [`PageCopyParams`]; a copy needs no instruction set.
pub fn select() -> CpuKernel {
    run
}

/// # Safety
/// As [`CpuKernel`]; every page must exist, and none that is written may stand in the list twice.
unsafe fn run(params: *const c_void, blocks: Range<usize>, _: &mut [u8]) {
    // SAFETY: the caller passes this kernel's parameters with pages that exist.
    unsafe {
        let p = &*params.cast::<PageCopyParams>();
        let bytes = p.page_bytes as usize;
        for i in blocks.start..blocks.end.min(p.count as usize) {
            let page = |k: usize| p.kv.cast::<u8>().add(*p.pages.add(2 * i + k) as usize * bytes);
            std::ptr::copy(page(0), page(1), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::matmul::testing::launch;

    #[test]
    fn pages_are_copied_whole() {
        let mut kv: Vec<u32> = (0..6 * 8).collect();
        let pages = [0, 3, 0, 5, 2, 1];
        let kv_pointer = kv.as_mut_ptr().cast();
        let params = PageCopyParams { pages: pages.as_ptr(), kv: kv_pointer, page_bytes: 32, count: 3, reserved: 0 };
        assert_eq!(blocks(&params), 3);
        // SAFETY: the pages exist and are as long as the parameters say.
        unsafe { launch(select(), &params, &[1..3, 0..1], 0) };
        let firsts: Vec<u32> = kv.chunks(8).map(|page| page[0]).collect();
        assert_eq!(firsts, [0, 16, 16, 0, 32, 0]);
        assert!(kv.chunks(8).all(|page| page.windows(2).all(|w| w[1] == w[0] + 1)));
    }
}
