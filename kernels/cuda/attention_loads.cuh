// How chunks of keys and values come to shared memory: f16 by copies that pass no register, f32 cut into parts, integers times their
// scales. Integers are loaded 16 bytes at a time and are half the traffic; what that costs is a pass through registers, hidden by as many
// warps as the shared memory of one stage instead of a ring leaves room for.
#pragma once
#include "attention_chunks.cuh"

/// Begins to load chunk `chunk` of a unit's keys; `thread` of `threads`, a multiple of 16, take part.
template <u32 CHUNK>
__device__ __forceinline__ void load_keys(u32 stage, const Cached &cached, u32 unit, u32 chunk, u32 thread, u32 threads) {
  constexpr u32 PIECE = PARTS == 1 ? 8 : 4;  // positions in 16 bytes of a page
  const u32 pieces = min(CHUNK, KEY_DIMS - chunk * CHUNK) * (UNIT / PIECE);
  const u32 column = thread % (UNIT / PIECE), position = unit * UNIT + column * PIECE;
  const u32 present = cached.present(position, PIECE);
  const CACHE::Element *from = present ? cached.key(position, chunk * CHUNK) : cached.kv;
  for (u32 i = thread; i < pieces; i += threads) {
    const u32 d = i / (UNIT / PIECE), here = chunk * CHUNK + d < HEAD_DIM ? present : 0;
    const CACHE::Element *at = here ? from + d * PAGE_TOKENS : cached.kv;
    if constexpr (PARTS == 1) {
      copy_async_16(stage + key_piece(d, column), at, 2 * here);
    } else {
      float v[4];
#pragma unroll
      for (u32 j = 0; j < 4; j++) v[j] = j < here ? at[j] : 0.0f;
      const u32 to = stage + key_piece(d, column / 2) + column % 2 * 8;
      store_parts<PARTS>(to, Chunks<CHUNK>::KEY_PART, v[0], v[1]);
      store_parts<PARTS>(to + 4, Chunks<CHUNK>::KEY_PART, v[2], v[3]);
    }
  }
}

/// Begins to load chunk `chunk` of a unit's values, which latent attention has not.
template <u32 CHUNK>
__device__ __forceinline__ void load_values(u32 stage, const Cached &cached, u32 unit, u32 chunk, u32 thread, u32 threads) {
  // Rows of pages are aligned to 16 bytes only if the dimension is a multiple of 8.
  constexpr u32 PIECE = PARTS == 1 && HEAD_DIM % 8 == 0 ? 8 : 2;  // columns
  constexpr u32 PIECES = CHUNK / PIECE;
  for (u32 i = thread; i < UNIT * PIECES; i += threads) {
    const u32 row = i / PIECES, c = i % PIECES * PIECE, column = chunk * CHUNK + c;
    if (column >= VALUE_COLUMNS) continue;
    const u32 position = unit * UNIT + row;
    const bool here = column < COLUMNS && cached.present(position, 1);
    const CACHE::Element *at = here ? cached.value(position, column) : cached.kv;
    const u32 to = stage + row * Chunks<CHUNK>::VALUE_ROW + 2 * c;
    if constexpr (PARTS > 1) {
      store_parts<PARTS>(to, Chunks<CHUNK>::VALUE_PART, here ? at[0] : 0.0f, here ? at[1] : 0.0f);
    } else if constexpr (PIECE == 8) {
      copy_async_16(to, at, here ? 16 : 0);
    } else {
      copy_async_4(to, at, here ? 4 : 0);
    }
  }
}

/// Up to 16 bytes from an aligned address, of which those from `count` on are zero and not read: whole words, and the bytes of the last one.
__device__ __forceinline__ uint4 load_bytes(const void *from, u32 count) {
  if (count >= 16) return *(const uint4 *)from;
  const u32 whole = count / 4, rest = count % 4;
  const u8 *end = (const u8 *)from + 4 * whole;
  u32 last = 0;
#pragma unroll
  for (u32 i = 0; i < 3; i++)
    if (i < rest) last |= (u32)end[i] << (8 * i);
  u32 v[4];
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    v[i] = i == whole ? last : 0;
    if (i < whole) v[i] = ((const u32 *)from)[i];
  }
  return make_uint4(v[0], v[1], v[2], v[3]);
}

/// Two of a word's four integers times two scales, rounded to f16: the integers become f16 in the mantissa of 1024, biased by 128.
template <u32 FIRST> __device__ __forceinline__ u32 scaled_pair(u32 integers, u32 scales) {
  const u32 biased = __byte_perm(integers ^ 0x80808080u, 0x64646464u, FIRST == 0 ? 0x4140 : 0x4342);
  return mul_f16x2(sub_f16x2(biased, 0x64806480u), scales);
}

