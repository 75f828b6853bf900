//! `gate_up`, `grouped_matmul` and `combine_down`: products of (token, slot) pairs with one matrix each of a stack.
//!
//! Up to eight tokens, one launch. More: x is prepared and pairs are sorted by matrix, then multiplied in tiles of tokens. Mirrors
//! `experts.cuh`.

use super::grid;
use super::product::{COLUMNS, SLICES, THREADS, Variant};
use super::routing::{STATIC_BYTES, expect_route, route_bytes};
use super::{COUNTER_BYTES, Constraint, CudaKernel, CudaLaunch, Define, SHARED_BYTES, cuda_kernel};
use crate::abi::{CombineDownParams, GateUpParams, GroupedMatmulParams};

/// Tokens of the narrow tiles, and how many pairs a matrix has on average at most where they are used.
const NARROW_TOKENS: u32 = 16;

/// Blocks of the few-token path before a block gets a second row tile: so many are even work for a large GPU, and each prepares x for
/// itself.
const ENOUGH_BLOCKS: u64 = 1024;

/// The most row tiles of a block of the few-token path.
const MOST_TILES: u64 = 4;

/// Row tiles of a block of the many-token path.
const MANY_TILES: u32 = 8;

/// Matrices that a pair meets at most: `gate_up` has two stacks.
const STACKS: u32 = 2;

/// Bytes of shared memory a matrix takes while pairs are sorted: a counter for each warp, first pair and first tile.
const SORT_BYTES: u64 = 4 * (SLICES as u64 + 2);

/// What the three kernels have in common.
struct Experts {
    variant: Variant,
    tokens: u32,
    slots: u32,
    matrices: u32,
    rows: u32,
    cols: u32,
    /// Whether each pair's matrix is listed; else slot j meets matrix j.
    listed: bool,
    /// Whether the slots of a token share a row of x.
    shared: bool,
}

impl Experts {
    fn pairs(&self) -> u64 {
        u64::from(self.tokens) * u64::from(self.slots)
    }

    /// Rows of x.
    fn x_rows(&self) -> u64 {
        if self.shared { self.tokens.into() } else { self.pairs() }
    }

    fn row_tiles(&self) -> u32 {
        self.rows.div_ceil(16)
    }

    fn is_empty(&self) -> bool {
        self.pairs() == 0 || self.rows == 0
    }

    /// Tokens of a tile.
    fn tile_tokens(&self) -> u32 {
        let average =
            if self.listed { self.pairs().div_ceil(u64::from(self.matrices.max(1))) } else { self.tokens.into() };
        if average <= u64::from(NARROW_TOKENS) { NARROW_TOKENS } else { self.variant.many_tokens() }
    }

    /// The greatest number of tiles of `tokens` tokens, whatever the experts.
    fn most_tiles(&self, tokens: u32) -> u64 {
        let (tokens, pairs) = (u64::from(tokens), self.pairs());
        if !self.listed {
            return u64::from(self.slots) * u64::from(self.tokens).div_ceil(tokens);
        }
        let groups = (u64::from(self.matrices) + 1).min(pairs);
        (pairs + (tokens - 1) * groups) / tokens
    }

    /// Workspace of the counters, the prepared rows and, where pairs are listed, of their tiles and their order. Tiles are counted as if
    /// they were narrow, so that fewer tokens never need more.
    fn workspace(&self) -> u64 {
        let rows = self.variant.prepared_bytes(self.x_rows(), self.cols).next_multiple_of(16);
        let lists = if self.listed { 16 + 16 * self.most_tiles(NARROW_TOKENS) + 4 * self.pairs() } else { 0 };
        u64::from(COUNTER_BYTES) + rows + lists.next_multiple_of(16)
    }

    fn sort_bytes(&self) -> u64 {
        if self.listed { SORT_BYTES * (u64::from(self.matrices) + 1) } else { 0 }
    }

    /// Row tiles of a block of the few-token path, whose grid has `others` blocks beside each; `None` if it cannot take the launch.
    /// `columns` tokens stand in the columns of the mma, and a row tile is multiplied by `matrices` matrices.
    fn few_tiles(&self, columns: u32, others: u32, matrices: u32) -> Option<u32> {
        if self.tokens > COLUMNS {
            return None;
        }
        let wanted = (u64::from(self.row_tiles()) * u64::from(others)).div_ceil(ENOUGH_BLOCKS);
        let takes = |tiles: &u32| self.variant.takes_few(columns, self.cols, tiles * matrices);
        (1..=wanted.min(MOST_TILES) as u32).rev().find(takes)
    }

    /// The few-token launch over blocks of `tiles` row tiles.
    fn few(&self, entry: &'static str, [tiles, others]: [u32; 2], shared_bytes: u64) -> Vec<CudaLaunch> {
        let grid = [self.row_tiles().div_ceil(tiles), others, 1];
        vec![CudaLaunch { entry, grid, threads: THREADS, shared_bytes: shared_bytes as u32 }]
    }

