// Shared memory of attention: queries, and keys and values in chunks of some dimensions of 64 positions, as tensor cores take them.
//
// A part is a matrix of 16-bit elements. A cache of f16 needs one part, and so does one of integers, each rounded to f16 with its scale
// (attention_loads.cuh); one of f32 is split into three of bf16, whose sum has the 24 bits of an f32. Keys lie as in a page, [dimension][position], rows of 128 bytes whose 16-byte pieces are exchanged (XOR) so that
// eight rows of one piece touch all banks; values lie [position][dimension] and queries [row][dimension], rows an odd number of 16-byte
// pieces apart, for the same reason. Latent attention has no values: it reads keys the other way round.
//
// Positions after `last` are zero in shared memory: a free slot may hold anything, and 0 * NaN is NaN. So are pages that
// nobody sees, whose entries in the page table are not followed. Dimensions past the end are zero.
#pragma once
#include "async.cuh"
#include "kv_pages.cuh"
#include "reduce.cuh"

#if !defined(HEAD_DIM) || !defined(VALUE_DIM) || !defined(GROUP) || !defined(CACHE)
#error "HEAD_DIM, VALUE_DIM, GROUP and CACHE are not defined: dimensions of a key; of a latent value, or 0; query heads of a KV head; type"
#endif

template <class Cache> constexpr u32 parts_of = 1;
template <> constexpr u32 parts_of<CacheF32> = 3;

constexpr u32 round_up(u32 n, u32 to) { return (n + to - 1) / to * to; }
constexpr u32 divide_up(u32 n, u32 by) { return (n + by - 1) / by; }

constexpr u32 PARTS = parts_of<CACHE>;
constexpr bool LATENT = VALUE_DIM > 0;
constexpr u32 PLANES = LATENT ? 1 : 2;                  // of a page
constexpr u32 COLUMNS = LATENT ? VALUE_DIM : HEAD_DIM;  // dimensions of a value
constexpr u32 KEY_DIMS = round_up(HEAD_DIM, 16);        // what an mma reduces over
constexpr u32 VALUE_COLUMNS = round_up(COLUMNS, 8);     // what an mma has side by side

constexpr u32 UNIT = 64;           // positions whose scores are weighed together
constexpr u32 SEGMENT = 4 * UNIT;  // positions whose units are folded together
constexpr u32 UNIT_PAGES = UNIT / PAGE_TOKENS;

constexpr u32 KEY_ROW = 2 * UNIT;              // bytes
constexpr u32 QUERY_ROW = 2 * KEY_DIMS + 16;   // bytes
constexpr u32 QUERY_TILE = PARTS * 16 * QUERY_ROW;

/// Sizes of a unit's chunks of CHUNK dimensions each.
template <u32 CHUNK> struct Chunks {
  static constexpr u32 KEYS = divide_up(KEY_DIMS, CHUNK), VALUES = divide_up(VALUE_COLUMNS, CHUNK), UNIT_CHUNKS = KEYS + VALUES;
  static constexpr u32 KEY_PART = CHUNK * KEY_ROW;
  static constexpr u32 VALUE_ROW = 2 * CHUNK + 16, VALUE_PART = UNIT * VALUE_ROW;
  static constexpr u32 STAGE = PARTS * (LATENT || KEY_PART > VALUE_PART ? KEY_PART : VALUE_PART);
};

/// A store of 16-bit pairs to shared memory by its 32-bit address.
__device__ __forceinline__ void store_pair(u32 shared, u32 pair) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(shared), "r"(pair) : "memory");
}

/// Two neighbours of a row of parts of `part_bytes` bytes, rounded to their parts: the first is the nearest, each other what is left.
template <u32 COUNT> __device__ __forceinline__ void store_parts(u32 shared, u32 part_bytes, float lo, float hi) {
  if constexpr (COUNT == 1) {
    store_pair(shared, pack_f16(lo, hi));
  } else {
#pragma unroll
    for (u32 part = 0; part < COUNT; part++) {
      const u32 pair = pack_bf16(lo, hi);
      store_pair(shared + part * part_bytes, pair);
      lo -= unpack_bf16_lo(pair);
      hi -= unpack_bf16_hi(pair);
    }
  }
}

/// One KV head of a sequence, as far as some token sees it.
struct Cached {
  const CACHE::Element *kv;
  const int *table;
  u32 kv_heads, kv_head;
  u32 first, last;  // positions

  /// What `run` tokens from `token` on see, which are consecutive positions of one sequence.
  __device__ __forceinline__ Cached(const AttentionParams &p, u32 token, u32 run, u32 kv_head)
      : kv((const CACHE::Element *)p.kv), table(p.page_table + (u64)(u32)p.sequences[token] * p.page_table_stride),
        kv_heads(p.kv_heads), kv_head(kv_head) {
    const u32 position = (u32)p.positions[token];
    first = p.window && position >= p.window ? position + 1 - p.window : 0;
    last = position + run - 1;
  }

  __device__ __forceinline__ u32 first_unit() const { return first / UNIT; }
  __device__ __forceinline__ u32 last_unit() const { return last / UNIT; }

