// Sums over panels of 16 columns, with the order of operations of the native kernels (kernels/src/cpu/panel_sums.rs): a kernel of their own and the
// epilogue of a product give the same bits. Partial logits alone are added in slices, so that a block can share them.
//
// Half a warp works on one row: lane % 16 is the column in the panel, or the panel modulo 16. Every lane of the warp takes part.
#pragma once
#include "mma.cuh"

/// Columns of a panel.
constexpr u32 PANEL = 16;

/// The sum over the 16 lanes of each half-warp, in each of them: the tree 8, 4, 2, 1.
__device__ __forceinline__ float half_warp_sum(float v) {
#pragma unroll
  for (u32 step = 8; step; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}

/// Sum of x^2 over a panel; `x` is the lane's column, 0 where it does not exist.
__device__ __forceinline__ float panel_square_sum(float x) { return half_warp_sum(x * x); }

/// 1 / sqrt(sum(squares) / width + eps) of a row of `width` columns, of which `squares` holds the sum of each panel. The rows of the two
/// half-warps may differ, their width must not.
__device__ __forceinline__ float row_reciprocal_rms(const float *squares, u32 width, float eps) {
  const u32 panels = (width + PANEL - 1) / PANEL;
  float sum = 0.0f;
  for (u32 panel = threadIdx.x % PANEL; panel < panels; panel += PANEL) sum += squares[panel];
  return 1.0f / sqrtf(half_warp_sum(sum) / (float)width + eps);
}

/// Slices of the panels of a row whose partial logits are added: a warp's share where a block adds them.
constexpr u32 LOGIT_SLICES = 8;

/// The sum of slice `slice` of a token's partial logits of an expert; `partials` is that of the first panel, `experts` apart from the next.
__device__ __forceinline__ float logit_slice(const float *partials, u32 panels, u32 experts, u32 slice) {
  const u32 per = (panels + LOGIT_SLICES - 1) / LOGIT_SLICES, start = min(panels, slice * per), end = min(panels, start + per);
  float sum = 0.0f;
#pragma unroll 8
  for (u32 panel = start; panel < end; panel++) sum += partials[(u64)panel * experts];
  return sum;
}

/// Element types of routers, as ProjectParams numbers them.
enum RouterType { ROUTER_F32 = 0, ROUTER_F16 = 1, ROUTER_BF16 = 2 };

/// Columns 4 t to 4 t + 3 of a panel of row `row` (of 16) of a router's tile; `panel` is where the panel's fragments begin.
template <int TYPE> __device__ __forceinline__ float4 router_columns(const unsigned char *panel, u32 row, u32 t) {
  const unsigned char *lane = panel + (row % 8 * 4 + t) * 16;
  if (TYPE == ROUTER_F32) return *(const float4 *)(lane + row / 8 * 512);
  const u32 *words = (const u32 *)lane + row / 8;
  const u32 first = words[0], second = words[2];
  if (TYPE == ROUTER_F16)
    return make_float4(unpack_f16_lo(first), unpack_f16_hi(first), unpack_f16_lo(second), unpack_f16_hi(second));
  return make_float4(unpack_bf16_lo(first), unpack_bf16_hi(first), unpack_bf16_lo(second), unpack_bf16_hi(second));
}

/// out[e] = sum of x[c] * norm[c] * w[e, c] over the columns of a panel, for `experts` rows of w packed as fragments with `cols` columns: each
/// product with the norm is rounded, then one fused multiply-add a column, in their order. `x` is the lane's column, 0 where it does not
/// exist; nothing is written where `out` is null. The panel is the same in both half-warps or both exist.
template <int TYPE>
__device__ __forceinline__ void panel_partials(float x, const float *norm, const unsigned char *w, u32 cols, u32 experts,
                                               u32 panel, float *out) {
  constexpr u32 PANEL_BYTES = TYPE == ROUTER_F32 ? 1024 : 512;
  const u32 lane = threadIdx.x % PANEL, column = panel * PANEL + lane;
  const u64 tile_bytes = (u64)((cols + 63) / 64) * (4 * PANEL_BYTES);
  const float scaled = column < cols ? x * norm[column] : 0.0f;
  float columns[PANEL];
#pragma unroll
  for (u32 c = 0; c < PANEL; c++) columns[c] = __shfl_sync(0xffffffffu, scaled, c, PANEL);
  if (out == nullptr) return;
  for (u32 expert = lane; expert < experts; expert += PANEL) {
    const unsigned char *fragments = w + expert / PANEL * tile_bytes + (u64)panel * PANEL_BYTES;
    float sum = 0.0f;
#pragma unroll
    for (u32 t = 0; t < 4; t++) {
      const float4 v = router_columns<TYPE>(fragments, expert % PANEL, t);
      sum = fmaf(v.x, columns[4 * t], sum);
      sum = fmaf(v.y, columns[4 * t + 1], sum);
      sum = fmaf(v.z, columns[4 * t + 2], sum);
      sum = fmaf(v.w, columns[4 * t + 3], sum);
    }
    out[expert] = sum;
  }
}
