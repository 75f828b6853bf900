// qkv: products of x with wq, wk and wv seen as heads, each finished as head_finish.cuh says.
//
// Up to eight tokens: qkv_few, one launch. A head's row tiles are dealt two to a block, so that a model of few heads still fills the GPU; the
// block of a head that ends last finishes it. More tokens: qkv_prepare writes x as operands to the workspace, qkv_many multiplies and finishes
// the heads that lie in its row tiles; of a head that several blocks share, the one that ends last does. Element by element the operations are
// the same, whoever comes last.
//
// Workspace: counters of qkv_few, then its products [head][token][head_dim]; or, of the others, x as operands and, where blocks share heads, products
// [token][rows of all heads] and counters.
#include "arrival.cuh"
#include "head_finish.cuh"
#include "product_gemm.cuh"

#if !defined(WEIGHT) || !defined(ACTIVATIONS)
#error "WEIGHT and ACTIVATIONS are not defined: the format of the weights, formats::NAME, and how the product sees x, activations::NAME"
#endif
#if !defined(CACHE) || !defined(COUNTER_BYTES)
#error "CACHE and COUNTER_BYTES are not defined: CacheF16, CacheF32 or CacheInt8, and bytes of the workspace that are counters"
#endif

constexpr u32 PARTS = Operand<WEIGHT, ACTIVATIONS>::PARTS;
typedef PreparedRows<WEIGHT, ACTIVATIONS> Prepared;
typedef Gemm<WEIGHT, PARTS, token_tiles<WEIGHT, PARTS>()> Product;

/// Row tiles of a block of qkv_few, and threads of a tile's sums.
constexpr u32 BLOCK_TILES = 2, TILE_THREADS = 128;

/// Blocks of qkv_few and of qkv_many an SM must have registers for. Without a number the assembler spills some to fit more blocks; formats with
/// scales in two levels need more than two blocks leave, and are begun too early where one block is enough.
constexpr bool SUPER = Dequant<WEIGHT>::UNIT_CHUNKS >= 4;
constexpr u32 FEW_BLOCKS = SUPER ? 1 : Dequant<WEIGHT>::CODE_WORDS == 4 && PARTS == 1 && __CUDA_ARCH__ < 1200 ? 3 : 2;
constexpr u32 MANY_BLOCKS = SUPER && (Dequant<WEIGHT>::HAS_MINIMUM || PARTS == 1) ? 0 : 1;

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

/// How heads lie in the row tiles that qkv_many multiplies: those of queries, then of keys, then of values, each from the start of a tile.
struct HeadRows {
  /// Rows of a block.
  static constexpr u32 BLOCK = 16 * Product::WARPS;

  u32 heads, kv_heads, head_dim, query_tiles, key_tiles;

  __device__ __forceinline__ HeadRows(const QkvParams &p)
      : heads(p.heads), kv_heads(p.wk ? p.kv_heads : 0), head_dim(p.head_dim), query_tiles((heads * head_dim + 15) / 16),
        key_tiles((kv_heads * head_dim + 15) / 16) {}

  __device__ __forceinline__ u32 tiles() const { return query_tiles + 2 * key_tiles; }

  /// The matrix of a tile, its first tile and its first head.
  __device__ __forceinline__ HeadKind kind(u32 tile) const { return tile < query_tiles ? QUERY : tile < query_tiles + key_tiles ? KEY : VALUE; }
  __device__ __forceinline__ u32 first_tile(HeadKind kind) const { return kind == QUERY ? 0 : kind == KEY ? query_tiles : query_tiles + key_tiles; }
  __device__ __forceinline__ u32 first_head(HeadKind kind) const { return kind == QUERY ? 0 : kind == KEY ? heads : heads + kv_heads; }

  /// Rows of a tile that exist.
  __device__ __forceinline__ u32 count(u32 tile) const {
    const u32 rows = (kind(tile) == QUERY ? heads : kv_heads) * head_dim;
    return min(16u, rows - (tile - first_tile(kind(tile))) * 16);
  }

  /// The head of a row of a tile, which exists, and the row in it.
  __device__ __forceinline__ u32 head(u32 tile, u32 row) const { return first_head(kind(tile)) + ((tile - first_tile(kind(tile))) * 16 + row) / head_dim; }
  __device__ __forceinline__ u32 row_in_head(u32 tile, u32 row) const { return ((tile - first_tile(kind(tile))) * 16 + row) % head_dim; }

  /// The first row of a head, and how many blocks have rows of it.
  __device__ __forceinline__ u32 start(const HeadPlace &head) const { return first_tile(head.kind) * 16 + head.index * head_dim; }
  __device__ __forceinline__ u32 blocks(const HeadPlace &head) const { return (start(head) + head_dim - 1) / BLOCK - start(head) / BLOCK + 1; }

  /// Whether any head is more than one block's.
  __device__ __forceinline__ bool any_shared() const { return BLOCK % head_dim != 0; }
};

/// What blocks leave to each other of the heads they share, in the workspace behind x: products [token][head][row], and how many blocks are done,
/// [tokens of a block][head].
struct SharedHeads {
  float *products;
  u32 *counters;
  u32 heads, head_dim;

