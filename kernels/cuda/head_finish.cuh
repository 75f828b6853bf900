// What becomes of a head after its product: the scale of its row, bias, norm, rotary embedding, and its place in the result or the
// cache. One warp finishes one head of one token, in every path of `qkv`.
#pragma once
#include "kv_pages.cuh"
#include "panel_sums.cuh"
#include "rotary.cuh"
#include "row_statistics.cuh"

/// What a head is.
enum HeadKind { QUERY, KEY, VALUE };

/// One head of a launch: queries, then keys, then values.
struct HeadPlace {
  HeadKind kind;
  u32 index;

  __device__ __forceinline__ HeadPlace(const QkvParams &p, u32 number) {
    const bool query = number < p.heads, key = number < p.heads + p.kv_heads;
    kind = query ? QUERY : key ? KEY : VALUE;
    index = query ? number : key ? number - p.heads : number - p.heads - p.kv_heads;
  }

  /// Of three things the one of its kind.
  template <class T> __device__ __forceinline__ T of(T query, T key, T value) const {
    return kind == QUERY ? query : kind == KEY ? key : value;
  }
};

/// Heads of queries, keys and values together.
__device__ __forceinline__ u32 heads_of_all(const QkvParams &p) { return p.heads + (p.wk ? 2 * p.kv_heads : 0); }

template <class Cache> struct HeadFinish {
  const QkvParams &p;

  /// Finishes a head of a token. product(d) is the product of its row d, read once by one lane; `v` has room for the head, in shared memory.
  /// Called by a whole warp.
  template <class Product> __device__ __forceinline__ void run(u32 token, const HeadPlace &head, const Product &product, float *v) const {
    scale(token, head, product, v);
    const float *norm = head.of<const float *>(p.q_norm, p.k_norm, nullptr);
    if (norm) normalise(norm, v);
    if (head.kind != VALUE && p.inv_freq) rotate(token, v);
    store(token, head, v);
  }

private:
  __device__ __forceinline__ u32 lane() const { return threadIdx.x % 32; }

  /// The product by the scale of its row, plus the bias.
  template <class Product> __device__ __forceinline__ void scale(u32 token, const HeadPlace &head, const Product &product, float *v) const {
    const u64 panels = (p.cols + PANEL - 1) / PANEL;
    const float factor = p.squares ? row_reciprocal_rms(p.squares + token * panels, p.cols, p.eps) : 1.0f;
    const float *all = head.of(p.bq, p.bk, p.bv), *bias = all ? all + (u64)head.index * p.head_dim : nullptr;
    for (u32 d = lane(); d < p.head_dim; d += 32) {
      float y = product(d);
      if (p.squares) y *= factor;
      if (bias) y += bias[d];
      v[d] = y;
    }
  }

  /// Root mean square of the head, in the order of a norm of its own.
  __device__ __forceinline__ void normalise(const float *weight, float *v) const {
    __syncwarp();
    const auto at = [&](u32 d) { return d < p.head_dim ? v[d] : 0.0f; };
    const auto columns = [&](u32 d) { return make_float4(at(d), at(d + 1), at(d + 2), at(d + 3)); };
    const float factor = warp_reciprocal_rms(columns, p.head_dim, p.head_eps);
    __syncwarp();
    for (u32 d = lane(); d < p.head_dim; d += 32) v[d] = v[d] * factor * weight[d];
  }

  __device__ __forceinline__ void rotate(u32 token, float *v) const {
    __syncwarp();
    for (u32 i = lane(); i < p.pairs; i += 32) {
      float sine, cosine;
      rotation(p, token, i, sine, cosine);
      u32 first, second;
      pair_dimensions(i, p.pairs, p.interleaved, first, second);
      turn(v[first], v[second], sine, cosine);
    }
    __syncwarp();
  }

  __device__ __forceinline__ void store(u32 token, const HeadPlace &head, const float *v) const {
    if (head.kind == QUERY) {
      float *out = p.out + ((u64)token * p.heads + head.index) * p.head_dim;
      for (u32 d = lane(); d < p.head_dim; d += 32) out[d] = v[d];
      return;
    }
    const KvSlot<Cache> slot(p, token, 2);
    const RowScale row = warp_row_scale<Cache>([=](u32 d) { return v[d]; }, p.head_dim);
    for (u32 d = lane(); d < p.head_dim; d += 32) {
      if (head.kind == KEY)
        slot.write_key(head.index, d, v[d], row);
      else
        slot.write_value(head.index, d, v[d], row);
    }
    if (lane() == 0) slot.write_scale(head.kind == KEY ? 0 : 1, head.index, row);
  }
};
