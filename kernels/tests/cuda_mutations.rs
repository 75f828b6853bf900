//! Bugs seeded into the kernels of `kernels/cuda`, one at a time: each is caught by the check of the simulator that is named for it or, where
//! nothing is touched that must not be, by the results of the native kernel. Unmutated, the same launches raise nothing.
//!
//! A mutation names the text it changes, which must stand in its file exactly once: a kernel that is rewritten takes its mutations along.

mod harness;

use harness::bugs::{Bug, Change};
use harness::{
    ARCHITECTURES, Case, Outputs, Simulated, attention, experts, floats, products, qkv, relative_rms, route, rows,
};
use ir::types::DType;
use kernels::cuda::COUNTER_BYTES;
use simulator::Kind;

/// The launches that bugs are seeded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    ProjectFew,
    ProjectOdd,
    ProjectFull,
    MatmulFew,
    MatmulMany,
    GateUpFew,
    GateUpMany,
    GroupedMany,
    DownFew,
    DownMany,
    Segments,
    Tiles,
    QkvFew,
    QkvMany,
    Route,
    Router,
    RmsNorm,
    LayerNorm,
    SquareSums,
    ScaleRows,
    Embedding,
    Concat,
    KvAppend,
}

use On::*;

const ALL: &[On] = &[
    ProjectFew,
    ProjectOdd,
    ProjectFull,
    MatmulFew,
    MatmulMany,
    GateUpFew,
    GateUpMany,
    GroupedMany,
    DownFew,
    DownMany,
    Segments,
    Tiles,
    QkvFew,
    QkvMany,
    Route,
    Router,
    RmsNorm,
    LayerNorm,
    SquareSums,
    ScaleRows,
    Embedding,
    Concat,
    KvAppend,
];

impl On {
    /// Small, but with what mutations need: several blocks, and tails of rows, columns and tokens.
    fn case(self) -> Case {
        match self {
            ProjectFew => products::product("project", DType::Q4G64, "f32", [3, 40, 320]).number("factor", 1.0),
            ProjectOdd => products::product("project", DType::F16, "f32.half", [3, 40, 70]).number("factor", 1.0),
            ProjectFull => products::full(DType::Q4_0, "f32", [2, 40, 96], 1, 0),
            MatmulFew => products::product("matmul", DType::Q4G64, "f32", [3, 40, 320]),
            MatmulMany => products::product("matmul", DType::Q4G64, "f32", [66, 40, 640]),
            GateUpFew => routed(2).case(),
            GateUpMany => routed(20).case(),
            GroupedMany => experts::grouped_matmul(PAIRS, [40, 4, 40, 20, 128], [true, true, false]),
            DownFew => experts::combine_down(PAIRS, [3, 4, 4, 40, 128], [true, true, true]),
            DownMany => experts::combine_down(PAIRS, [20, 4, 4, 40, 128], [true, true, true]),
            Segments => {
                let setting = attention::Setting { window: 400, ..attention::plain("f16", 4, 2, 64) };
                setting.case(&[600, 5], &[attention::run(0, 599, 1), attention::run(1, 3, 2)].concat())
            }
            Tiles => {
                let runs = [(0, 3, 3), (1, 60, 10), (2, 5, 1), (3, 0, 1), (4, 70, 19)];
                let tokens = runs.map(|(sequence, first, count)| attention::run(sequence, first, count)).concat();
                attention::plain("f16", 1, 64, 8).case(&[6, 70, 6, 1, 89], &tokens)
            }
            QkvFew => heads(2).case(),
            QkvMany => heads(20).case(),
            Route => route::route(&routing(), Some(300)),
            Router => route::router(&routing()),
            RmsNorm => rows::rms_norm(),
            LayerNorm => rows::layer_norm(),
            SquareSums => rows::square_sums(),
            ScaleRows => rows::scale_rows(),
            Embedding => rows::embedding(DType::Q4_0, 64),
            Concat => rows::concat(),
            KvAppend => rows::kv_append("f32"),
        }
    }
}

