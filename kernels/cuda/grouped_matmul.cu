// grouped_matmul: out[t, j, n] = sum_k x[t, j, k] w[e, n, k] (+ bias[e, n]) with e = experts[t, j], or j where none are given.
#include "grouped_product.cuh"

static __device__ __forceinline__ GroupedProduct product_of(const GroupedMatmulParams &p) {
  return GroupedProduct{Pairs{p.experts, p.tokens, p.slots, p.matrices}, RowsOfPairs{p.slots, p.slots_share_x},
                        Source{p.x, nullptr, nullptr, p.cols, 0, 0.0f}, (const u8 *)p.w, p.bias, p.rows};
}

/// Blocks of y: pairs, or slots where all tokens meet the slot's matrix. Blocks of x share the row tiles.
KERNEL(grouped_matmul_few, GroupedMatmulParams, 256, Occupancy::FEW) {
  extern __shared__ __align__(128) u8 memory[];
  const GroupedProduct product = product_of(p);
  const bool alone = p.experts;
  const u32 tokens = alone ? 1 : p.tokens, warp = threadIdx.x / 32;
  const u32 each = (product.row_tiles() + gridDim.x - 1) / gridDim.x, first = min(blockIdx.x * each, product.row_tiles());
  const u32 tiles = min(each, product.row_tiles() - first);
  const auto pair_of = [&](u32 t) { return alone ? blockIdx.y : t * p.slots + blockIdx.y; };
  if (alone) wait_for_inputs();
  const u32 matrix = product.pairs.matrix(blockIdx.y);
  const bool exists = matrix < p.matrices;
  const u8 *first_tile = product.row_tile(matrix, first);
  const auto base = [&](u32 i) { return first_tile + i * Tile<WEIGHT>::bytes(p.cols); };
  const Slice slice = slice_of<WEIGHT>(p.cols, warp);
  WeightStream<WEIGHT, decltype(base)> weights(base, slice, exists ? tiles : 0, p.cols);
  weights.start();
  if (!alone) wait_for_inputs();
  const FewTokens few(memory, tokens, staged_chunks<WEIGHT>(p.cols), PARTS);
  few.stage<WEIGHT, ACTIVATIONS>(product.source, [&](u32 t) { return (long long)product.row_of(pair_of(t)); }, slice);
  weights.template run<PARTS>([&](u32 part, u32 chunk, u32 of) { return few.operand(part, chunk, of); },
                              [&](u32 i, const float(&acc)[4]) { few.keep(i, acc); });
  let_next_start();
  __syncthreads();
  // Four warps end a tile, two tokens each.
  const u32 token = warp % 4 + threadIdx.x % 32 / 16 * 4;
  for (u32 tile = warp / 4; tile < tiles; tile += 2) {
    const u32 row = (first + tile) * 16 + threadIdx.x % 16;
    if (token >= tokens || row >= p.rows) continue;
    const float sum = exists ? few.reduced(tile, token, threadIdx.x % 16) : 0.0f;
    p.out[(u64)pair_of(token) * p.rows + row] = product.biased(sum, matrix, row);
  }
}

KERNEL(grouped_matmul_prepare, GroupedMatmulParams, 256) {
  extern __shared__ __align__(128) u8 memory[];
  product_of(p).prepare(memory, workspace);
}

/// Where products go.
struct Results {
  float *out;
};

KERNEL(grouped_matmul_many, GroupedMatmulParams, 256, Occupancy::MANY) {
  extern __shared__ __align__(128) u8 memory[];
  product_of(p).many<token_tiles<WEIGHT, PARTS>()>(memory, workspace, [&] { return Results{p.out}; }, [](const Results &, const auto &) {});
}

KERNEL(grouped_matmul_narrow, GroupedMatmulParams, 256, Occupancy::NARROW) {
  extern __shared__ __align__(128) u8 memory[];
  product_of(p).many<NARROW_TOKENS / 8>(memory, workspace, [&] { return Results{p.out}; }, [](const Results &, const auto &) {});
}
