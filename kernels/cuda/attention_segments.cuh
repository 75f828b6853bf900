// attention_segments, for few rows: a block has one token, up to 16 query heads of one KV head and one segment of 256 positions, a unit a
// warp, each warp with a ring of its own. Segments meet in the workspace, where the block that arrives last folds them in order.
#pragma once
#include "arrival.cuh"
#include "attention_loads.cuh"
#include "attention_unit.cuh"

#if !defined(SEGMENT_CHUNK) || !defined(SEGMENT_RING) || !defined(SEGMENT_SHARED) || !defined(COUNTER_BYTES)
#error "SEGMENT_CHUNK, SEGMENT_RING, SEGMENT_SHARED, COUNTER_BYTES: dimensions and stages of the ring, bytes; counters of the workspace"
#endif

using TokenRows = Rows<16>;
using SegmentChunks = Chunks<SEGMENT_CHUNK>;

constexpr u32 SEGMENT_WARPS = SEGMENT / UNIT, SEGMENT_THREADS = 32 * SEGMENT_WARPS;
constexpr u32 FOLD_ROWS = TokenRows::HEADS > 8 ? 16 : 8;
constexpr u32 FOLD_STRIDE = SEGMENT_CHUNK + 8;  // floats: rows of a quarter of a warp on different banks

constexpr u32 SEGMENT_QUERIES = SEGMENT_WARPS * SEGMENT_RING * SegmentChunks::STAGE;
constexpr u32 UNIT_SUMS = SEGMENT_QUERIES + QUERY_TILE;
constexpr u32 UNIT_SOFTMAX = UNIT_SUMS + SEGMENT_WARPS * FOLD_ROWS * FOLD_STRIDE * sizeof(float);
constexpr u32 SEGMENT_FACTORS = UNIT_SOFTMAX + SEGMENT_WARPS * 16 * sizeof(Softmax);
static_assert(SEGMENT_FACTORS + 16 * sizeof(float) == SEGMENT_SHARED, "the host lays shared memory out differently");

constexpr u32 power_of_two(u32 n) { return n <= 1 ? 1 : 2 * power_of_two((n + 1) / 2); }
constexpr u32 ROW_LANES = SEGMENT_THREADS / power_of_two(TokenRows::HEADS);  // threads that fold a row

/// The segments of a launch in the workspace: counters, then by token, head and segment a softmax, then the sums relative to it.
struct Partials {
  u32 *counter;
  float *sums;
  Softmax *softmax;
  u32 segments;

  __device__ __forceinline__ Partials(const AttentionParams &p, unsigned char *workspace) {
    segments = divide_up(p.page_table_stride, SEGMENT / PAGE_TOKENS);
    counter = (u32 *)workspace + (u64)blockIdx.z * gridDim.y + blockIdx.y;
    softmax = (Softmax *)(workspace + COUNTER_BYTES);
    sums = (float *)(softmax + (u64)p.tokens * p.heads * segments);
  }
};

/// One thread's row of a token, and every ROW_LANES-th column.
struct FoldRow {
  u32 row, lane, head;
  u64 place;
  bool here;

  /// Rows lie a quarter of the banks apart: two that share a warp are chosen to be half of them apart, four are in order.
  static __device__ __forceinline__ u32 row_of(u32 i) { return ROW_LANES == 16 ? i / 4 * 4 + i / 2 % 2 + i % 2 * 2 : i; }

  __device__ __forceinline__ FoldRow(const AttentionParams &p, const TokenRows &rows)
      : row(row_of(threadIdx.x / ROW_LANES)), lane(threadIdx.x % ROW_LANES), head(rows.head + row), place(rows.place(row, p.heads)),
        here(row < rows.count) {}
};

