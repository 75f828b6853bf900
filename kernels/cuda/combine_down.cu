// combine_down: the down projections of a token's experts, weighed, added up and added to the residual stream, and the squares of the sum.
//
// Few tokens: one reduction of length slots * cols a row. A block has row tiles of all the token's experts; its slots are the columns of the mma, of which
// each matrix needs its own. Many tokens: combine_down_prepare, then combine_down_many or _narrow, which leave the experts' results in the
// workspace; the block that brings the last result of a token for its rows adds them up, in the order of slots whoever comes last.
#include "arrival.cuh"
#include "combine.cuh"
#include "grouped_product.cuh"

static __device__ __forceinline__ GroupedProduct product_of(const CombineDownParams &p) {
  return GroupedProduct{Pairs{p.experts, p.tokens, p.slots, p.matrices}, RowsOfPairs{p.slots, 0}, Source{p.h, nullptr, nullptr, p.cols, 0, 0.0f},
                        (const u8 *)p.w, p.bias, p.rows};
}

static __device__ __forceinline__ BranchEnd end_of(const CombineDownParams &p, u64 token) {
  const u64 first = token * p.rows, panels = (p.rows + 15) / 16;
  return BranchEnd{p.residual ? p.residual + first : nullptr, p.out + first, p.squares ? p.squares + token * panels : nullptr, p.rows, p.factor};
}

/// Blocks of y: tokens, of at most eight slots. Blocks of x share the row tiles.
KERNEL(combine_down_few, CombineDownParams, 256, Occupancy::FEW) {
  extern __shared__ __align__(128) u8 memory[];
  const GroupedProduct product = product_of(p);
  const u32 each = (product.row_tiles() + gridDim.x - 1) / gridDim.x, first = min(blockIdx.x * each, product.row_tiles());
  const u32 tiles = min(each, product.row_tiles() - first), first_pair = blockIdx.y * p.slots;
  wait_for_inputs();
  // Lane i has the i-th matrix and row tile: their addresses are found once, all at a time. Of an expert that does not exist the first
  // is multiplied, and not used.
  const u32 lane = threadIdx.x % 32, matrix = product.pairs.matrix(first_pair + lane % p.slots);
  const u64 address = (u64)product.row_tile(matrix < p.matrices ? matrix : 0, first + lane / p.slots);
  const auto base = [&](u32 i) { return (const u8 *)__shfl_sync(0xffffffffu, address, i); };
  const Slice slice = slice_of<WEIGHT>(p.cols, threadIdx.x / 32);
  WeightStream<WEIGHT, decltype(base)> weights(base, slice, tiles * p.slots, p.cols);
  weights.start();
  const FewTokens few(memory, p.slots, staged_chunks<WEIGHT>(p.cols), PARTS);
  few.stage<WEIGHT, ACTIVATIONS>(product.source, [&](u32 slot) { return (long long)first_pair + slot; }, slice);
  weights.template run<PARTS>([&](u32 part, u32 chunk, u32 of) { return few.operand(part, chunk, of); },
                              [&](u32 i, const float(&acc)[4]) { few.keep(i, acc); });
  let_next_start();
  __syncthreads();
  const BranchEnd end = end_of(p, blockIdx.y);
  // Half a warp ends a tile.
  for (u32 two = threadIdx.x / 32; 2 * two < tiles; two += SLICES) {
    const u32 tile = 2 * two + lane / 16, row = (first + tile) * 16 + lane % 16;
    const bool exists = tile < tiles && row < p.rows;
    float sum = 0.0f;
    for (u32 slot = 0; exists && slot < p.slots; slot++) {
      const u32 matrix = product.pairs.matrix(first_pair + slot);
      const float y = matrix < p.matrices ? few.reduced(tile * p.slots + slot, slot, lane % 16) : 0.0f;
      sum = fmaf(p.weights[first_pair + slot], product.biased(y, matrix, row), sum);
    }
    end.add(sum, exists ? row : p.rows);
  }
}

/// What the blocks of many tokens leave to each other in the workspace: results of the experts [pair][row], and how many of a token are there,
/// [token][block of rows].
struct Results {
  static constexpr u32 BLOCK_ROWS = 16 * SLICES;

  float *out;
  u32 *counters;
  u32 row_blocks;

  __device__ __forceinline__ Results(const GroupedProduct &product, u8 *workspace)
      : out((float *)product.space(workspace).rest), counters((u32 *)(out + (u64)product.pairs.count() * product.rows)),
        row_blocks((product.rows + BLOCK_ROWS - 1) / BLOCK_ROWS) {}

  /// Ends the tokens of which this block brought the last result. Half the block has a token.
  template <class Pairs> __device__ __forceinline__ void end(const CombineDownParams &p, const Pairs &mine, bool *last) const {
    const auto token = [&](u32 i) { return (u64)mine.pairs[i] / p.slots; };
    arrive(mine.count, last, [&](u32) { return p.slots; }, [&](u32 i) { return counters + token(i) * row_blocks + blockIdx.y; });
    const u32 row = blockIdx.y * BLOCK_ROWS + threadIdx.x % BLOCK_ROWS;
    for (u32 i = threadIdx.x / BLOCK_ROWS; i < mine.count; i += 32 * SLICES / BLOCK_ROWS) {
      if (!last[i]) continue;
      const float *y = out + token(i) * p.slots * p.rows + row;
      const float *weights = p.weights + token(i) * p.slots;
      const float sum = row < p.rows ? weighed_sum(weights, p.slots, [&](u32 slot) { return __ldcg(y + (u64)slot * p.rows); }) : 0.0f;
      end_of(p, token(i)).add(sum, row);
    }
  }
};

KERNEL(combine_down_prepare, CombineDownParams, 256) {
  extern __shared__ __align__(128) u8 memory[];
  const GroupedProduct product = product_of(p);
  const Results results(product, workspace);
  wait_for_inputs();
  clear_counters(results.counters, (u64)p.tokens * results.row_blocks);
  product.prepare(memory, workspace);
}

template <u32 N_TILES> static __device__ __forceinline__ void multiply_many(const CombineDownParams &p, u8 *memory, u8 *workspace) {
  __shared__ bool last[8 * N_TILES];
  const GroupedProduct product = product_of(p);
  product.many<N_TILES>(memory, workspace, [&] { return Results(product.anew(), anew(workspace)); },
                        [&](const Results &results, const auto &mine) { results.end(p, mine, last); });
}

KERNEL(combine_down_many, CombineDownParams, 256, Occupancy::MANY) {
  extern __shared__ __align__(128) u8 memory[];
  multiply_many<token_tiles<WEIGHT, PARTS>()>(p, memory, workspace);
}

KERNEL(combine_down_narrow, CombineDownParams, 256, Occupancy::NARROW) {
  extern __shared__ __align__(128) u8 memory[];
  multiply_many<NARROW_TOKENS / 8>(p, memory, workspace);
}
