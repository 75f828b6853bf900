// qkv: products of x with wq, wk and wv seen as heads, each finished as head_finish.cuh says.
//
// Up to eight tokens: qkv_few, one launch. A head's row tiles are dealt two to a block, so that a model of few heads still fills the GPU; the
// block of a head that ends last finishes it. More tokens: qkv_prepare writes x as operands to the workspace, qkv_many multiplies, whose tiles
// need not end where heads do, and qkv_finish finishes heads from the products in the workspace. Element by element the
// operations are the same.
//
// Workspace: counters of qkv_few, then its products [head][token][head_dim]; or, of the others, x as operands and products
// [token][rows of all heads].
#include "arrival.cuh"
#include "head_finish.cuh"
#include "product_gemm.cuh"

#if !defined(WEIGHT) || !defined(ACTIVATIONS)
#error "WEIGHT and ACTIVATIONS are not defined: the format of the weights, formats::NAME, and how the product sees x, activations::NAME"
#endif
#if !defined(CACHE) || !defined(COUNTER_BYTES)
#error "CACHE and COUNTER_BYTES are not defined: CacheF16 or CacheF32, and bytes of the workspace that are counters"
#endif

constexpr u32 PARTS = Operand<WEIGHT, ACTIVATIONS>::PARTS;
typedef PreparedRows<WEIGHT, ACTIVATIONS> Prepared;
typedef Gemm<WEIGHT, PARTS, token_tiles<WEIGHT, PARTS>()> Product;

/// Row tiles of a block of qkv_few, and threads of a tile's sums.
constexpr u32 BLOCK_TILES = 2, TILE_THREADS = 128;

/// Blocks of qkv_few an SM must have registers for. Without a number the assembler spills some to fit more blocks; formats with scales in two
/// levels need more than two blocks leave.
constexpr u32 FEW_BLOCKS = Dequant<WEIGHT>::UNIT_CHUNKS >= 4 ? 1 : Dequant<WEIGHT>::CODE_WORDS == 4 && __CUDA_ARCH__ < 1200 ? 3 : 2;

/// The rows of x and their norm.
__device__ __forceinline__ Source source_of(const QkvParams &p) { return Source{p.x, p.norm_weight, p.norm_bias, p.cols, p.norm, p.norm_eps}; }

/// Row tiles a block of qkv_few multiplies: those numbered by blockIdx.y of the tiles that have rows of its head.
struct HeadTiles {
  u32 start, first, count;

  __device__ __forceinline__ HeadTiles(const HeadPlace &head, u32 head_dim) {
    start = head.index * head_dim;
    const u32 end = (start + head_dim + 15) / 16;
    first = min(start / 16 + blockIdx.y * BLOCK_TILES, end);
    count = min(BLOCK_TILES, end - first);
  }
};

KERNEL(qkv_few, QkvParams, 256, FEW_BLOCKS) {
  extern __shared__ __align__(128) u8 memory[];
  const HeadPlace head(p, blockIdx.x);
  const HeadTiles tiles(head, p.head_dim);
  const FewTokens few(memory, p.tokens, staged_chunks<WEIGHT>(p.cols), PARTS);
  const Slice slice = slice_of<WEIGHT>(p.cols, threadIdx.x / 32);
  const u64 tile_bytes = Tile<WEIGHT>::bytes(p.cols);
  const u8 *matrix = (const u8 *)head.of(p.wq, p.wk, p.wv) + tiles.first * tile_bytes;
  const auto base = [&](u32 i) { return matrix + i * tile_bytes; };
  WeightStream<WEIGHT, decltype(base)> weights(base, slice, tiles.count, p.cols);
  weights.start();
  wait_for_inputs();
  few.stage<WEIGHT, ACTIVATIONS>(source_of(p), [](u32 t) { return (long long)t; }, slice);
  weights.template run<PARTS>([&](u32 part, u32 chunk, u32 pair) { return few.operand(part, chunk, pair); },
                              [&](u32 i, const float(&acc)[4]) { few.keep(i, acc); });
  let_next_start();
  __syncthreads();
  // A thread ends one element; heads stand behind the sums.
  float *heads = few.partial(BLOCK_TILES, 0);
  float *products = gridDim.y == 1 ? heads : (float *)(workspace + COUNTER_BYTES) + (u64)blockIdx.x * p.tokens * p.head_dim;
  const u32 tile = threadIdx.x / TILE_THREADS, warp = threadIdx.x / 32, token = warp % 4 + threadIdx.x % 32 / 16 * 4;
  const u32 row = threadIdx.x % 16, d = (tiles.first + tile) * 16 + row - tiles.start;
  if (tile < tiles.count && token < p.tokens && d < p.head_dim) products[token * p.head_dim + d] = few.reduced(tile, token, row);
  if (gridDim.y == 1)
    __syncthreads();
  else if (!last_to_arrive((u32 *)workspace + blockIdx.x, gridDim.y))
    return;
  if (warp >= p.tokens) return;
  const float *mine = products + warp * p.head_dim;
  const bool shared = gridDim.y == 1;
  HeadFinish<CACHE>{p}.run(warp, head, [=](u32 i) { return shared ? mine[i] : __ldcg(mine + i); }, heads + warp * p.head_dim);
}