/// Loads the next chunk of a warp's unit, or nothing after the last.
__device__ __forceinline__ void load_unit_chunk(const Cached &cached, u32 unit, u32 index) {
  const u32 warp = threadIdx.x / 32;
  const u32 stage = shared_address(shared) + (warp * SEGMENT_RING + index % SEGMENT_RING) * SegmentChunks::STAGE;
  if (index < SegmentChunks::UNIT_CHUNKS) load_chunk<SEGMENT_CHUNK>(stage, cached, unit, index, threadIdx.x % 32, 32);
  commit_async();
}

/// The stage of a chunk of a warp's unit, which has landed.
__device__ __forceinline__ u32 landed_unit_chunk(u32 index) {
  wait_async<SEGMENT_RING - 1>();
  __syncwarp();
  return shared_address(shared) + (threadIdx.x / 32 * SEGMENT_RING + index % SEGMENT_RING) * SegmentChunks::STAGE;
}

/// The weights of a warp's unit; their softmax goes to shared memory.
__device__ __forceinline__ Weights unit_weights(const AttentionParams &p, const TokenRows &rows, const Cached &cached, u32 unit) {
  const u32 lane = threadIdx.x % 32, queries = shared_address(shared) + SEGMENT_QUERIES;
  float s[8][4];
#pragma unroll
  for (u32 i = 0; i < 8; i++) s[i][0] = s[i][1] = s[i][2] = s[i][3] = 0.0f;
  for (u32 chunk = 0; chunk < SegmentChunks::KEYS; chunk++) {
    add_scores<SEGMENT_CHUNK, 8>(s, queries, landed_unit_chunk(chunk), chunk, 0);
    __syncwarp();
    load_unit_chunk(cached, unit, chunk + SEGMENT_RING);
  }
  const float *row_factors = (const float *)(shared + SEGMENT_FACTORS) + lane / 4;
  float factors[2] = {row_factors[0], row_factors[8]};
  Softmax softmax[2];
  cap_and_mask(s, p.softcap, Seen(p, rows, lane / 4), Seen(p, rows, lane / 4 + 8), unit, factors);
  const Weights weights = weigh(s, factors, softmax);
  Softmax *to = (Softmax *)(shared + UNIT_SOFTMAX) + threadIdx.x / 32 * 16 + lane / 4;
  if (lane % 4 == 0) to[0] = softmax[0], to[8] = softmax[1];
  return weights;
}

/// A chunk of the weighted values of a warp's unit, to shared memory.
__device__ __forceinline__ void unit_sums(const Weights &weights, u32 stage, u32 chunk) {
  const u32 lane = threadIdx.x % 32;
  float *sums = (float *)(shared + UNIT_SUMS) + (threadIdx.x / 32 * FOLD_ROWS + lane / 4) * FOLD_STRIDE + lane % 4 * 2;
#pragma unroll
  for (u32 column = 0; column < SEGMENT_CHUNK; column += 8) {
    if (chunk * SEGMENT_CHUNK + column >= VALUE_COLUMNS) break;
    float o[4];
    weighted_values<SEGMENT_CHUNK>(o, weights, stage, column);
    *(float2 *)(sums + column) = make_float2(o[0], o[1]);
    if constexpr (FOLD_ROWS == 16) *(float2 *)(sums + column + 8 * FOLD_STRIDE) = make_float2(o[2], o[3]);
  }
}

/// How a segment's units, those from `begin` to `end`, are folded in one row.
struct UnitFolds {
  u32 begin, end;
  Softmax softmax;
  float old[SEGMENT_WARPS], fresh[SEGMENT_WARPS];

  __device__ __forceinline__ UnitFolds(u32 row, u32 begin, u32 end) : begin(begin), end(end), softmax(Softmax::nothing()) {
    const Softmax *units = (const Softmax *)(shared + UNIT_SOFTMAX) + row;
#pragma unroll
    for (u32 i = 0; i < SEGMENT_WARPS; i++) {
      if (i < begin || i >= end) continue;
      const Fold fold(softmax, units[16 * i]);
      old[i] = fold.old, fresh[i] = fold.fresh;
    }
  }

