//! Bugs of attention, and of kernels over heads and rows.

use simulator::Kind;

use super::harness::bugs::Bug;
use super::launches::On::*;
use super::{By, Mutation, text};

pub const BUGS_IN_ATTENTION: &[Mutation] = &[
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
        "rows of a page have the scale of its first",
        ScaledSegments,
        text("attention_chunks.cuh", "HEAD_DIM) + position % PAGE_TOKENS;", "HEAD_DIM);"),
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

pub const BUGS_IN_HEADS_AND_ROWS: &[Mutation] = &[
    Mutation(
        "heads share their place in the workspace",
        QkvFew,
        text("qkv.cu", "(u64)blockIdx.x * p.tokens * p.head_dim", "(u64)0"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "keys are multiplied where values belong",
        QkvMany,
        text("qkv.cu", "kind == KEY ? heads : heads + kv_heads; }", "heads; }"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "counters of shared heads are not cleared",
        QkvMany,
        text(
            "qkv.cu",
            "    clear_counters(shared.counters, (u64)((p.tokens - 1) / Product::TOKENS + 1) * shared.heads);\n",
            "",
        ),
        By::Check(Kind::Uninitialised),
    ),
    Mutation(
        "every block finishes the heads it shares",
        QkvMany,
        text("arrival.cuh", "atomicAdd(counter(i), 1) + 1 == all", "atomicAdd(counter(i), 1) + 1 <= all"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "a shared head is looked for among this block's sums",
        QkvMany,
        text("qkv.cu", "const bool whole = rows.blocks(head) == 1;", "const bool whole = true;"),
        By::Check(Kind::OutOfBounds),
    ),
    Mutation(
        "heads are finished over the sums of others",
        QkvMany,
        text("qkv.cu", "Product::sums(memory, Product::WARPS) + warp", "Product::sums(memory, 1) + warp"),
        By::Check(Kind::SharedRace),
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
