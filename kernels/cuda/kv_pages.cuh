// Where a token's keys and values lie in the paged cache, and how they are rounded.
//
// A row is one head's key or value of one token. Rows of integers have a scale each, bit for bit as ir/src/quant/int8_rows.rs says: the
// scales of a page stand behind its elements, [planes][kv_heads][position].
#pragma once
#include "mma.cuh"

/// Tokens of a page.
constexpr u32 PAGE_TOKENS = 16;

/// An element of the cache, by the variant's word. SCALE_ELEMENTS is how many elements' room a row's scale takes, if it has one.
struct CacheF16 {
  typedef u16 Element;
  static constexpr u32 SCALE_ELEMENTS = 0;
  static __device__ __forceinline__ u16 rounded(float x, float) { return f16_of_float(x); }
};
struct CacheF32 {
  typedef float Element;
  static constexpr u32 SCALE_ELEMENTS = 0;
  static __device__ __forceinline__ float rounded(float x, float) { return x; }
};
struct CacheInt8 {
  typedef signed char Element;
  static constexpr u32 SCALE_ELEMENTS = sizeof(u16);
  /// Conversion turns NaN, which 0 times infinity is, into 0.
  static __device__ __forceinline__ signed char rounded(float x, float inverse) {
    return (signed char)max(-127, min(127, __float2int_rn(x * inverse)));
  }
};

/// Elements of a page, what its scales take included; and of the part before the scales.
template <class Cache> __device__ __forceinline__ u64 page_elements(u32 planes, u32 kv_heads, u32 head_dim) {
  return (u64)planes * kv_heads * (head_dim + Cache::SCALE_ELEMENTS) * PAGE_TOKENS;
}

/// The scales of a head's rows in a page: of its keys (plane 0) or values (1).
template <class Element>
__device__ __forceinline__ u16 *page_scales(Element *page, u32 planes, u32 plane, u32 head, u32 kv_heads, u32 head_dim) {
  return (u16 *)(page + (u64)planes * kv_heads * head_dim * PAGE_TOKENS) + ((u64)plane * kv_heads + head) * PAGE_TOKENS;
}

/// The scale of a row, an f16, and its inverse.
struct RowScale {
  u16 bits;
  float inverse;

  /// Of a row whose greatest magnitude has that pattern: rounded up, so that the greatest element keeps its place.
  explicit __device__ __forceinline__ RowScale(u32 greatest) : bits(0x7e00), inverse(0.0f) {
    if (greatest >= 0x7f800000u) return;
    const float exact = fminf(__uint_as_float(greatest), 65504.0f) / 127.0f;
    bits = f16_of_float(exact);
    if (float_of_f16(bits) < exact) bits++;
    if (bits) inverse = 1.0f / float_of_f16(bits);
  }
};

/// The scale of the row whose dimension d is row(d), of which a row without scales needs none. Called by a whole warp.
template <class Cache, class Row> __device__ __forceinline__ RowScale warp_row_scale(const Row &row, u32 head_dim) {
  u32 greatest = 0;
  if constexpr (Cache::SCALE_ELEMENTS > 0) {
    for (u32 d = threadIdx.x % 32; d < head_dim; d += 32) greatest = max(greatest, __float_as_uint(row(d)) & 0x7fffffffu);
#pragma unroll
    for (u32 step = 16; step; step >>= 1) greatest = max(greatest, __shfl_xor_sync(0xffffffffu, greatest, step));
  }
  return RowScale(greatest);
}

/// The place of one token. `planes` is 2 where pages hold keys and values, 1 where they hold keys alone.
template <class Cache> struct KvSlot {
  typename Cache::Element *page;
  u32 index, planes, kv_heads, head_dim;

  /// Of a token of a launch whose struct has positions, sequences, page_table, page_table_stride, kv, kv_heads and head_dim.
  template <class Params> __device__ __forceinline__ KvSlot(const Params &p, u32 token, u32 planes) : planes(planes) {
    const u32 position = (u32)p.positions[token];
    const u64 row = (u64)(u32)p.sequences[token] * p.page_table_stride;
    const u64 number = (u32)p.page_table[row + position / PAGE_TOKENS];
    kv_heads = p.kv_heads;
    head_dim = p.head_dim;
    index = position % PAGE_TOKENS;
    page = (typename Cache::Element *)p.kv + number * page_elements<Cache>(planes, kv_heads, head_dim);
  }

  __device__ __forceinline__ void write_key(u32 head, u32 dimension, float x, const RowScale &scale) const {
    page[((u64)head * head_dim + dimension) * PAGE_TOKENS + index] = Cache::rounded(x, scale.inverse);
  }

  __device__ __forceinline__ void write_value(u32 head, u32 dimension, float x, const RowScale &scale) const {
    page[((u64)(kv_heads + head) * PAGE_TOKENS + index) * head_dim + dimension] = Cache::rounded(x, scale.inverse);
  }

  /// Writes the scale of a head's key (plane 0) or value (1), where rows have any. Called by one thread.
  __device__ __forceinline__ void write_scale(u32 plane, u32 head, const RowScale &scale) const {
    if constexpr (Cache::SCALE_ELEMENTS > 0) page_scales(page, planes, plane, head, kv_heads, head_dim)[index] = scale.bits;
  }
};
