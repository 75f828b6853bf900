//! `attention`: tiles of many rows, or segments of a context side by side where there are few; the same bits either way.
//!
//! What a block holds is chosen here, by the shape alone, and checked in the source against what it lays out.

use super::grid::refused;
use super::{COUNTER_BYTES, Constraint, CudaKernel, CudaLaunch, Define, SHARED_BYTES, cuda_kernel};
use crate::abi::AttentionParams;

/// Tokens of a page.
const PAGE: u32 = 16;

/// Positions whose scores are weighed together.
const UNIT: u32 = 64;

/// Positions of a segment: a unit a warp.
const SEGMENT: u32 = 256;

/// Warps of a block of segments.
const SEGMENT_WARPS: u32 = SEGMENT / UNIT;

/// Rows of an mma.
const ROW_TILE: u32 = 16;

/// Most warps of a block of tiles: each may then have 255 registers.
const MOST_WARPS: u32 = 8;

/// Segments side by side are for steps of at most this many tokens times tiles of query heads; more fill a GPU by themselves.
const MOST_SPLIT: u32 = 128;

/// Blocks that fill the largest GPU a few times over. Launches of segments have at most about that many, and those of tiles let
/// blocks begin several tiles rather than have more than twice as many.
const ENOUGH_BLOCKS: u32 = 512;

/// Most bytes of workspace.
const MOST_WORKSPACE: u64 = 64 << 20;

/// What the source is specialised for.
#[derive(Clone, Copy)]
struct Shape {
    /// Dimensions of a key.
    dim: u32,
    /// Dimensions of a value.
    columns: u32,
    /// Whether values are the first dimensions of keys.
    latent: bool,
    /// Query heads of a KV head.
    group: u32,
    /// 16-bit parts of a number.
    parts: u32,
    /// Whether what the cache holds is copied to shared memory as it is, while others are multiplied.
    copied: bool,
}

/// How a block is laid out.
#[derive(Clone, Copy)]
struct Layout {
    /// Dimensions of a chunk.
    chunk: u32,
    /// Chunks in flight.
    ring: u32,
    /// Rows of a block.
    rows: u32,
    /// Warps that share 16 rows.
    column_parts: u32,
    shared_bytes: u32,
}

impl Shape {
    fn new(variant: &str, p: &AttentionParams) -> Shape {
        Shape {
            dim: p.head_dim,
            columns: if p.value_dim > 0 { p.value_dim } else { p.head_dim },
            latent: p.value_dim > 0,
            group: p.heads.checked_div(p.kv_heads).unwrap_or(1).max(1),
            parts: if variant == "f32" { 3 } else { 1 },
            copied: variant == "f16",
        }
    }

    /// Bytes of the queries of 16 rows.
    fn query_tile(self) -> u32 {
        self.parts * ROW_TILE * (2 * self.dim.next_multiple_of(16) + 16)
    }

    /// Bytes of a chunk of keys or values of a unit.
    fn stage(self, chunk: u32) -> u32 {
        let (keys, values) = (chunk * 2 * UNIT, UNIT * (2 * chunk + 16));
        self.parts * if self.latent { keys } else { keys.max(values) }
    }

    /// Chunks of a unit.
    fn unit_chunks(self, chunk: u32) -> u32 {
        self.dim.next_multiple_of(16).div_ceil(chunk) + self.columns.next_multiple_of(8).div_ceil(chunk)
    }

    /// Sizes of chunks: the longest that has at most `most` dimensions first, in multiples of `step`.
    fn chunks(self, most: u32, step: u32) -> impl Iterator<Item = u32> {
        let whole = self.dim.max(self.columns).next_multiple_of(16);
        (1..=whole.div_ceil(16)).map(move |n| whole.div_ceil(n).next_multiple_of(step)).filter(move |c| *c <= most)
    }

    /// Stages of a ring, most first. Numbers that are no copies are loaded through registers, where a ring gains nothing.
    fn rings(self, most: u32) -> impl Iterator<Item = u32> {
        let (least, most) = if self.copied { (2, most) } else { (1, 1) };
        (least..=most).rev()
    }

    /// Warps a row tile, so that what each sums up fits its registers.
    fn column_parts(self) -> u32 {
        let columns = if self.parts == 1 { 128 } else { 32 };
        self.columns.div_ceil(columns).next_power_of_two().min(4)
    }

    /// A block of tiles: as many rows as fit, then long chunks, then a deep ring.
    fn tile(self) -> Option<Layout> {
        let column_parts = self.column_parts();
        let most = if self.parts == 1 { 128 } else { 64 };
        let tiles = [4, 2, 1].into_iter().filter(|tiles| tiles * column_parts <= MOST_WARPS);
        let options = tiles.flat_map(|tiles| {
            let chunks = self.chunks(most, 16.max(8 * column_parts));
            chunks.flat_map(move |chunk| self.rings(3).map(move |ring| (tiles, chunk, ring)))
        });
        let layouts = options.map(|(tiles, chunk, ring)| {
            let exchange = if column_parts > 1 { ROW_TILE * UNIT * 4 } else { 0 };
            let row_tile = self.query_tile() + exchange + ROW_TILE * 4;
            let shared_bytes = ring * self.stage(chunk) + tiles * row_tile;
            Layout { chunk, ring, rows: tiles * ROW_TILE, column_parts, shared_bytes }
        });
        layouts.into_iter().find(|l| l.shared_bytes <= SHARED_BYTES)
    }

