//! Bugs of products.

use simulator::Kind;

use super::harness::bugs::Bug;
use super::launches::On::*;
use super::{By, Mutation, text};

pub const BUGS_IN_PRODUCTS_OF_FEW_TOKENS: &[Mutation] = &[
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

pub const BUGS_IN_PRODUCTS_OF_MANY_TOKENS: &[Mutation] = &[
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

pub const BUGS_IN_PRODUCTS_WITH_EXPERTS: &[Mutation] = &[
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
            "row_tile(found.matrix, min(tile",
            "row_tile((found.matrix + 1) % pairs.matrices, min(tile",
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
        text("combine_down.cu", "out + token(i) * p.slots * p.rows + row", "out + token(i) * p.rows + row"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "results arrive before they are visible",
        DownMany,
        text("arrival.cuh", "  __threadfence();\n  __syncthreads();\n  for", "  __syncthreads();\n  for"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "results arrive before all warps have written them",
        DownMany,
        text("arrival.cuh", "  __threadfence();\n  __syncthreads();\n  for", "  __threadfence();\n  for"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "a token ends a result too early",
        DownMany,
        text("combine_down.cu", "{ return p.slots; }, [&]", "{ return p.slots - 1; }, [&]"),
        By::Check(Kind::GlobalRace),
    ),
    Mutation(
        "counters of results are not cleared",
        DownMany,
        text("combine_down.cu", "  clear_counters(results.counters, (u64)p.tokens * results.row_blocks);\n", ""),
        By::Check(Kind::Uninitialised),
    ),
    Mutation(
        "results of all tokens are counted together",
        DownMany,
        text("combine_down.cu", "token(i) * row_blocks + blockIdx.y; }", "row_blocks + blockIdx.y; }"),
        By::Check(Kind::GlobalRace),
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