/// Weights and x of launches of (token, slot) pairs.
const PAIRS: (DType, &str) = (DType::Q4G64, "f32");

/// A launch that selects its experts itself.
fn routed(tokens: usize) -> experts::GateUp {
    let shape = [tokens, 3, 8, 40, 320];
    let norm = 2;
    experts::GateUp { types: PAIRS, shape, routing: 2, norm, squares: true, route_width: Some(320), ..experts::PLAIN }
}

/// Heads of several blocks each, with everything that can become of a head.
fn heads(tokens: usize) -> qkv::Shape {
    qkv::Shape { tokens, head_dim: 48, head_norms: true, biased: true, cache: "f32", weights: DType::F16, ..qkv::PLAIN }
}

fn routing() -> route::Routing {
    let [corrected, renormalise] = [true; 2];
    let (scoring, groups) = ("sigmoid", [3, 2]);
    route::Routing { scoring, tokens: 3, experts: 70, slots: 4, groups, corrected, renormalise, jitter: 0.0, seed: 1 }
}

/// What catches a bug.
#[derive(Clone, Copy, Debug)]
enum By {
    /// This check.
    Check(Kind),
    /// No check, but results that differ from the native kernel's.
    Values,
    /// No check, but a counter that is not zero afterwards.
    Counters,
}