  /// Of `count` positions from `position` on, all of one page: how many are there.
  __device__ __forceinline__ u32 present(u32 position, u32 count) const {
    if (position / PAGE_TOKENS < first / PAGE_TOKENS || position > last) return 0;
    return min(last + 1 - position, count);
  }

  /// The page of a position that is present.
  __device__ __forceinline__ const CACHE::Element *page(u32 position) const {
    return kv + (u64)(u32)table[position / PAGE_TOKENS] * page_elements<CACHE>(PLANES, kv_heads, HEAD_DIM);
  }

  __device__ __forceinline__ const CACHE::Element *key(u32 position, u32 dimension) const {
    return page(position) + ((u64)kv_head * HEAD_DIM + dimension) * PAGE_TOKENS + position % PAGE_TOKENS;
  }

  __device__ __forceinline__ const CACHE::Element *value(u32 position, u32 dimension) const {
    return page(position) + ((u64)(kv_heads + kv_head) * PAGE_TOKENS + position % PAGE_TOKENS) * HEAD_DIM + dimension;
  }

  /// The scale of a position's key (plane 0) or value (1), and those of the positions after it in its page.
  __device__ __forceinline__ const u16 *scales(u32 position, u32 plane) const {
    return page_scales(page(position), PLANES, plane, kv_head, kv_heads, HEAD_DIM) + position % PAGE_TOKENS;
  }
};

/// Where the 16-byte piece of 8 positions of a dimension lies in a chunk of keys.
__device__ __forceinline__ u32 key_piece(u32 dimension, u32 piece) { return dimension * KEY_ROW + (piece ^ dimension % 8) * 16; }

/// Rows of a tile: query heads of one KV head, of consecutive tokens. Row r is head r % HEADS of token r / HEADS.
template <u32 ROWS> struct Rows {
  static constexpr u32 HEADS = GROUP < ROWS ? GROUP : ROWS;        // of a token
  static constexpr u32 TOKENS = ROWS / HEADS;                      // most tokens
  static constexpr u32 HEAD_TILES = divide_up(GROUP, ROWS);        // tiles that share the heads of a token
  u32 token, count, head;                                          // first token, rows, first query head

  /// Of `run` tokens from `token` on; `tile` of the launch's kv_heads * HEAD_TILES.
  __device__ __forceinline__ Rows(u32 token, u32 run, u32 tile)
      : token(token), head(tile / HEAD_TILES * GROUP + tile % HEAD_TILES * HEADS) {
    count = run * min(HEADS, GROUP - tile % HEAD_TILES * HEADS);
  }

  /// The row's place in [tokens, heads].
  __device__ __forceinline__ u64 place(u32 row, u32 heads) const { return (u64)(token + row / HEADS) * heads + head + row % HEADS; }
};

/// 2^exponent by which queries of that greatest magnitude are divided: they then lie below 2^15, f16's precision at its best.
__device__ __forceinline__ u32 query_exponent(float greatest) {
  const int biased = (int)(__float_as_uint(greatest) >> 23) - 14;
  return (u32)(biased < 1 ? 1 : biased);
}

/// Writes the queries of some rows as parts, `scale`d, and by row the factor scores are to be multiplied by. Warp `warp` of `warps`
/// does every warps-th row; rows beyond the tile's are zero.
template <u32 ROWS>
__device__ void prepare_queries(const AttentionParams &p, const Rows<ROWS> &rows, float scale, u32 queries, float *factors, u32 warp,
                                u32 warps) {
  constexpr u32 PAIRS = divide_up(KEY_DIMS, 64);
  const u32 lane = threadIdx.x % 32;
  for (u32 row = warp; row < ROWS; row += warps) {
    const float *q = p.q + (row < rows.count ? rows.place(row, p.heads) * HEAD_DIM : 0);
    float x[PAIRS][2], greatest = 0.0f;
#pragma unroll
    for (u32 i = 0; i < PAIRS; i++) {
      const u32 column = 64 * i + 2 * lane;
#pragma unroll
      for (u32 j = 0; j < 2; j++) {
        x[i][j] = row < rows.count && column + j < HEAD_DIM ? q[column + j] * scale : 0.0f;
        greatest = fmaxf(greatest, fabsf(x[i][j]));
      }
    }
    const u32 exponent = PARTS == 1 ? query_exponent(warp_max(greatest)) : 127;
    const float inverse = __uint_as_float((254 - exponent) << 23);
    if (lane == 0) factors[row] = __uint_as_float(exponent << 23);
    const u32 to = queries + row / 16 * QUERY_TILE + row % 16 * QUERY_ROW;
#pragma unroll
    for (u32 i = 0; i < PAIRS; i++) {
      const u32 column = 64 * i + 2 * lane;
      if (column < KEY_DIMS) store_parts<PARTS>(to + 2 * column, 16 * QUERY_ROW, x[i][0] * inverse, x[i][1] * inverse);
    }
  }
}

/// Laid out by each launch.
extern __shared__ __align__(128) unsigned char shared[];