    /// The launch that multiplies, by blocks of `tiles` row tiles.
    fn many(&self, [wide, narrow]: [&'static str; 2], tiles: u32) -> CudaLaunch {
        let tokens = self.tile_tokens();
        CudaLaunch {
            entry: if tokens == NARROW_TOKENS { narrow } else { wide },
            grid: [self.most_tiles(tokens) as u32, self.row_tiles().div_ceil(tiles), 1],
            threads: THREADS,
            shared_bytes: self.variant.many_bytes(tokens),
        }
    }

    /// Refuses what no path takes: 32-bit pair numbers, the dimensions of grids, the sort's shared memory.
    fn check(&self, kernel: &'static str, variant: &str) -> Result<(), Constraint> {
        if self.pairs() + u64::from(self.tokens) > i32::MAX as u64 {
            let message =
                format!("{} pairs of token and slot are too many: launch fewer tokens at a time", self.pairs());
            return Err(grid::refused(kernel, variant, message));
        }
        if self.sort_bytes() > u64::from(SHARED_BYTES - STATIC_BYTES) {
            let most = u64::from(SHARED_BYTES - STATIC_BYTES) / SORT_BYTES - 1;
            let message = format!("{} experts are too many to sort tokens by: at most {most}", self.matrices);
            return Err(grid::refused(kernel, variant, message));
        }
        let (others, row_blocks) =
            (u64::from(COLUMNS) * u64::from(self.slots), self.row_tiles().div_ceil(MANY_TILES / STACKS));
        grid::expect(kernel, variant, self.most_tiles(NARROW_TOKENS), others.max(row_blocks.into()))
    }
}

fn of_gate_up(variant: &str, p: &GateUpParams) -> Option<Experts> {
    Some(Experts {
        variant: Variant::parse(variant)?,
        tokens: p.tokens,
        slots: p.slots,
        matrices: p.matrices,
        rows: p.rows,
        cols: p.cols,
        listed: p.routing != 0,
        shared: p.slots_share_x != 0,
    })
}

fn of_grouped_matmul(variant: &str, p: &GroupedMatmulParams) -> Option<Experts> {
    Some(Experts {
        variant: Variant::parse(variant)?,
        tokens: p.tokens,
        slots: p.slots,
        matrices: p.matrices,
        rows: p.rows,
        cols: p.cols,
        listed: !p.experts.is_null(),
        shared: p.slots_share_x != 0,
    })
}

fn of_combine_down(variant: &str, p: &CombineDownParams) -> Option<Experts> {
    Some(Experts {
        variant: Variant::parse(variant)?,
        tokens: p.tokens,
        slots: p.slots,
        matrices: p.matrices,
        rows: p.rows,
        cols: p.cols,
        listed: true,
        shared: false,
    })
}

/// The constants of a variant, if the launch can be carried out.
fn constants(
    kernel: &'static str,
    variant: &str,
    experts: Option<Experts>,
    more: Vec<Define>,
) -> Result<Vec<Define>, Constraint> {
    let mut defines = Variant::of(kernel, variant)?.defines();
    defines.push(Define::new("COUNTER_BYTES", COUNTER_BYTES));
    if let Some(experts) = experts.filter(|e| !e.is_empty()) {
        experts.check(kernel, variant)?;
    }
    defines.extend(more);
    Ok(defines)
}

/// The launch of few tokens, each block of which has pairs of row tiles, or of all tokens where slot j meets matrix j.
fn gate_up_few(experts: &Experts, p: &GateUpParams) -> Option<Vec<CudaLaunch>> {
    let (columns, others) = if experts.listed { (1, experts.pairs() as u32) } else { (p.tokens, p.slots) };
    let tiles = experts.few_tiles(columns, others, STACKS)?;
    let route = if p.routing == SELECTED { route_bytes(p.matrices, p.slots) } else { 0 };
    let bytes = experts.variant.few_bytes(columns, p.cols, STACKS * tiles).max(route);
    Some(experts.few("gate_up_few", [tiles, others], bytes))
}

/// Number of the routing where experts are given, and of that where the launch selects them.
const GIVEN: u32 = 1;
const SELECTED: u32 = 2;

fn gate_up_many(experts: &Experts, p: &GateUpParams) -> Vec<CudaLaunch> {
    let (blocks, bytes) = match p.routing {
        SELECTED => (p.tokens, route_bytes(p.matrices, p.slots).max(experts.sort_bytes())),
        GIVEN => (1, experts.sort_bytes()),
        _ => (0, 0),
    };
    let prepare = CudaLaunch {
        entry: "gate_up_prepare",
        grid: [experts.x_rows() as u32 + blocks, 1, 1],
        threads: THREADS,
        shared_bytes: bytes as u32,
    };
    vec![prepare, experts.many(["gate_up_many", "gate_up_narrow"], MANY_TILES / STACKS)]
}

fn gate_up_launches(experts: &Experts, p: &GateUpParams) -> Vec<CudaLaunch> {
    gate_up_few(experts, p).unwrap_or_else(|| gate_up_many(experts, p))
}

fn grouped_matmul_launches(experts: &Experts, p: &GroupedMatmulParams) -> Vec<CudaLaunch> {
    let (columns, others) = if experts.listed { (1, experts.pairs() as u32) } else { (p.tokens, p.slots) };
    if let Some(tiles) = experts.few_tiles(columns, others, 1) {
        return experts.few("grouped_matmul_few", [tiles, others], experts.variant.few_bytes(columns, p.cols, tiles));
    }
    vec![
        prepare("grouped_matmul_prepare", experts),
        experts.many(["grouped_matmul_many", "grouped_matmul_narrow"], MANY_TILES),
    ]
}

/// A block prepares a row of x, one more sorts the pairs.
fn prepare(entry: &'static str, experts: &Experts) -> CudaLaunch {
    CudaLaunch {
        entry,
        grid: [experts.x_rows() as u32 + u32::from(experts.listed), 1, 1],
        threads: THREADS,
        shared_bytes: experts.sort_bytes() as u32,
    }
}

/// Row tiles of a block of few tokens, whose slots stand in the columns of the mma.
fn combine_down_few(experts: &Experts) -> Option<u32> {
    if experts.slots > COLUMNS { None } else { experts.few_tiles(experts.slots, experts.tokens, experts.slots) }
}

fn combine_down_launches(experts: &Experts) -> Vec<CudaLaunch> {
    if let Some(tiles) = combine_down_few(experts) {
        let bytes = experts.variant.few_bytes(experts.slots, experts.cols, tiles * experts.slots);
        return experts.few("combine_down_few", [tiles, experts.tokens], bytes);
    }
    vec![
        prepare("combine_down_prepare", experts),
        experts.many(["combine_down_many", "combine_down_narrow"], MANY_TILES),
    ]
}

/// Workspace of many tokens: results of the pairs, and for each token and block of rows how many of them are there.
fn combine_down_workspace(experts: &Experts) -> u64 {
    let counters = u64::from(experts.tokens) * u64::from(experts.row_tiles().div_ceil(MANY_TILES));
    experts.workspace() + 4 * (experts.pairs() * u64::from(experts.rows) + counters)
}

fn gate_up_constants(variant: &str, p: &GateUpParams) -> Result<Vec<Define>, Constraint> {
    if p.routing == SELECTED {
        expect_route("gate_up", variant, [p.matrices, p.slots])?;
    }
    let more = vec![Define::new("ROUTING", p.routing), Define::new("GATE", p.activation)];
    constants("gate_up", variant, of_gate_up(variant, p), more)
}

/// What `f` makes of a launch that has work.
fn with_work<T: Default>(experts: Option<Experts>, f: impl FnOnce(&Experts) -> T) -> T {
    experts.filter(|e| !e.is_empty()).map_or_else(T::default, |e| f(&e))
}

pub static GATE_UP: CudaKernel = cuda_kernel!(
    "gate_up", "gate_up.cu", GateUpParams,
    specialise: |variant, p| gate_up_constants(variant, p),
    launches: |variant, p| with_work(of_gate_up(variant, p), |e| gate_up_launches(e, p)),
    workspace: |variant, p| with_work(of_gate_up(variant, p), |e| match gate_up_few(e, p) {
        Some(_) => 0,
        None => e.workspace(),
    }),
);

pub static GROUPED_MATMUL: CudaKernel = cuda_kernel!(
    "grouped_matmul", "grouped_matmul.cu", GroupedMatmulParams,
    specialise: |variant, p| constants("grouped_matmul", variant, of_grouped_matmul(variant, p), Vec::new()),
    launches: |variant, p| with_work(of_grouped_matmul(variant, p), |e| grouped_matmul_launches(e, p)),
    workspace: |variant, p| with_work(of_grouped_matmul(variant, p), Experts::workspace),
);

pub static COMBINE_DOWN: CudaKernel = cuda_kernel!(
    "combine_down", "combine_down.cu", CombineDownParams,
    specialise: |variant, p| constants("combine_down", variant, of_combine_down(variant, p), Vec::new()),
    launches: |variant, p| with_work(of_combine_down(variant, p), combine_down_launches),
    workspace: |variant, p| with_work(of_combine_down(variant, p), |e| match combine_down_few(e) {
        Some(_) => 0,
        None => combine_down_workspace(e),
    }),
);