/// A row of x a block.
KERNEL(qkv_prepare, QkvParams, 256) {
  wait_for_inputs();
  let_next_start();
  Prepared(workspace + COUNTER_BYTES, p.tokens, p.cols).prepare(source_of(p), blockIdx.x);
}

/// Products of many tokens in the workspace, behind x: [token][rows of all heads].
struct Products {
  float *first;
  u32 query_rows, key_rows, rows;

  __device__ __forceinline__ Products(const QkvParams &p, const Prepared &prepared)
      : first(prepared.factors + p.tokens), query_rows(p.heads * p.head_dim), key_rows(p.wk ? p.kv_heads * p.head_dim : 0),
        rows(query_rows + 2 * key_rows) {}

  __device__ __forceinline__ float *of(u32 token) const { return first + (u64)token * rows; }
};

/// The row tile of a warp of qkv_many: tiles of queries, then of keys, then of values.
struct WarpTile {
  const u8 *weights;
  /// Its first row among those of all heads, and how many of its rows exist: none past the last tile.
  u32 row, count;

  __device__ __forceinline__ WarpTile(const QkvParams &p, const Products &products, u32 number) {
    const u32 queries = (products.query_rows + 15) / 16, keys = (products.key_rows + 15) / 16;
    // Past the last tile a warp multiplies it again, for nobody.
    const u32 all = queries + 2 * keys, mine = min(number, all - 1);
    const u32 kind = mine < queries ? 0 : mine < queries + keys ? 1 : 2;
    const u32 tile = kind == 0 ? mine : kind == 1 ? mine - queries : mine - queries - keys;
    const u32 rows = kind == 0 ? products.query_rows : products.key_rows;
    const void *matrix = kind == 0 ? p.wq : kind == 1 ? p.wk : p.wv;
    count = number < all ? min(16u, rows - tile * 16) : 0;
    weights = (const u8 *)matrix + tile * Tile<WEIGHT>::bytes(p.cols);
    row = (kind == 0 ? 0 : products.query_rows + (kind - 1) * products.key_rows) + tile * 16;
  }
};

/// Eight row tiles and the tokens of a block of the product.
KERNEL(qkv_many, QkvParams, 256) {
  extern __shared__ __align__(128) u8 memory[];
  const u32 warp = threadIdx.x / 32, first = blockIdx.y * Product::TOKENS, row = threadIdx.x % 16;
  const Prepared prepared(workspace + COUNTER_BYTES, p.tokens, p.cols);
  const Products products(p, prepared);
  const WarpTile tile(p, products, blockIdx.x * 8 + warp);
  const auto row_of = [&](u32 t) { return min(first + t, p.tokens - 1); };
  float total[Product::TOKENS / 8][4];
  Product::run(memory, tile.weights, p.cols, [&](u32 t) { return prepared.row(row_of(t)); }, total);
  let_next_start();
  Product::keep(memory, total, [&](u32 t) { return prepared.factors[row_of(t)]; });
  const float *sums = Product::sums(memory, warp);
  for (u32 step = 0; step < Product::TOKENS / 2; step++) {
    const u32 t = Product::walk_token(step);
    if (first + t < p.tokens && row < tile.count) products.of(first + t)[tile.row + row] = sums[t * Product::PITCH + row];
  }
}

/// Eight heads of a token a block, a warp each.
KERNEL(qkv_finish, QkvParams, 256) {
  extern __shared__ __align__(128) u8 memory[];
  wait_for_inputs();
  let_next_start();
  const u32 warp = threadIdx.x / 32, number = blockIdx.y * 8 + warp;
  if (number >= heads_of_all(p)) return;
  const Products products(p, Prepared(workspace + COUNTER_BYTES, p.tokens, p.cols));
  const float *mine = products.of(blockIdx.x) + (u64)number * p.head_dim;
  HeadFinish<CACHE>{p}.run(blockIdx.x, HeadPlace(p, number), [=](u32 d) { return mine[d]; }, (float *)memory + warp * p.head_dim);
}
