// attention_tiles, for many rows: a block has TILE_ROWS rows (tokens of one sequence times query heads of one KV head) and walks over
// the units they see, chunks of keys and values in a ring of shared memory that all its warps share. Wide values are divided between
// COLUMN_PARTS warps a row tile, which divide the scores too and exchange them.
#pragma once
#include "attention_loads.cuh"
#include "attention_unit.cuh"

#if !defined(TILE_ROWS) || !defined(COLUMN_PARTS) || !defined(TILE_CHUNK) || !defined(TILE_RING) || !defined(TILE_SHARED)
#error "TILE_ROWS, COLUMN_PARTS, TILE_CHUNK, TILE_RING, TILE_SHARED: rows, warps a row tile, dimensions and stages of the ring, bytes"
#endif

using TileRows = Rows<TILE_ROWS>;
using TileChunks = Chunks<TILE_CHUNK>;

constexpr u32 ROW_TILES = TILE_ROWS / 16, TILE_THREADS = 32 * ROW_TILES * COLUMN_PARTS;
constexpr u32 TILE_AHEAD = TILE_RING > 2 ? TILE_RING - 2 : 0;  // chunks in flight while one is awaited
constexpr u32 SCORE_TILES = 8 / COLUMN_PARTS;                // of 8 positions, of a warp
constexpr u32 CHUNK_TILES = TILE_CHUNK / 8 / COLUMN_PARTS;   // of 8 columns of a chunk, of a warp
constexpr u32 SUM_TILES = TileChunks::VALUES * CHUNK_TILES;

constexpr u32 TILE_QUERIES = TILE_RING * TileChunks::STAGE;
constexpr u32 EXCHANGE = TILE_QUERIES + ROW_TILES * QUERY_TILE;
constexpr u32 EXCHANGE_TILE = COLUMN_PARTS > 1 ? 16 * UNIT * sizeof(float) : 0;
constexpr u32 TILE_FACTORS = EXCHANGE + ROW_TILES * EXCHANGE_TILE;
static_assert(TILE_FACTORS + TILE_ROWS * sizeof(float) == TILE_SHARED, "the host lays shared memory out differently");
static_assert(SCORE_TILES % 2 == 0 && TILE_CHUNK % (8 * COLUMN_PARTS) == 0, "parts are not whole");

/// The chunks of a tile's units, in order, through a ring of stages that the block fills TILE_RING - 1 chunks ahead.
struct Stream {
  const Cached &cached;
  u32 stage;  // of the next chunk

  __device__ __forceinline__ Stream(const Cached &cached) : cached(cached), stage(0) {
#pragma unroll
    for (u32 i = 0; i + 1 < TILE_RING; i++) load(cached.first_unit(), i, i);
  }

  static __device__ __forceinline__ u32 address(u32 stage) { return shared_address(shared) + stage * TileChunks::STAGE; }

  /// Begins to load a chunk, counted from the first one of a unit, to a stage.
  __device__ __forceinline__ void load(u32 unit, u32 chunk, u32 to) {
    unit += chunk / TileChunks::UNIT_CHUNKS;
    chunk %= TileChunks::UNIT_CHUNKS;
    if (unit <= cached.last_unit()) load_chunk<TILE_CHUNK>(address(to), cached, unit, chunk, threadIdx.x, TILE_THREADS);
    commit_async();
  }

  /// The stage of the next chunk, `chunk` of `unit`, which has landed. All threads are done with the one before.
  __device__ __forceinline__ u32 next(u32 unit, u32 chunk) {
    if constexpr (TILE_RING > 1) {
      wait_async<TILE_AHEAD>();
      __syncthreads();
      load(unit, chunk + TILE_RING - 1, stage == 0 ? TILE_RING - 1 : stage - 1);
    } else {
      __syncthreads();
      load(unit, chunk, 0);
      wait_async<0>();
      __syncthreads();
    }
    const u32 landed = address(stage);
    stage = stage + 1 == TILE_RING ? 0 : stage + 1;
    return landed;
  }
};

/// A state of a warp's rows and columns: of a segment, or of all so far.
struct State {
  Softmax softmax[2];
  float o[SUM_TILES][4];