    /// A block of a segment: long chunks, then a ring as deep as a unit has chunks.
    fn segment(self) -> Option<Layout> {
        let most = if self.parts == 1 { 64 } else { 32 };
        let rows = if self.group > 8 { 16 } else { 8 };
        let options = self.chunks(most, 16).flat_map(|chunk| {
            let depth = self.unit_chunks(chunk).clamp(2, 4);
            self.rings(depth).map(move |ring| (chunk, ring))
        });
        let layouts = options.map(|(chunk, ring)| {
            let sums = SEGMENT_WARPS * rows * (chunk + 8) * 4;
            let softmax = SEGMENT_WARPS * ROW_TILE * 8 + ROW_TILE * 4;
            let shared_bytes = SEGMENT_WARPS * ring * self.stage(chunk) + self.query_tile() + sums + softmax;
            Layout { chunk, ring, rows: ROW_TILE, column_parts: 1, shared_bytes }
        });
        layouts.into_iter().find(|l| l.shared_bytes <= SHARED_BYTES)
    }

    /// Tiles of `rows` rows that share the query heads of a KV head.
    fn head_tiles(self, rows: u32) -> u32 {
        self.group.div_ceil(rows)
    }
}

/// Segments of the longest sequence.
fn segments(p: &AttentionParams) -> u32 {
    p.page_table_stride.div_ceil(SEGMENT / PAGE).max(1)
}

/// Bytes of workspace of a token: of each query head and segment a sum of values, a maximum and a sum of weights, all f32.
fn token_bytes(shape: Shape, p: &AttentionParams) -> u64 {
    u64::from(p.heads) * u64::from(segments(p)) * u64::from(shape.columns + 2) * 4
}

/// Steps of at most so many tokens are cut into segments: those that do not fill a GPU by themselves, and whose partial results fit
/// the workspace.
fn most_split(shape: Shape, p: &AttentionParams) -> u32 {
    let columns = p.kv_heads.saturating_mul(shape.head_tiles(ROW_TILE)).max(1);
    let fit = (MOST_WORKSPACE - u64::from(COUNTER_BYTES)) / token_bytes(shape, p).max(1);
    (MOST_SPLIT / columns).min(u32::try_from(fit).unwrap_or(u32::MAX))
}

/// Grows with the step, so that what fits a step fits smaller ones.
fn workspace_bytes(variant: &str, p: &AttentionParams) -> u64 {
    let shape = Shape::new(variant, p);
    match most_split(shape, p).min(p.tokens) {
        0 => 0,
        tokens => u64::from(COUNTER_BYTES) + u64::from(tokens) * token_bytes(shape, p),
    }
}

fn check(variant: &str, p: &AttentionParams) -> Result<Shape, Constraint> {
    let shape = Shape::new(variant, p);
    let refuse = |message: String| Err(refused("attention", variant, message));
    super::heads::cache("attention", variant, variant)?;
    if p.kv_heads == 0 || p.heads == 0 || !p.heads.is_multiple_of(p.kv_heads) {
        return refuse(format!("{} query heads are not a multiple of {} KV heads", p.heads, p.kv_heads));
    }
    if p.value_dim == 0 && !(p.head_dim.is_multiple_of(2) && (8..=256).contains(&p.head_dim)) {
        let dim = p.head_dim;
        return refuse(format!(
            "heads of {dim} dimensions; even ones from 8 to 256 are taken: pad heads with zeros, or compile for the cpu"
        ));
    }
    if p.value_dim > 0 && !(p.head_dim <= 576 && p.value_dim <= p.head_dim.min(512)) {
        let (dim, value) = (p.head_dim, p.value_dim);
        return refuse(format!(
            "latent keys of {dim} and values of {value} dimensions; keys of up to 576 are taken, of which up to 512 are \
             values: compile for the cpu"
        ));
    }
    let columns = u64::from(p.kv_heads) * u64::from(shape.head_tiles(ROW_TILE));
    if columns > u64::from(u16::MAX) {
        return refuse(format!("{columns} tiles of query heads; a grid has up to {}: divide the heads", u16::MAX));
    }
    Ok(shape)
}

