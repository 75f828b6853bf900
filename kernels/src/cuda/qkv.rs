//! `qkv`: products whose rows are heads, in one launch for few tokens, in two for many.

use super::grid::{expect, refused};
use super::product::{COLUMNS, MANY_LIMIT, MANY_TILES, THREADS, Variant, many_sum_bytes};
use super::{COUNTER_BYTES, Constraint, CudaKernel, CudaLaunch, Define, SHARED_BYTES, cuda_kernel, heads};
use crate::abi::QkvParams;

/// Row tiles of a block of `qkv_few`.
const BLOCK_TILES: u32 = 2;

/// Rows of a block of `qkv_many`.
const BLOCK_ROWS: u32 = MANY_TILES * TILE_ROWS;

/// Rows of a tile.
const TILE_ROWS: u32 = 16;

pub static KERNEL: CudaKernel = cuda_kernel!(
    "qkv", "qkv.cu", QkvParams,
    specialise: |variant, p| constants(variant, p),
    launches: |variant, p| launches_of(variant, p),
    workspace: |variant, p| bytes_kept(variant, p),
);

/// The product's variant, without the cache's type.
fn product(variant: &str) -> Option<Variant> {
    Variant::parse(variant.rsplit_once('.')?.0)
}

/// Heads of queries, keys and values.
fn heads_of_all(p: &QkvParams) -> u32 {
    p.heads.saturating_add(if p.wk.is_null() { 0 } else { p.kv_heads.saturating_mul(2) })
}

fn constants(variant: &str, p: &QkvParams) -> Result<Vec<Define>, Constraint> {
    let refuse = |message: String| refused("qkv", variant, message);
    let (types, cache) = variant.rsplit_once('.').unwrap_or((variant, ""));
    let mut defines = Variant::of("qkv", types)?.defines();
    defines.extend([
        Define::new("CACHE", heads::cache("qkv", variant, cache)?),
        Define::new("COUNTER_BYTES", COUNTER_BYTES),
    ]);
    if u64::from(heads_of_all(p)) * u64::from(p.head_dim) > i32::MAX as u64 {
        return Err(refuse(format!("{} heads of {} rows are more than 2^31 rows", heads_of_all(p), p.head_dim)));
    }
    let many_tokens = product(variant).map_or(COLUMNS, Variant::many_tokens);
    let most = (MANY_LIMIT - many_sum_bytes(many_tokens)) / (4 * MANY_TILES);
    if p.head_dim > most {
        return Err(refuse(format!("a head of {} dimensions, more than {most}: leave its product apart", p.head_dim)));
    }
    if !p.inv_freq.is_null() && 2 * u64::from(p.pairs) > u64::from(p.head_dim) {
        return Err(refuse(format!("{} pairs to turn of a head of {} dimensions", p.pairs, p.head_dim)));
    }
    expect("qkv", variant, p.tokens.into(), p.tokens.div_ceil(many_tokens).into())?;
    Ok(defines)
}

/// Blocks a head's row tiles are dealt to: those of the head that touches most.
fn parts_of_head(p: &QkvParams) -> u32 {
    // Heads begin at multiples of the greatest common divisor, a power of two, behind the start of a tile.
    let step = 1 << p.head_dim.trailing_zeros().min(TILE_ROWS.trailing_zeros());
    (TILE_ROWS - step + p.head_dim).div_ceil(TILE_ROWS).div_ceil(BLOCK_TILES)
}

/// Dynamic shared memory of `qkv_few`: that of the product, then heads.
fn few_bytes(variant: Variant, p: &QkvParams) -> u64 {
    variant.few_bytes(p.tokens, p.cols, BLOCK_TILES) + 4 * u64::from(p.tokens) * u64::from(p.head_dim)
}

/// Whether one launch carries it out.
fn takes_few(variant: Variant, p: &QkvParams) -> bool {
    p.tokens <= COLUMNS && heads_of_all(p) <= COUNTER_BYTES / 4 && few_bytes(variant, p) <= u64::from(SHARED_BYTES)
}

/// Row tiles of all matrices.
fn tiles_of_all(p: &QkvParams) -> u32 {
    let tiles = |heads: u32| (heads * p.head_dim).div_ceil(TILE_ROWS);
    tiles(p.heads) + if p.wk.is_null() { 0 } else { 2 * tiles(p.kv_heads) }
}

fn launches_of(variant: &str, p: &QkvParams) -> Vec<CudaLaunch> {
    let heads = heads_of_all(p);
    let Some(variant) = product(variant).filter(|_| p.tokens > 0 && heads > 0 && p.head_dim > 0) else {
        return Vec::new();
    };
    let launch = |entry, first, second, shared_bytes| CudaLaunch {
        entry,
        grid: [first, second, 1],
        threads: THREADS,
        shared_bytes,
    };
    if takes_few(variant, p) {
        return vec![launch("qkv_few", heads, parts_of_head(p), few_bytes(variant, p) as u32)];
    }
    let tokens = variant.many_tokens();
    let blocks = (tiles_of_all(p).div_ceil(MANY_TILES), p.tokens.div_ceil(tokens));
    vec![launch("qkv_prepare", p.tokens, 1, 0), launch("qkv_many", blocks.0, blocks.1, many_bytes(variant, p))]
}

/// Dynamic shared memory of `qkv_many`: that of the product, and where its sums end room for a head a warp.
fn many_bytes(variant: Variant, p: &QkvParams) -> u32 {
    let tokens = variant.many_tokens();
    variant.many_bytes(tokens).max(many_sum_bytes(tokens) + 4 * MANY_TILES * p.head_dim)
}

/// Counters, and the more of what few and many tokens keep: a launch of fewer may take either path. Many keep products, and how many blocks
/// are done, of heads that blocks share.
fn bytes_kept(variant: &str, p: &QkvParams) -> u64 {
    let Some(variant) = product(variant) else { return 0 };
    let products = |tokens: u32| 4 * u64::from(tokens) * u64::from(heads_of_all(p)) * u64::from(p.head_dim);
    let counters = 4 * u64::from(p.tokens.div_ceil(variant.many_tokens())) * u64::from(heads_of_all(p));
    let are_shared = !BLOCK_ROWS.is_multiple_of(p.head_dim);
    let shared = if are_shared { products(p.tokens) + counters } else { 0 };
    let many = variant.prepared_bytes(p.tokens.into(), p.cols) + shared;
    u64::from(COUNTER_BYTES) + many.max(products(COLUMNS.min(p.tokens)))
}