/// A bug, where it is put, and what catches it.
struct Mutation(&'static str, On, Bug, By);

const fn text(file: &'static str, find: &'static str, replace: &'static str) -> Bug {
    Bug::Text(Change { file, find, replace })
}

/// Results that a bug changed differ by more than this, relative RMS; right ones by less than a tenth of it.
const DIFFERENT: f64 = 5e-2;

/// The greatest relative RMS of a field, infinite if it is no number.
fn difference(native: &Outputs, simulated: &Simulated) -> f64 {
    let of_field = |field| relative_rms(&floats(&simulated.outputs[field]), &floats(&native[field]));
    native.keys().map(|field| of_field(*field)).map(|e| if e.is_nan() { f64::INFINITY } else { e }).fold(0.0, f64::max)
}

fn counters_are_zero(simulated: &Simulated) -> bool {
    simulated.workspace.iter().take(COUNTER_BYTES as usize).all(|byte| *byte == 0)
}

/// Why a mutation is not caught as it should be, if it is not.
fn missed(Mutation(name, on, bug, by): &Mutation, architecture: &str) -> Option<String> {
    let case = on.case();
    let symptoms = match case.run_with(architecture, bug) {
        Ok(symptoms) => symptoms,
        Err(error) => return Some(format!("{name}: {error}")),
    };
    let caught = match by {
        By::Check(kind) => symptoms.kinds.contains(kind),
        By::Values => symptoms.kinds.is_empty() && difference(&case.run_native(), &symptoms.simulated) > DIFFERENT,
        By::Counters => symptoms.kinds.is_empty() && !counters_are_zero(&symptoms.simulated),
    };
    (!caught).then(|| format!("{name}: {by:?} did not catch it, findings: {:#?}", symptoms.findings))
}

/// Seeds each bug on its own and expects it to be caught.
fn expect_caught(mutations: &[Mutation], architecture: &str) {
    let missed: Vec<String> = mutations.iter().filter_map(|mutation| missed(mutation, architecture)).collect();
    assert!(missed.is_empty(), "{} of {} bugs are missed:\n{}", missed.len(), mutations.len(), missed.join("\n"));
}

#[test]
fn mutations_find_their_texts() {
    let groups = [
        BUGS_IN_PRODUCTS_OF_FEW_TOKENS,
        BUGS_IN_PRODUCTS_OF_MANY_TOKENS,
        BUGS_IN_PRODUCTS_WITH_EXPERTS,
        BUGS_IN_ATTENTION,
        BUGS_IN_HEADS_AND_ROWS,
    ];
    let stale: Vec<String> = groups
        .iter()
        .copied()
        .flatten()
        .filter_map(|Mutation(name, _, bug, _)| Some(format!("{name}: {}", bug.stale()?)))
        .collect();
    assert!(
        stale.is_empty(),
        "{} mutations no longer fit the kernels:
{}",
        stale.len(),
        stale.join(
            "
"
        )
    );
}

#[test]
fn unmutated_kernels_raise_nothing() {
    for (on, architecture) in ALL.iter().flat_map(|on| ARCHITECTURES.map(|a| (on, a))) {
        let case = on.case();
        let simulated = case.run_simulated(architecture);
        let error = difference(&case.run_native(), &simulated);
        assert!(error < DIFFERENT / 10.0, "{on:?} {architecture}: {error:e}");
        assert!(counters_are_zero(&simulated), "{on:?} {architecture}");
    }
}

const BUGS_IN_PRODUCTS_OF_FEW_TOKENS: &[Mutation] = &[
    Mutation(
        "sums are read without a barrier",
        ProjectFew,
        text("matrix_product.cuh", "    __syncthreads();\n    for (u32 i = warp / 4;", "    for (u32 i = warp / 4;"),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "maxima are exchanged without a barrier",
        ProjectFew,
        text(
            "activations.cuh",
            "shared.values[2][t][warp] = greatest;\n    }\n    __syncthreads();",
            "shared.values[2][t][warp] = greatest;\n    }",
        ),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "warps stage to the same place",
        ProjectFew,
        text(
            "product.cuh",
            "memory + HEAD_BYTES + threadIdx.x / 32 * warp_bytes + (part",
            "memory + HEAD_BYTES + (part",
        ),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "the tail of a unit is not staged",
        ProjectOdd,
        text(
            "activations.cuh",
            "end = first + slice.staged * 64;",
            "end = min(first + slice.staged * 64, source.cols);",
        ),
        By::Check(Kind::Uninitialised),
    ),
    Mutation(
        "columns are loaded four at a time though rows are not aligned to that",
        ProjectOdd,
        text("row_statistics.cuh", "if (cols % 4 == 0) return", "if (cols % 2 == 0) return"),
        By::Check(Kind::Misaligned),
    ),
    Mutation(
        "operands of the two halves of a tile are swapped",
        ProjectFew,
        text("product.cuh", "b[0][part][0] = v.x, b[0][part][1] = v.y", "b[0][part][0] = v.y, b[0][part][1] = v.x"),
        By::Values,
    ),
    Mutation(
        "sums of two tokens are swapped",
        ProjectFew,
        text(
            "product.cuh",
            "sums[t * PITCH + g] = acc[0], sums[(t + 1) * PITCH + g] = acc[1];",
            "sums[t * PITCH + g] = acc[1], sums[(t + 1) * PITCH + g] = acc[0];",
        ),
        By::Values,
    ),
    Mutation(
        "the scale of the first group serves the second",
        ProjectFull,
        text("product.cuh", "Dequant<F>::scale(scales, group);", "Dequant<F>::scale(scales, 0);"),
        By::Values,
    ),
    Mutation(
        "an mma without all lanes",
        ProjectFew,
        text(
            "product.cuh",
            "if (i <= order && order - i < XPARTS) multiply",
            "if (i <= order && order - i < XPARTS && threadIdx.x % 32 < 12) multiply",
        ),
        By::Check(Kind::PartialMma),
    ),
    Mutation(
        "two blocks own a row tile",
        ProjectFew,
        text(
            "matrix_product.cuh",
            "first = min(blockIdx.x * each, tiles())",
            "first = min(blockIdx.x / 2 * each, tiles())",
        ),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "rows past the end are written",
        ProjectFew,
        text(
            "epilogue.cuh",
            "const bool exists = token < p.tokens && row < p.rows;",
            "const bool exists = token < p.tokens;",
        ),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "tokens past the end are written",
        MatmulFew,
        text("matmul.cu", "if (token >= p.tokens || row >= p.rows) return;", "if (row >= p.rows) return;"),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "lanes of rows that do not exist leave before a sum",
        ProjectFull,
        text(
            "epilogue.cuh",
            "    if (p.squares_out || p.partials_out) emit",
            "    if (!exists) return;\n    if (p.squares_out || p.partials_out) emit",
        ),
        By::Check(Kind::InactiveShuffle),
    ),
    Mutation(
        "shared memory is a row of sums short",
        MatmulFew,
        Bug::Launch(|launches| launches[0].shared_bytes -= 80),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation("weights without the last scales", MatmulFew, Bug::Short("w", 128), By::Check(Kind::OutOfBounds)),
    Mutation("x that nobody wrote", ProjectFew, Bug::Withheld("x"), By::Check(Kind::Uninitialised)),
    Mutation("a result that must not be written", ProjectFew, Bug::ReadOnly("out"), By::Check(Kind::ReadOnlyWrite)),
    Mutation(
        "lanes do not wait for what their warp stages",
        ProjectFew,
        text("activations.cuh", "    }\n  }\n  __syncwarp();", "    }\n  }"),
        By::Check(Kind::SharedRace),
    ),
];

const BUGS_IN_PRODUCTS_OF_MANY_TOKENS: &[Mutation] = &[
    Mutation(
        "a copy too many in flight",
        MatmulMany,
        text("product_gemm.cuh", "wait_async<STAGES - 2>();", "wait_async<STAGES - 1>();"),
        By::Check(Kind::InFlightRead),
    ),
    Mutation(
        "copies are not waited for",
        MatmulMany,
        text("product_gemm.cuh", "      wait_async<STAGES - 2>();\n", ""),
        By::Check(Kind::InFlightRead),
    ),
    Mutation(
        "copies belong to no group",
        MatmulMany,
        text(
            "product_gemm.cuh",
            "      commit_async();\n      slot = following(slot);",
            "      slot = following(slot);",
        ),
        By::Check(Kind::InFlightRead),
    ),
    Mutation(
        "totals are read without a barrier",
        MatmulMany,
        text(
            "product_gemm.cuh",
            "copy_stages(ring, tiles, cols, x_row);\n    __syncthreads();",
            "copy_stages(ring, tiles, cols, x_row);",
        ),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "the ring has no end",
        MatmulMany,
        text("product_gemm.cuh", "slot == RING_BYTES - STAGE_BYTES ? 0", "slot == RING_BYTES ? 0"),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "segments of odd tokens are looked for where those of even ones lie",
        MatmulMany,
        text("product_gemm.cuh", "swapped = lane / 4 % 2 * 64;", "swapped = 0;"),
        By::Values,
    ),
    Mutation(
        "prepared rows overlap",
        MatmulMany,
        text("product_gemm.cuh", "u8 *to = rows + index * row_bytes;", "u8 *to = rows + index * (row_bytes - 128);"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "sums lack the factor of their row",
        MatmulMany,
        text("product_gemm.cuh", "tokens[0] = total[n][0] * even", "tokens[0] = total[n][0]"),
        By::Values,
    ),
    Mutation(
        "rows of x past the last are multiplied",
        MatmulMany,
        text("matrix_product.cuh", "return min(first + t, tokens - 1);", "return first + t;"),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "x is prepared by a block too few",
        MatmulMany,
        Bug::Launch(|launches| launches[0].grid[0] -= 1),
        By::Check(Kind::Uninitialised),
    ),
    Mutation(
        "the product comes before x is prepared",
        MatmulMany,
        Bug::Launch(|launches| launches.reverse()),
        By::Check(Kind::Uninitialised),
    ),
];

const BUGS_IN_PRODUCTS_WITH_EXPERTS: &[Mutation] = &[
    Mutation(
        "the selection is overwritten before all have read it",
        GateUpFew,
        text(
            "gate_up.cu",
            "threadIdx.x < 32) publish(token, memory);\n    __syncthreads();",
            "threadIdx.x < 32) publish(token, memory);",
        ),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "every block publishes the selection",
        GateUpFew,
        text(
            "gate_up.cu",
            "if (blockIdx.x == 0 && slot == 0 && threadIdx.x < 32) publish",
            "if (threadIdx.x < 32) publish",
        ),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "gate and up are swapped",
        GateUpFew,
        text("gate_up.cu", "(i % 2 ? ups : gates)", "(i % 2 ? gates : ups)"),
        By::Values,
    ),
    Mutation(
        "the counter of blocks is not reset",
        GateUpMany,
        text("arrival.cuh", "    if (last) atomicExch(counter, 0);\n", ""),
        By::Counters,
    ),
    Mutation(
        "a block arrives before its writes are visible",
        GateUpMany,
        text("arrival.cuh", "  __shared__ bool last;\n  __threadfence();", "  __shared__ bool last;"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "a block arrives before all its warps have",
        Segments,
        text(
            "arrival.cuh",
            "  __threadfence();\n  __syncthreads();\n  if (threadIdx.x == 0)",
            "  __threadfence();\n  if (threadIdx.x == 0)",
        ),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "the last block but one goes on",
        GateUpMany,
        text("arrival.cuh", "atomicAdd(counter, 1) + 1 == blocks", "atomicAdd(counter, 1) + 2 == blocks"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "sizes of groups are read without a barrier",
        GroupedMany,
        text(
            "experts.cuh",
            "      places[group] = sum;\n    }\n    __syncthreads();",
            "      places[group] = sum;\n    }",
        ),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "the last tile of a group counts as full",
        GroupedMany,
        text("experts.cuh", "min(tokens, size - i * tokens), 0)", "tokens, 0)"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "the list of a tile is not padded",
        GroupedMany,
        text("experts.cuh", "list.sorted[tile.y + min(threadIdx.x, count - 1)]", "list.sorted[tile.y + threadIdx.x]"),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "pairs of one matrix are those of the next",
        GroupedMany,
        text(
            "grouped_product.cuh",
            "row_tile(mine.matrix, min(tile",
            "row_tile((mine.matrix + 1) % pairs.matrices, min(tile",
        ),
        By::Values,
    ),
    Mutation(
        "all tokens are weighed as the first",
        DownFew,
        text("combine_down.cu", "fmaf(p.weights[first_pair + slot],", "fmaf(p.weights[slot],"),
        By::Values,
    ),
    Mutation(
        "a shuffle among half a warp, called by all of it",
        DownFew,
        text("combine_down.cu", "__shfl_sync(0xffffffffu, address, i)", "__shfl_sync(0x0000ffffu, address, i)"),
        By::Check(Kind::InactiveShuffle),
    ),
    Mutation(
        "lanes past the last row leave before a sum",
        DownMany,
        text("combine.cuh", "if (!squares) return;", "if (!squares || !exists) return;"),
        By::Check(Kind::InactiveShuffle),
    ),
    Mutation(
        "results of a token lie on those of the one before",
        DownMany,
        text(
            "combine_down.cu",
            "space(workspace).rest + token * p.slots * p.rows;",
            "space(workspace).rest + token * p.rows;",
        ),
        By::Values,
    ),
    Mutation(
        "sums of the lanes of a warp are read at once",
        GroupedMany,
        text(
            "product_gemm.cuh",
            "tokens[PITCH + 8] = total[n][3] * odd;\n    }\n    __syncwarp();",
            "tokens[PITCH + 8] = total[n][3] * odd;\n    }",
        ),
        By::Check(Kind::SharedRace),
    ),
];

const BUGS_IN_ATTENTION: &[Mutation] = &[
    Mutation(
        "queries are read without a barrier",
        Segments,
        text(
            "attention.cu",
            "threadIdx.x / 32, SEGMENT_WARPS);\n      __syncthreads();",
            "threadIdx.x / 32, SEGMENT_WARPS);",
        ),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "a chunk too many in flight",
        Segments,
        text("attention_segments.cuh", "wait_async<SEGMENT_RING - 1>();", "wait_async<SEGMENT_RING>();"),
        By::Check(Kind::InFlightRead),
    ),
    Mutation(
        "a position too many is seen",
        Segments,
        text(
            "attention_unit.cuh",
            "return position >= first && position <= last;",
            "return position >= first && position <= last + 1;",
        ),
        By::Values,
    ),
    Mutation(
        "the window is half as wide",
        Segments,
        text("attention_unit.cuh", "last + 1 - p.window : 0;", "last + 1 - p.window / 2 : 0;"),
        By::Values,
    ),
    Mutation(
        "free slots are loaded",
        Segments,
        text("attention_chunks.cuh", " || position > last) return 0;", ") return 0;"),
        By::Values,
    ),
    Mutation(
        "the softmax of a segment is not kept",
        Segments,
        text("attention_segments.cuh", "partials.softmax[at] = folds.softmax;", "(void)0;"),
        By::Check(Kind::Uninitialised),
    ),
    Mutation(
        "sums of tokens share their place",
        Segments,
        text("attention_segments.cuh", "(softmax + (u64)p.tokens * p.heads * segments)", "(softmax + segments)"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "segments are folded by a block that is not the last",
        Segments,
        text("attention.cu", "min(gridDim.x, last - first + 1))", "1)"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "a stage is filled while it is read",
        Tiles,
        text("attention_tiles.cuh", "wait_async<TILE_AHEAD>();\n      __syncthreads();", "wait_async<TILE_AHEAD>();"),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "a tile begins while another is read",
        Tiles,
        text("attention_tiles.cuh", "  __syncthreads();  // The tile before is done with shared memory.\n", ""),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "pieces of keys are half as far apart",
        Tiles,
        text("attention_chunks.cuh", "(piece ^ dimension % 8) * 16;", "(piece ^ dimension % 8) * 8;"),
        By::Check(Kind::Misaligned),
    ),
    Mutation(
        "halves of the values are swapped",
        Tiles,
        text(
            "attention_unit.cuh",
            "multiply(o, weights.tile[2 * half], b, 0);",
            "multiply(o, weights.tile[2 * half], b, 1);",
        ),
        By::Values,
    ),
    Mutation(
        "a tile has a token too many",
        Tiles,
        text("attention_tiles.cuh", "if (ends) return run + __ffs(ends) - 1;", "if (ends) return run + __ffs(ends);"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "lanes do not wait for the copies of their warp",
        Segments,
        text(
            "attention_segments.cuh",
            "wait_async<SEGMENT_RING - 1>();\n  __syncwarp();",
            "wait_async<SEGMENT_RING - 1>();",
        ),
        By::Check(Kind::SharedRace),
    ),
];

const BUGS_IN_HEADS_AND_ROWS: &[Mutation] = &[
    Mutation(
        "heads share their place in the workspace",
        QkvFew,
        text("qkv.cu", "(u64)blockIdx.x * p.tokens * p.head_dim", "(u64)0"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "keys are multiplied where values belong",
        QkvMany,
        text("qkv.cu", "products.query_rows + (kind - 1) * products.key_rows", "products.query_rows"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "a page too far",
        KvAppend,
        text(
            "kv_pages.cuh",
            "p.page_table[row + position / PAGE_TOKENS]",
            "p.page_table[row + position / PAGE_TOKENS + 1]",
        ),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "a value stands a slot too far",
        QkvMany,
        text("kv_pages.cuh", "* PAGE_TOKENS + index) * head_dim", "* PAGE_TOKENS + index + 1) * head_dim"),
        By::Values,
    ),
    Mutation(
        "all blocks write one head",
        KvAppend,
        text("kv_append.cu", "head = blockIdx.y;", "head = 0;"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "rows of a table are counted from one",
        Embedding,
        text("embedding.cu", "(id / 16) * TILE_BYTES", "((id - 1) / 16) * TILE_BYTES"),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "a token too many",
        Embedding,
        Bug::Launch(|launches| launches[0].grid[0] += 1),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "sums of warps are read without a barrier",
        RmsNorm,
        text(
            "row_norm.cuh",
            "scratch[threadIdx.x / 32] = slice;\n  __syncthreads();",
            "scratch[threadIdx.x / 32] = slice;",
        ),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "scratch memory is used again without a barrier",
        LayerNorm,
        text("row_norm.cuh", "slices[warp] = scratch[warp];\n  __syncthreads();", "slices[warp] = scratch[warp];"),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "a barrier for one lane of a warp",
        RmsNorm,
        text(
            "row_norm.cuh",
            "if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = slice;\n  __syncthreads();",
            "if (threadIdx.x % 32 == 0) {\n    scratch[threadIdx.x / 32] = slice;\n    __syncthreads();\n  }",
        ),
        By::Check(Kind::DivergentBarrier),
    ),
    Mutation(
        "the sums of eight lanes count as those of all",
        RmsNorm,
        text(
            "reduce.cuh",
            "for (u32 step = 16; step; step >>= 1) v += __shfl",
            "for (u32 step = 4; step; step >>= 1) v += __shfl",
        ),
        By::Values,
    ),
    Mutation(
        "a column too many",
        RmsNorm,
        text("rms_norm.cu", "c < p.cols; c += THREADS)", "c <= p.cols; c += THREADS)"),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "lanes past the last column leave before a sum",
        SquareSums,
        text("square_sums.cu", "  const float sum = panel", "  if (c >= p.cols) return;\n  const float sum = panel"),
        By::Check(Kind::InactiveShuffle),
    ),
    Mutation(
        "an operand is written",
        ScaleRows,
        text("scale_rows.cu", "    p.out[row + c] = p.bias", "    ((float *)p.y)[row + c] = p.bias"),
        By::Check(Kind::ReadOnlyWrite),
    ),
    Mutation(
        "a column of the second half belongs to the first",
        Concat,
        text("concat.cu", "c < p.a_cols ? a[c]", "c <= p.a_cols ? a[c]"),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "ranks are read without a barrier",
        Router,
        text("route.cuh", "in.bias[e] : 0.0f), e);\n  }\n  __syncthreads();", "in.bias[e] : 0.0f), e);\n  }"),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "ranks of groups are read without a barrier",
        Router,
        text(
            "route.cuh",
            "memory.group_ranks[g] = rank_of(score, g);\n  }\n  __syncthreads();",
            "memory.group_ranks[g] = rank_of(score, g);\n  }",
        ),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "half a warp selects",
        Route,
        text("route.cu", "if (threadIdx.x < 32) {", "if (threadIdx.x < 16) {"),
        By::Check(Kind::InactiveShuffle),
    ),
    Mutation(
        "a barrier that one warp alone reaches",
        Router,
        text(
            "route.cuh",
            "(int)index_of(last);\n  }\n  __syncwarp();",
            "(int)index_of(last);\n  }\n  __syncthreads();",
        ),
        By::Check(Kind::MissingBarrier),
    ),
    Mutation("a block too few", ScaleRows, Bug::Launch(|launches| launches[0].grid[0] -= 1), By::Values),
    Mutation(
        "pairs of a head are turned before they are there",
        QkvFew,
        text(
            "head_finish.cuh",
            "__syncwarp();\n    for (u32 i = lane(); i < p.pairs",
            "for (u32 i = lane(); i < p.pairs",
        ),
        By::Check(Kind::SharedRace),
    ),
    Mutation(
        "experts are weighed before they are there",
        Route,
        text("route.cuh", "(int)index_of(last);\n  }\n  __syncwarp();", "(int)index_of(last);\n  }"),
        By::Check(Kind::SharedRace),
    ),
];

#[test]
fn bugs_in_products_of_few_tokens() {
    expect_caught(BUGS_IN_PRODUCTS_OF_FEW_TOKENS, ARCHITECTURES[0]);
}

#[test]
fn bugs_in_products_of_many_tokens() {
    expect_caught(BUGS_IN_PRODUCTS_OF_MANY_TOKENS, ARCHITECTURES[0]);
}

#[test]
fn bugs_in_products_with_experts() {
    expect_caught(BUGS_IN_PRODUCTS_WITH_EXPERTS, ARCHITECTURES[0]);
}

#[test]
fn bugs_in_attention() {
    expect_caught(BUGS_IN_ATTENTION, ARCHITECTURES[0]);
}

#[test]
fn bugs_in_heads_and_rows() {
    expect_caught(BUGS_IN_HEADS_AND_ROWS, ARCHITECTURES[0]);
}
