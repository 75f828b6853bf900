//! Kernels over the heads of attention: `rope` and `kv_append`.

use super::grid::{expect, launch, refused};
use super::{Constraint, CudaKernel, Define, cuda_kernel};
use crate::abi::{KvAppendParams, RopeParams};

/// Warps of a block of `rope`: heads turned side by side.
const ROPE_WARPS: u32 = 4;

/// Pairs of a block of `rope`: a lane each.
const ROPE_PAIRS: u32 = 32;

/// Threads of a block of `kv_append`, which has one head of one token.
const APPEND_THREADS: u32 = 128;

/// Blocks of a token; heads without pairs are copied.
fn rope_blocks(p: &RopeParams) -> u64 {
    p.pairs.div_ceil(ROPE_PAIRS).max(1).into()
}

pub static ROPE: CudaKernel = cuda_kernel!(
    "rope", "rope.cu", RopeParams,
    specialise: |_, p| {
        expect("rope", "", p.tokens.into(), rope_blocks(p))?;
        Ok(vec![Define::new("WARPS", ROPE_WARPS)])
    },
    launches: |_, p| launch("rope", p.tokens.into(), rope_blocks(p), 32 * ROPE_WARPS),
    workspace: |_, _| 0,
);

/// The name of a cache's type in the sources.
pub(super) fn cache(kernel: &'static str, variant: &str, word: &str) -> Result<&'static str, Constraint> {
    match word {
        "f16" => Ok("CacheF16"),
        "f32" => Ok("CacheF32"),
        "int8" => Ok("CacheInt8"),
        _ => Err(refused(kernel, variant, format!("no cache of type {word:?}; there are f16, f32 and int8"))),
    }
}

pub static KV_APPEND: CudaKernel = cuda_kernel!(
    "kv_append", "kv_append.cu", KvAppendParams,
    specialise: |variant, p| {
        expect("kv_append", variant, p.tokens.into(), p.kv_heads.into())?;
        let cache = cache("kv_append", variant, variant)?;
        Ok(vec![Define::new("THREADS", APPEND_THREADS), Define::new("CACHE", cache)])
    },
    launches: |_, p| launch("kv_append", p.tokens.into(), p.kv_heads.into(), APPEND_THREADS),
    workspace: |_, _| 0,
);