  __device__ __forceinline__ void clear() {
    softmax[0] = softmax[1] = Softmax::nothing();
#pragma unroll
    for (u32 i = 0; i < SUM_TILES; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f;
  }

  __device__ __forceinline__ void take_in(const State &segment) {
    const Fold folds[2] = {Fold(softmax[0], segment.softmax[0]), Fold(softmax[1], segment.softmax[1])};
#pragma unroll
    for (u32 i = 0; i < SUM_TILES; i++) {
#pragma unroll
      for (u32 j = 0; j < 4; j++) o[i][j] = folds[j / 2](o[i][j], segment.o[i][j]);
    }
  }
};

/// What a warp of a tile works on.
struct TileWarp {
  u32 lane, row_tile, part;

  __device__ __forceinline__ TileWarp()
      : lane(threadIdx.x % 32), row_tile(threadIdx.x / 32 / COLUMN_PARTS), part(threadIdx.x / 32 % COLUMN_PARTS) {}

  /// What the lane's row of a half of the row tile sees. Computed for each unit: registers are scarcer than time.
  __device__ __forceinline__ Seen seen(const AttentionParams &p, const TileRows &rows, u32 half) const {
    return Seen(p, rows, 16 * row_tile + lane / 4 + 8 * half);
  }
};

/// The scores of a unit: with several parts, each warp computes its own positions and reads the others'.
__device__ __forceinline__ void tile_scores(float (&s)[8][4], Stream &stream, const TileWarp &warp, u32 unit, bool sees) {
  float own[SCORE_TILES][4];
#pragma unroll
  for (u32 i = 0; i < SCORE_TILES; i++) own[i][0] = own[i][1] = own[i][2] = own[i][3] = 0.0f;
  const u32 queries = shared_address(shared) + TILE_QUERIES + warp.row_tile * QUERY_TILE;
#pragma unroll
  for (u32 chunk = 0; chunk < TileChunks::KEYS; chunk++) {
    const u32 stage = stream.next(unit, chunk);
    if (sees) add_scores<TILE_CHUNK, SCORE_TILES>(own, queries, stage, chunk, SCORE_TILES * warp.part);
  }
  if constexpr (COLUMN_PARTS == 1) {
#pragma unroll
    for (u32 i = 0; i < 8 * 4; i++) s[i / 4][i % 4] = own[i / 4][i % 4];
  } else {
    float4 *exchange = (float4 *)(shared + EXCHANGE + warp.row_tile * EXCHANGE_TILE);
#pragma unroll
    for (u32 i = 0; i < SCORE_TILES; i++)
      exchange[(SCORE_TILES * warp.part + i) * 32 + warp.lane] = make_float4(own[i][0], own[i][1], own[i][2], own[i][3]);
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      const float4 v = exchange[i * 32 + warp.lane];
      s[i][0] = v.x, s[i][1] = v.y, s[i][2] = v.z, s[i][3] = v.w;
    }
  }
}

/// A condition the compiler does not know to be the one it has tested already.
__device__ __forceinline__ bool tested_again(bool condition) {
  u32 unknown = condition;
  asm volatile("mov.u32 %0, %0;" : "+r"(unknown));
  return unknown;
}

/// Tiles of columns between two joins of branches. Instructions are scheduled between those: without any, the compiler has more sums
/// under way than there are registers.
constexpr u32 SCHEDULED_TILES = 4;

