// Kernels of a product of one matrix: rows of x, all of them, by all rows of the weights. What becomes of a product is the epilogue's, which has
//   row_scale(token): what it wants to know of a token, by half a warp; of a token past the end anything;
//   finish(product, row_scale, token, panel): ends row lane % 16 of a panel of 16 rows; a token or row may lie past the end.
//
// Up to eight tokens: few, where each block prepares x itself. More: one launch prepares x as operands in the workspace, many multiplies. Element by
// element the operations are the same.
#pragma once
#include "product_gemm.cuh"

#ifndef WEIGHT
#error "WEIGHT is not defined: the format of the weights, formats::NAME"
#endif
#ifndef ACTIVATIONS
#error "ACTIVATIONS is not defined: how the product sees x, activations::NAME"
#endif
#ifndef COUNTER_BYTES
#error "COUNTER_BYTES is not defined: bytes of the workspace that are counters"
#endif

/// A product of `tokens` rows of x with the matrix w [rows, source.cols].
template <class F, class X> struct MatrixProduct {
  static constexpr u32 PARTS = Operand<F, X>::PARTS;
  typedef Gemm<F, PARTS, token_tiles<F, PARTS>()> Block;

  const Source source;
  const u8 *w;
  u32 tokens, rows;

  __device__ __forceinline__ MatrixProduct(const Source &source, const void *w, u32 tokens, u32 rows)
      : source(source), w((const u8 *)w), tokens(tokens), rows(rows) {}

  __device__ __forceinline__ u32 tiles() const { return (rows + 15) / 16; }

  /// A block owns neighbouring row tiles, as many as the grid leaves it.
  template <class Epilogue> __device__ __forceinline__ void few(u8 *memory, const Epilogue &epilogue) const {
    const u32 each = (tiles() + gridDim.x - 1) / gridDim.x, first = min(blockIdx.x * each, tiles()), count = min(each, tiles() - first);
    const FewTokens staged(memory, tokens, staged_chunks<F>(source.cols), PARTS);
    const Slice slice = slice_of<F>(source.cols, threadIdx.x / 32);
    const auto base = [&](u32 i) { return w + (first + i) * Tile<F>::bytes(source.cols); };
    WeightStream<F, decltype(base)> weights(base, slice, count, source.cols);
    weights.start();
    wait_for_inputs();
    staged.stage<F, X>(source, [](u32 t) { return (long long)t; }, slice);
    weights.template run<PARTS>([&](u32 part, u32 chunk, u32 pair) { return staged.operand(part, chunk, pair); },
                                [&](u32 i, const float(&acc)[4]) { staged.keep(i, acc); });
    let_next_start();
    // Four warps end a tile, two tokens each.
    const u32 warp = threadIdx.x / 32, token = warp % 4 + threadIdx.x % 32 / 16 * 4;
    const float scale = epilogue.row_scale(token);
    __syncthreads();
    for (u32 i = warp / 4; i < count; i += 2)
      epilogue.finish(staged.reduced(i, min(token, tokens - 1), threadIdx.x % 16), scale, token, first + i);
  }

  /// Prepares a row of x a block.
  __device__ __forceinline__ void prepare(u8 *workspace) const {
    wait_for_inputs();
    PreparedRows<F, X>(workspace, tokens, source.cols).prepare(source, blockIdx.x);
    let_next_start();
  }

  /// Multiplies eight row tiles (blockIdx.x) by the tokens of a block (blockIdx.y).
  template <class Epilogue> __device__ __forceinline__ void many(u8 *memory, u8 *workspace, const Epilogue &epilogue) const {
    __shared__ float scales[Block::TOKENS];
    const u32 warp = threadIdx.x / 32, tile = blockIdx.x * Block::WARPS + warp, first = blockIdx.y * Block::TOKENS;
    const PreparedRows<F, X> prepared(workspace, tokens, source.cols);
    const auto row = [&](u32 t) { return min(first + t, tokens - 1); };
    float total[Block::TOKENS / 8][4];
    Block::run(memory, w + min(tile, tiles() - 1) * Tile<F>::bytes(source.cols), source.cols, [&](u32 t) { return prepared.row(row(t)); }, total);
    let_next_start();
    for (u32 t = threadIdx.x / 16; t < Block::TOKENS; t += 16) {
      const float scale = epilogue.row_scale(row(t));
      if (threadIdx.x % 16 == 0) scales[t] = scale;
    }
    Block::keep(memory, total, [&](u32 t) { return prepared.factors[row(t)]; });
    __syncthreads();
    if (tile >= tiles()) return;
    const float *sums = Block::sums(memory, warp);
    for (u32 step = 0; step < Block::TOKENS / 2; step++) {
      const u32 t = Block::walk_token(step);
      epilogue.finish(sums[t * Block::PITCH + threadIdx.x % 16], scales[t], first + t, tile);
    }
  }
};

/// Blocks an SM of the few-token path, which bounds its registers: three. More parts of x than an f16 has need more than that leaves, with long units
/// and minima all there are.
constexpr bool HAS_PARTS = Operand<WEIGHT, ACTIVATIONS>::PARTS > Operand<WEIGHT, activations::half>::PARTS;
constexpr u32 FEW_BLOCKS = !HAS_PARTS ? 3 : Dequant<WEIGHT>::HAS_MINIMUM && Dequant<WEIGHT>::UNIT_CHUNKS > 2 ? 1 : 2;

/// The three entries of a kernel over one matrix: NAME_few, NAME_prepare, NAME_many. `product` makes a MatrixProduct of the parameters `p`.
#define MATRIX_PRODUCT_KERNELS(name, Params, Epilogue, product)                                                              \
  KERNEL(name##_few, Params, 256, FEW_BLOCKS) {                                                                            \
    extern __shared__ __align__(128) u8 memory[];                                                                          \
    product(p).few(memory, Epilogue{p});                                                                                    \
  }                                                                                                                        \
  KERNEL(name##_prepare, Params, 256) { product(p).prepare(workspace + COUNTER_BYTES); }                                    \
  KERNEL(name##_many, Params, 256) {                                                                                       \
    extern __shared__ __align__(128) u8 memory[];                                                                          \
    product(p).many(memory, workspace + COUNTER_BYTES, Epilogue{p});                                                        \
  }