  /// The segment's sum of a column.
  __device__ __forceinline__ float sum(u32 row, u32 column) const {
    const float *units = (const float *)(shared + UNIT_SUMS) + row * FOLD_STRIDE + column;
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < SEGMENT_WARPS; i++)
      if (i >= begin && i < end) sum = fmaf(units[i * FOLD_ROWS * FOLD_STRIDE], fresh[i], sum * old[i]);
    return sum;
  }
};

/// One segment: its partial result goes to the workspace or, if it is the `only` one, its result to the output.
__device__ __forceinline__ void attend_segment(const AttentionParams &p, const Partials &partials, const TokenRows &rows,
                                               const Cached &cached, u32 segment, bool only) {
  const u32 unit = segment * SEGMENT_WARPS + threadIdx.x / 32;
  const bool active = unit >= cached.first_unit() && unit <= cached.last_unit();
  const FoldRow mine(p, rows);
  Weights weights;
  if (active) weights = unit_weights(p, rows, cached, unit);
  __syncthreads();
  const u32 begin = max(cached.first_unit(), segment * SEGMENT_WARPS) - segment * SEGMENT_WARPS;
  const UnitFolds folds(mine.row, begin, min(cached.last_unit() + 1 - segment * SEGMENT_WARPS, SEGMENT_WARPS));
  Softmax all = Softmax::nothing();
  const Fold fold(all, folds.softmax);
  const u64 at = mine.place * partials.segments + segment;
  const float factor = only && mine.here ? output_factor(p, all, mine.head) : 0.0f;
  for (u32 chunk = 0; chunk < SegmentChunks::VALUES; chunk++) {
    const u32 index = SegmentChunks::KEYS + chunk;
    if (active) {
      unit_sums(weights, landed_unit_chunk(index), chunk);
      load_unit_chunk(cached, unit, index + SEGMENT_RING);
    }
    __syncthreads();
    for (u32 c = mine.lane; mine.here && c < min(SEGMENT_CHUNK, COLUMNS - chunk * SEGMENT_CHUNK); c += ROW_LANES) {
      const u32 column = chunk * SEGMENT_CHUNK + c;
      const float sum = folds.sum(mine.row, c);
      if (only) p.out[mine.place * COLUMNS + column] = output(fold(0.0f, sum), factor);
      else partials.sums[at * COLUMNS + column] = sum;
    }
    __syncthreads();
  }
  if (!only && mine.here && mine.lane == 0) partials.softmax[at] = folds.softmax;
}

/// Folds the segments from `first` to `last` in order, and writes the outputs. They were written by other blocks: read past L1.
__device__ __forceinline__ void fold_segments(const AttentionParams &p, const Partials &partials, const TokenRows &rows, u32 first,
                                              u32 last) {
  constexpr u32 STEP = 8;  // columns at a time
  const FoldRow mine(p, rows);
  if (!mine.here) return;
  const u64 at = mine.place * partials.segments;
  for (u32 begin = mine.lane; begin < COLUMNS; begin += STEP * ROW_LANES) {
    Softmax all = Softmax::nothing();
    float sums[STEP] = {};
    for (u32 segment = first; segment <= last; segment++) {
      const float2 softmax = __ldcg((const float2 *)(partials.softmax + at + segment));
      const Fold fold(all, Softmax{softmax.x, softmax.y});
      const float *from = partials.sums + (at + segment) * COLUMNS;
#pragma unroll
      for (u32 i = 0; i < STEP; i++) {
        const u32 column = begin + i * ROW_LANES;
        if (column < COLUMNS) sums[i] = fold(sums[i], __ldcg(from + column));
      }
    }
    const float factor = output_factor(p, all, mine.head);
#pragma unroll
    for (u32 i = 0; i < STEP; i++) {
      const u32 column = begin + i * ROW_LANES;
      if (column < COLUMNS) p.out[mine.place * COLUMNS + column] = output(sums[i], factor);
    }
  }
}
