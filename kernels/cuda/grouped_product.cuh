// The products of pairs with one matrix each of a stack, of many tokens: what grouped_matmul and combine_down share.
#pragma once
#include "experts.cuh"

constexpr u32 PARTS = Operand<WEIGHT, ACTIVATIONS>::PARTS;

struct GroupedProduct {
  const Pairs pairs;
  const RowsOfPairs row_of;
  const Source source;
  const u8 *w;
  const float *bias;  // [matrices, rows], nullable
  u32 rows;

  __device__ __forceinline__ GroupedProduct anew() const {
    const Source x = {source.x, source.weight, source.bias, ::anew(source.cols), source.norm, source.eps};
    return GroupedProduct{pairs.anew(), row_of, x, w, bias, rows};
  }

  __device__ __forceinline__ u32 row_tiles() const { return (rows + 15) / 16; }

  /// Row tile `tile` of a matrix.
  __device__ __forceinline__ const u8 *row_tile(u32 matrix, u32 tile) const {
    return w + ((u64)matrix * row_tiles() + tile) * Tile<WEIGHT>::bytes(source.cols);
  }

  /// A product with its bias, which a matrix that does not exist has not.
  __device__ __forceinline__ float biased(float v, u32 matrix, u32 row) const {
    return bias && matrix < pairs.matrices ? v + bias[(u64)matrix * rows + row] : v;
  }

  __device__ __forceinline__ u32 x_rows() const { return row_of.count(pairs); }

  __device__ __forceinline__ ExpertsWorkspace space(u8 *workspace) const {
    return ExpertsWorkspace(workspace, pairs, x_rows(), source.cols);
  }

  /// Prepares a row of x a block; one block more sorts the pairs, where experts are given.
  __device__ __forceinline__ void prepare(u8 *memory, u8 *workspace) const {
    const ExpertsWorkspace space = this->space(workspace);
    wait_for_inputs();
    if (blockIdx.x < x_rows())
      space.rows.prepare(source, blockIdx.x);
    else
      PairSort(pairs, space.list(), tile_tokens(pairs), (u32 *)memory).run();
    let_next_start();
  }

  /// Multiplies a tile of tokens (blockIdx.x) by eight row tiles (blockIdx.y): results_of().out[pair, row]. Then end(the results, the block's pairs), by
  /// the whole block. results_of is called once the products are there.
  template <u32 N_TILES, class ResultsOf, class End>
  __device__ __forceinline__ void many(u8 *memory, u8 *workspace, const ResultsOf &results_of, const End &end) const {
    typedef Gemm<WEIGHT, PARTS, N_TILES> Block;
    typedef BlockPairs<Block::TOKENS> Mine;
    __shared__ u32 list[Mine::WORDS];
    const u32 warp = threadIdx.x / 32;
    const ExpertsWorkspace space = this->space(workspace);
    wait_for_inputs();
    const Mine found(pairs, space.list(), blockIdx.x, list);
    if (found.count == 0) return;
    if (found.matrix < pairs.matrices) {
      float total[N_TILES][4];
      const u32 tile = blockIdx.y * Block::WARPS + warp;
      Block::run(memory, row_tile(found.matrix, min(tile, row_tiles() - 1)), source.cols,
                 [&](u32 t) { return space.rows.row(row_of(list[t])); }, total);
      const float *factors = anew().space(::anew(workspace)).rows.factors;
      Block::keep(memory, total, [&](u32 t) { return factors[row_of(list[t])]; });
    }
    let_next_start();
    const auto results = results_of();
    const Mine mine(list);
    const bool exists = mine.matrix < pairs.matrices;
    const float *sums = Block::sums(memory, warp);
    const u32 row = (::anew(blockIdx.y) * Block::WARPS + warp) * 16 + threadIdx.x % 16;
    for (u32 step = 0; step < Block::TOKENS / 2; step++) {
      const u32 t = Block::walk_token(step);
      if (t < mine.count && row < rows)
        results.out[(u64)list[t] * rows + row] = biased(exists ? sums[t * Block::PITCH + threadIdx.x % 16] : 0.0f, mine.matrix, row);
    }
    end(results, mine);
  }
};
