//! Kernels that an engine launches beside programs, compiled into every artifact for GPUs: sampling and copies of pages.
//!
//! No constant of theirs depends on a shape, so that one compilation serves every model.

use super::grid::{self, by_element, elementwise, expect, expect_elements, refused};
use super::{COUNTER_BYTES, CudaKernel, Define, Specialisation, cuda_kernel};
use crate::abi::{PageCopyParams, SampleParams};
use crate::catalog::SERVICES;
use crate::cpu::sample::MOST_TOKENS;

/// Most threads of a block that samples: `SAMPLE_THREADS` in `sampling.cuh`.
const SAMPLE_THREADS: u32 = 512;

/// Tokens of a row that a thread has, at least, until the block is as large as it may be. No result depends on it.
const SAMPLE_TOKENS: u32 = 8;

/// Bytes of a load of `page_copy`.
const COPY_BYTES: u64 = 16;

pub static SAMPLE: CudaKernel = cuda_kernel!(
    "sample", "sample.cu", SampleParams,
    specialise: |variant, p| {
        expect("sample", variant, p.rows.into(), 1)?;
        if p.vocab > MOST_TOKENS {
            let message = format!("{} tokens are more than the {MOST_TOKENS} whose mass is counted", p.vocab);
            return Err(refused("sample", variant, message));
        }
        Ok(vec![Define::new("COUNTER_BYTES", COUNTER_BYTES)])
    },
    launches: |_, p| grid::launch("sample", p.rows.into(), 1, sample_threads(p.vocab)),
    workspace: |_, p| {
        let changed = !p.allowed.is_null() || !p.history_offsets.is_null();
        u64::from(COUNTER_BYTES) + if changed { u64::from(p.rows) * u64::from(p.vocab) * 4 } else { 0 }
    },
);

fn sample_threads(vocab: u32) -> u32 {
    (vocab / SAMPLE_TOKENS).next_multiple_of(32).clamp(32, SAMPLE_THREADS)
}

pub static PAGE_COPY: CudaKernel = cuda_kernel!(
    "page_copy", "page_copy.cu", PageCopyParams,
    specialise: |variant, p| {
        if !p.page_bytes.is_multiple_of(COPY_BYTES) {
            let message = format!("pages of {} bytes are not a multiple of {COPY_BYTES}", p.page_bytes);
            return Err(refused("page_copy", variant, message));
        }
        expect_elements("page_copy", p.count.into(), p.page_bytes / COPY_BYTES)?;
        Ok(elementwise())
    },
    launches: |_, p| by_element("page_copy", p.count.into(), p.page_bytes / COPY_BYTES),
    workspace: |_, _| 0,
);

/// What every artifact for GPUs carries beside the kernels of its programs: a specialisation of each of [`SERVICES`].
pub fn services() -> Vec<Specialisation> {
    let specialise = |name: &&str| {
        let kernel = super::lookup(name)?;
        let bytes = crate::catalog::lookup(name)?.params_bytes;
        let params = vec![0u64; bytes.div_ceil(8)];
        // SAFETY: zeros are a value of every parameter struct; no pointer is followed.
        unsafe { kernel.specialise("", params.as_ptr().cast()) }.ok()
    };
    SERVICES.iter().filter_map(specialise).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One compilation of each serves launches of any shape.
    #[test]
    fn no_constant_of_a_service_depends_on_a_shape() {
        let services = services();
        assert_eq!(services.iter().map(|s| s.kernel).collect::<Vec<_>>(), SERVICES);
        let sample = SampleParams { rows: 7, vocab: 150_000, ..SampleParams::default() };
        let copy = PageCopyParams { count: 3, page_bytes: 4096, ..PageCopyParams::default() };
        // SAFETY: each is given its own struct.
        let of_shapes = unsafe {
            [SAMPLE.specialise("", (&raw const sample).cast()), PAGE_COPY.specialise("", (&raw const copy).cast())]
        };
        assert_eq!(of_shapes.map(Result::unwrap).to_vec(), services);
    }

    #[test]
    fn shapes_that_cannot_be_taken_are_errors() {
        let sample = SampleParams { rows: 1, vocab: MOST_TOKENS + 1, ..SampleParams::default() };
        let copy = PageCopyParams { count: 1, page_bytes: 24, ..PageCopyParams::default() };
        // SAFETY: each is given its own struct.
        let refused = unsafe {
            [SAMPLE.specialise("", (&raw const sample).cast()), PAGE_COPY.specialise("", (&raw const copy).cast())]
        };
        let [sample, copy] = refused.map(|r| r.unwrap_err().to_string());
        assert!(sample.contains("sample") && sample.contains("2097153 tokens"), "{sample}");
        assert!(copy.contains("page_copy") && copy.contains("24 bytes"), "{copy}");
    }

    #[test]
    fn short_rows_have_small_blocks() {
        assert_eq!([0, 1, 31, 257, 1000, 64_000].map(sample_threads), [32, 32, 32, 32, 128, 512]);
        assert_eq!(sample_threads(4096), 512);
    }
}