  __device__ __forceinline__ SharedHeads(const QkvParams &p, const Prepared &prepared)
      : products(prepared.factors + p.tokens), counters((u32 *)(products + (u64)p.tokens * heads_of_all(p) * p.head_dim)), heads(heads_of_all(p)),
        head_dim(p.head_dim) {}

  __device__ __forceinline__ float *of(u32 token, u32 number) const { return products + ((u64)token * heads + number) * head_dim; }
};

/// A row of x a block.
KERNEL(qkv_prepare, QkvParams, 256) {
  const Prepared prepared(workspace + COUNTER_BYTES, p.tokens, p.cols);
  wait_for_inputs();
  let_next_start();
  if (HeadRows(p).any_shared()) {
    const SharedHeads shared(p, prepared);
    clear_counters(shared.counters, (u64)((p.tokens - 1) / Product::TOKENS + 1) * shared.heads);
  }
  prepared.prepare(source_of(p), blockIdx.x);
}

/// The tokens of a block of qkv_many and the heads that have rows in it, whose products are in its shared memory.
struct BlockHeads {
  const QkvParams &p;
  const HeadRows &rows;
  const SharedHeads &shared;
  u8 *memory;
  u32 first_token, tokens, first_tile, tiles;

  __device__ __forceinline__ u32 first() const { return rows.head(first_tile, 0); }
  __device__ __forceinline__ u32 count() const {
    const u32 last = first_tile + tiles - 1;
    return rows.head(last, rows.count(last) - 1) - first() + 1;
  }

  /// Leaves the products of this warp's tile to other blocks, where its rows are of heads they share.
  __device__ __forceinline__ void leave() const {
    const u32 warp = threadIdx.x / 32, tile = first_tile + warp, row = threadIdx.x % 16;
    if (warp >= tiles || row >= rows.count(tile)) return;
    const u32 head = rows.head(tile, row), in_head = rows.row_in_head(tile, row);
    if (rows.blocks(HeadPlace(p, head)) == 1) return;
    const float *sums = Product::sums(memory, warp);
    for (u32 step = 0; step < Product::TOKENS / 2; step++) {
      const u32 t = Product::walk_token(step);
      if (t < tokens) shared.of(first_token + t, head)[in_head] = sums[t * Product::PITCH + row];
    }
  }

  /// Finishes the heads that are complete, a warp a head of a token. `complete` has room for the heads.
  __device__ __forceinline__ void finish(bool *complete) const {
    const u32 first = this->first(), warp = threadIdx.x / 32;
    arrive(count(), complete, [&](u32 i) { return rows.blocks(HeadPlace(p, first + i)); },
           [&](u32 i) { return shared.counters + (u64)blockIdx.y * shared.heads + first + i; });
    // Room for a head behind the sums.
    float *v = Product::sums(memory, Product::WARPS) + warp * p.head_dim;
    for (u32 job = warp; job < count() * tokens; job += Product::WARPS) {
      const u32 number = first + job / tokens, t = job % tokens;
      if (!complete[job / tokens]) continue;
      const HeadPlace head(p, number);
      const bool whole = rows.blocks(head) == 1;
      const u32 start = whole ? rows.start(head) - first_tile * 16 : 0;
      const float *left = shared.of(first_token + t, number), *mine = Product::sums(memory, 0) + t * Product::PITCH;
      const auto product = [=](u32 d) { return whole ? mine[(start + d) / 16 * Product::TILE_SUMS + (start + d) % 16] : __ldcg(left + d); };
      HeadFinish<CACHE>{p}.run(first_token + t, head, product, v);
    }
  }
};

/// Eight row tiles and the tokens of a block of the product.
KERNEL(qkv_many, QkvParams, 256, MANY_BLOCKS) {
  extern __shared__ __align__(128) u8 memory[];
  __shared__ bool complete[HeadRows::BLOCK];
  const HeadRows rows(p);
  const u32 first_tile = blockIdx.x * Product::WARPS, first = blockIdx.y * Product::TOKENS;
  const Prepared prepared(workspace + COUNTER_BYTES, p.tokens, p.cols);
  // Past the last tile a warp multiplies it again, for nobody.
  const u32 tile = min(first_tile + threadIdx.x / 32, rows.tiles() - 1);
  const HeadKind kind = rows.kind(tile);
  const u8 *matrix = (const u8 *)(kind == QUERY ? p.wq : kind == KEY ? p.wk : p.wv);
  const auto row_of = [&](u32 t) { return min(first + t, p.tokens - 1); };
  float total[Product::TOKENS / 8][4];
  Product::run(memory, matrix + (tile - rows.first_tile(kind)) * Tile<WEIGHT>::bytes(p.cols), p.cols, [&](u32 t) { return prepared.row(row_of(t)); },
               total);
  let_next_start();
  Product::keep(memory, total, [&](u32 t) { return prepared.factors[row_of(t)]; });
  const SharedHeads shared(p, prepared);
  const u32 tokens = min(Product::TOKENS, p.tokens - first), tiles = min(Product::WARPS, rows.tiles() - first_tile);
  const BlockHeads heads{p, rows, shared, memory, first, tokens, first_tile, tiles};
  heads.leave();
  heads.finish(complete);
}