fn specialise(variant: &str, p: &AttentionParams) -> Result<Vec<Define>, Constraint> {
    let shape = check(variant, p)?;
    let (Some(tile), Some(segment)) = (shape.tile(), shape.segment()) else {
        return Err(refused(
            "attention",
            variant,
            format!("heads of {} dimensions do not fit shared memory", p.head_dim),
        ));
    };
    Ok(vec![
        Define::new("HEAD_DIM", p.head_dim),
        Define::new("VALUE_DIM", p.value_dim),
        Define::new("GROUP", shape.group),
        Define::new("CACHE", super::heads::cache("attention", variant, variant)?),
        Define::new("COUNTER_BYTES", COUNTER_BYTES),
        Define::new("TILE_ROWS", tile.rows),
        Define::new("COLUMN_PARTS", tile.column_parts),
        Define::new("TILE_CHUNK", tile.chunk),
        Define::new("TILE_RING", tile.ring),
        Define::new("TILE_SHARED", tile.shared_bytes),
        Define::new("SEGMENT_CHUNK", segment.chunk),
        Define::new("SEGMENT_RING", segment.ring),
        Define::new("SEGMENT_SHARED", segment.shared_bytes),
    ])
}

fn launches(variant: &str, p: &AttentionParams) -> Vec<CudaLaunch> {
    let shape = Shape::new(variant, p);
    let (Some(tile), Some(segment)) = (shape.tile(), shape.segment()) else { return Vec::new() };
    if p.tokens == 0 || p.kv_heads == 0 {
        return Vec::new();
    }
    if p.tokens <= most_split(shape, p) {
        let columns = p.kv_heads * shape.head_tiles(ROW_TILE);
        let side_by_side = segments(p).min(ENOUGH_BLOCKS.div_ceil(columns * p.tokens));
        return vec![CudaLaunch {
            entry: "attention_segments",
            grid: [side_by_side, columns, p.tokens],
            threads: 32 * SEGMENT_WARPS,
            shared_bytes: segment.shared_bytes,
        }];
    }
    let columns = p.kv_heads * shape.head_tiles(tile.rows);
    let blocks = u64::from(p.tokens) * u64::from(columns);
    let most = u64::from((tile.rows / shape.group).max(1));
    let piece = (blocks / (2 * u64::from(ENOUGH_BLOCKS))).clamp(1, most) as u32;
    vec![CudaLaunch {
        entry: "attention_tiles",
        grid: [p.tokens.div_ceil(piece), columns, 1],
        threads: tile.rows / ROW_TILE * tile.column_parts * 32,
        shared_bytes: tile.shared_bytes,
    }]
}

pub static KERNEL: CudaKernel = cuda_kernel!(
    "attention", "attention.cu", AttentionParams,
    specialise: |variant, p| specialise(variant, p),
    launches: |variant, p| launches(variant, p),
    workspace: |variant, p| workspace_bytes(variant, p),
);

#[cfg(test)]
mod tests {
    use super::*;

    fn params(
        tokens: u32,
        [heads, kv_heads]: [u32; 2],
        [head_dim, value_dim]: [u32; 2],
        pages: u32,
    ) -> AttentionParams {
        AttentionParams { tokens, heads, kv_heads, head_dim, value_dim, page_table_stride: pages, ..Default::default() }
    }

    #[test]
    fn every_shape_that_is_taken_has_a_layout() {
        let latent = (1..=576).flat_map(|dim| [1, dim.min(512)].map(|value| [dim, value]));
        for dims in (8..=256).step_by(2).map(|dim| [dim, 0]).chain(latent) {
            for variant in ["f16", "f32", "int8"] {
                for group in [1, 9, 128] {
                    let defines = specialise(variant, &params(1, [group, 1], dims, 4));
                    assert!(defines.is_ok(), "{variant} {dims:?} {group}: {}", defines.unwrap_err());
                }
            }
        }
    }

    #[test]
    fn refusals_name_what_is_taken() {
        for (dims, word) in
            [([37, 0], "even"), ([300, 0], "256"), ([6, 0], "8"), ([600, 512], "576"), ([20, 30], "512")]
        {
            let message = specialise("f16", &params(1, [4, 2], dims, 4)).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
        assert!(specialise("f16", &params(1, [5, 2], [64, 0], 4)).unwrap_err().message.contains("multiple"));
        assert!(specialise("bf16", &params(1, [4, 2], [64, 0], 4)).is_err());
    }

    #[test]
    fn the_workspace_is_bounded_and_grows_with_the_step() {
        for (heads, dims) in [([32, 8], [64, 0]), ([128, 1], [576, 512]), ([8, 8], [256, 0])] {
            for pages in [1, 16, 2048, 65536] {
                let mut last = 0;
                for tokens in 0..300 {
                    let p = params(tokens, heads, dims, pages);
                    let bytes = workspace_bytes("f16", &p);
                    assert!(bytes >= last && bytes <= MOST_WORKSPACE);
                    last = bytes;
                    for launch in launches("f16", &p) {
                        assert!(launch.grid.iter().all(|&g| g > 0) && launch.shared_bytes <= SHARED_BYTES);
                        let counters = u64::from(launch.grid[1]) * u64::from(launch.grid[2]) * 4;
                        assert!(launch.entry == "attention_tiles" || counters <= u64::from(COUNTER_BYTES));
                    }
                }
            }
        }
    }
}
