// combine_down: the down projections of a token's experts, weighed, added up and added to the residual stream, and the squares of the sum.
//
// Few tokens: one reduction of length slots * cols a row. A block has row tiles of all the token's experts; its slots are the columns of the mma, of which
// each matrix needs its own. Many tokens: combine_down_prepare, then combine_down_many or _narrow, which leave the experts' results in the
// workspace, then combine_down_add.
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

KERNEL(combine_down_prepare, CombineDownParams, 256) {
  extern __shared__ __align__(128) u8 memory[];
  product_of(p).prepare(memory, workspace);
}

KERNEL(combine_down_many, CombineDownParams, 256, Occupancy::MANY) {
  extern __shared__ __align__(128) u8 memory[];
  const GroupedProduct product = product_of(p);
  product.many<token_tiles<WEIGHT, PARTS>()>(memory, workspace, (float *)product.space(workspace).rest);
}

KERNEL(combine_down_narrow, CombineDownParams, 256, Occupancy::NARROW) {
  extern __shared__ __align__(128) u8 memory[];
  const GroupedProduct product = product_of(p);
  product.many<NARROW_TOKENS / 8>(memory, workspace, (float *)product.space(workspace).rest);
}

/// A thread a row of a token.
KERNEL(combine_down_add, CombineDownParams, 256) {
  const u32 per_token = (p.rows + 255) / 256, row = blockIdx.x % per_token * 256 + threadIdx.x;
  const u64 token = blockIdx.x / per_token;
  wait_for_inputs();
  const float *y = (const float *)product_of(p).space(workspace).rest + token * p.slots * p.rows;
  const float sum = row < p.rows ? weighed_sum(y, p.weights + token * p.slots, p.slots, p.rows, row) : 0.0f;
  end_of(p, token).add(sum, row);
  let_next_start();
}