/// Stores eight integers times eight scales.
__device__ __forceinline__ void store_scaled(u32 shared, u32 lo, u32 hi, const uint4 &scales) {
  const u32 a = scaled_pair<0>(lo, scales.x), b = scaled_pair<2>(lo, scales.y), c = scaled_pair<0>(hi, scales.z), d = scaled_pair<2>(hi, scales.w);
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(shared), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

/// Whether rows of the cache have scales.
constexpr bool SCALED = CACHE::SCALE_ELEMENTS > 0;

/// 16-byte loads of a thread under way at a time: integers pass registers, where waiting for one after the other would cost their sum.
constexpr u32 LOADS = 4;

/// Loads chunk `chunk` of a unit's keys, which are integers: a page's 16 positions of a dimension a thread at a time.
template <u32 CHUNK>
__device__ __forceinline__ void load_scaled_keys(u32 stage, const Cached &cached, u32 unit, u32 chunk, u32 thread, u32 threads) {
  const u32 pieces = min(CHUNK, KEY_DIMS - chunk * CHUNK) * UNIT_PAGES;
  const u32 column = thread % UNIT_PAGES, position = unit * UNIT + column * PAGE_TOKENS;
  const u32 present = cached.present(position, PAGE_TOKENS);
  const CACHE::Element *from = present ? cached.key(position, chunk * CHUNK) : cached.kv;
  const u16 *scales = present ? cached.scales(position, 0) : (const u16 *)cached.kv;
  const uint4 lower = load_bytes(scales, 2 * present), upper = load_bytes(scales + 8, present > 8 ? 2 * present - 16 : 0);
  for (u32 i = thread; i < pieces; i += LOADS * threads) {
    uint4 integers[LOADS];
#pragma unroll
    for (u32 j = 0; j < LOADS; j++) {
      const u32 d = (i + j * threads) / UNIT_PAGES;
      const bool here = i + j * threads < pieces && chunk * CHUNK + d < HEAD_DIM;
      integers[j] = load_bytes(from + d * PAGE_TOKENS, here ? present : 0);
    }
#pragma unroll
    for (u32 j = 0; j < LOADS; j++) {
      const u32 d = (i + j * threads) / UNIT_PAGES;
      if (i + j * threads >= pieces) break;
      store_scaled(stage + key_piece(d, 2 * column), integers[j].x, integers[j].y, lower);
      store_scaled(stage + key_piece(d, 2 * column + 1), integers[j].z, integers[j].w, upper);
    }
  }
}

/// Loads chunk `chunk` of a unit's values, which are integers.
template <u32 CHUNK>
__device__ __forceinline__ void load_scaled_values(u32 stage, const Cached &cached, u32 unit, u32 chunk, u32 thread, u32 threads) {
  // Rows of pages are aligned to 16 bytes only if the dimension is a multiple of 16.
  constexpr u32 PIECE = HEAD_DIM % 16 == 0 ? 16 : 2;  // columns
  constexpr u32 PIECES = CHUNK / PIECE;
  for (u32 i = thread; i < UNIT * PIECES; i += LOADS * threads) {
    uint4 integers[LOADS];
    u32 scales[LOADS];
#pragma unroll
    for (u32 j = 0; j < LOADS; j++) {
      const u32 row = (i + j * threads) / PIECES, column = chunk * CHUNK + (i + j * threads) % PIECES * PIECE, position = unit * UNIT + row;
      const bool here = row < UNIT && column < COLUMNS && cached.present(position, 1);
      scales[j] = here ? *cached.scales(position, 1) * 0x00010001u : 0;
      const CACHE::Element *at = here ? cached.value(position, column) : cached.kv;
      if constexpr (PIECE == 16) integers[j] = load_bytes(at, here ? 16 : 0);
      else integers[j].x = here ? *(const u16 *)at : 0;
    }
#pragma unroll
    for (u32 j = 0; j < LOADS; j++) {
      const u32 row = (i + j * threads) / PIECES, piece = (i + j * threads) % PIECES;
      if (row >= UNIT || chunk * CHUNK + piece * PIECE >= VALUE_COLUMNS) continue;
      const u32 to = stage + row * Chunks<CHUNK>::VALUE_ROW + 2 * PIECE * piece;
      if constexpr (PIECE == 2) {
        store_pair(to, scaled_pair<0>(integers[j].x, scales[j]));
      } else {
        // Eight threads store to all banks at once: every other four of a row begin with the upper half.
        const bool swapped = piece / 4 % 2;
        const uint4 all = make_uint4(scales[j], scales[j], scales[j], scales[j]), v = integers[j];
        store_scaled(to + 16 * swapped, swapped ? v.z : v.x, swapped ? v.w : v.y, all);
        store_scaled(to + 16 * !swapped, swapped ? v.x : v.z, swapped ? v.y : v.w, all);
      }
    }
  }
}

/// Begins to load chunk `index` of a unit: its chunks of keys, then those of values.
template <u32 CHUNK>
__device__ __forceinline__ void load_chunk(u32 stage, const Cached &cached, u32 unit, u32 index, u32 thread, u32 threads) {
  constexpr u32 KEYS = Chunks<CHUNK>::KEYS;
  if (LATENT || index < KEYS) {
    // Values of latent attention are no more chunks than keys.
    if constexpr (SCALED) load_scaled_keys<CHUNK>(stage, cached, unit, index % KEYS, thread, threads);
    else load_keys<CHUNK>(stage, cached, unit, index < KEYS ? index : index - KEYS, thread, threads);
  } else {
    if constexpr (SCALED) load_scaled_values<CHUNK>(stage, cached, unit, index - KEYS, thread, threads);
    else load_values<CHUNK>(stage, cached, unit, index - KEYS, thread, threads);
  }
  // Lanes with fewer positions present than others are ahead.
  if constexpr (SCALED) __syncwarp();
}