/// Lets a segment take in a unit.
__device__ __forceinline__ void visit_unit(const AttentionParams &p, State &segment, Stream &stream, const TileRows &rows,
                                           const TileWarp &warp, u32 unit) {
  const Seen low = warp.seen(p, rows, 0), high = warp.seen(p, rows, 1);
  const bool sees = __any_sync(0xffffffffu, low.sees_some(unit) || high.sees_some(unit));  // the same in all warps of a row tile
  float s[8][4];
  tile_scores(s, stream, warp, unit, sees);
  const float *tile_factors = (const float *)(shared + TILE_FACTORS) + 16 * warp.row_tile + warp.lane / 4;
  float factors[2] = {tile_factors[0], tile_factors[8]};
  Softmax softmax[2];
  cap_and_mask(s, p.softcap, low, high, unit, factors);
  const Weights weights = weigh(s, factors, softmax);
  const Fold folds[2] = {Fold(segment.softmax[0], softmax[0]), Fold(segment.softmax[1], softmax[1])};
#pragma unroll
  for (u32 chunk = 0; chunk < TileChunks::VALUES; chunk++) {
    const u32 stage = stream.next(unit, TileChunks::KEYS + chunk);
#pragma unroll
    for (u32 begin = 0; begin < CHUNK_TILES; begin += SCHEDULED_TILES) {
      if (!tested_again(sees)) continue;
#pragma unroll
      for (u32 i = begin; i < begin + SCHEDULED_TILES && i < CHUNK_TILES; i++) {
        const u32 column = (CHUNK_TILES * warp.part + i) * 8;
        if (chunk * TILE_CHUNK + column >= VALUE_COLUMNS) break;
        float o[4], (&sum)[4] = segment.o[chunk * CHUNK_TILES + i];
        weighted_values<TILE_CHUNK>(o, weights, stage, column);
#pragma unroll
        for (u32 j = 0; j < 4; j++) sum[j] = folds[j / 2](sum[j], o[j]);
      }
    }
  }
}

/// Writes the outputs of a warp's rows and columns.
__device__ __forceinline__ void write_tile(const AttentionParams &p, const TileRows &rows, const TileWarp &warp, const State &state) {
#pragma unroll
  for (u32 half = 0; half < 2; half++) {
    const u32 row = 16 * warp.row_tile + warp.lane / 4 + 8 * half;
    if (row >= rows.count) continue;
    const u64 place = rows.place(row, p.heads);
    const float factor = output_factor(p, state.softmax[half], (u32)(place % p.heads));
#pragma unroll
    for (u32 i = 0; i < SUM_TILES; i++) {
      const u32 column = i / CHUNK_TILES * TILE_CHUNK + (CHUNK_TILES * warp.part + i % CHUNK_TILES) * 8 + warp.lane % 4 * 2;
#pragma unroll
      for (u32 j = 0; j < 2; j++)
        if (column + j < COLUMNS) p.out[place * COLUMNS + column + j] = output(state.o[i][2 * half + j], factor);
    }
  }
}

/// All of a tile: `run` tokens from `token` on, consecutive positions of one sequence, and the query heads of blockIdx.y.
__device__ __forceinline__ void attend_tile(const AttentionParams &p, u32 token, u32 run) {
  const TileRows rows(token, run, blockIdx.y);
  const TileWarp warp;
  const Cached cached(p, token, run, blockIdx.y / TileRows::HEAD_TILES);
  __syncthreads();  // The tile before is done with shared memory.
  Stream stream(cached);
  prepare_queries(p, rows, query_scale(p), shared_address(shared) + TILE_QUERIES, (float *)(shared + TILE_FACTORS), threadIdx.x / 32,
                  TILE_THREADS / 32);
  State all, segment;
  all.clear();
  segment.clear();
  for (u32 unit = cached.first_unit(); unit <= cached.last_unit(); unit++) {
    visit_unit(p, segment, stream, rows, warp, unit);
    if ((unit + 1) % (SEGMENT / UNIT) == 0 || unit == cached.last_unit()) {
      all.take_in(segment);
      segment.clear();
    }
  }
  write_tile(p, rows, warp, all);
}

/// Whether a tile begins at that token: a sequence does, its positions jump, or enough of them are together. It depends on the
/// token's neighbour alone, so that a block finds its tiles without looking at all tokens.
__device__ __forceinline__ bool begins_tile(const AttentionParams &p, u32 token) {
  const int position = p.positions[token];
  return token == 0 || p.sequences[token] != p.sequences[token - 1] || position != p.positions[token - 1] + 1 ||
         (u32)position % TileRows::TOKENS == 0;
}

/// Tokens of the tile that begins at that token.
__device__ __forceinline__ u32 tile_run(const AttentionParams &p, u32 token) {
  for (u32 run = 1;; run += 32) {
    const u32 next = token + run + threadIdx.x % 32;
    const u32 ends = __ballot_sync(0xffffffffu, next >= p.tokens || begins_tile(p, next));
    if (ends) return run + __ffs(ends) - 1;
  }
}
