// Where a token's keys and values lie in the paged cache, and how they are rounded.
#pragma once
#include "mma.cuh"

/// Tokens of a page.
constexpr u32 PAGE_TOKENS = 16;

/// An element of the cache, by the variant's word.
struct CacheF16 {
  typedef u16 Element;
  static __device__ __forceinline__ u16 rounded(float x) { return f16_of_float(x); }
};
struct CacheF32 {
  typedef float Element;
  static __device__ __forceinline__ float rounded(float x) { return x; }
};

/// The place of one token. `planes` is 2 where pages hold keys and values, 1 where they hold keys alone.
template <class Cache> struct KvSlot {
  typename Cache::Element *page;
  u32 index, kv_heads, head_dim;

  /// Of a token of a launch whose struct has positions, sequences, page_table, page_table_stride, kv, kv_heads and head_dim.
  template <class Params> __device__ __forceinline__ KvSlot(const Params &p, u32 token, u32 planes) {
    const u32 position = (u32)p.positions[token];
    const u64 row = (u64)(u32)p.sequences[token] * p.page_table_stride;
    const u64 number = (u32)p.page_table[row + position / PAGE_TOKENS];
    kv_heads = p.kv_heads;
    head_dim = p.head_dim;
    index = position % PAGE_TOKENS;
    page = (typename Cache::Element *)p.kv + number * planes * kv_heads * head_dim * PAGE_TOKENS;
  }

  __device__ __forceinline__ void write_key(u32 head, u32 dimension, float x) const {
    page[((u64)head * head_dim + dimension) * PAGE_TOKENS + index] = Cache::rounded(x);
  }

  __device__ __forceinline__ void write_value(u32 head, u32 dimension, float x) const {
    page[((u64)(kv_heads + head) * PAGE_TOKENS + index) * head_dim + dimension] = Cache::rounded(x);
  }
};
