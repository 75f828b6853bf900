// The experts' results of a token, weighed and added in the order of slots: one fused multiply-add a slot, starting from 0.
#pragma once
#include "panel_sums.cuh"

/// sum_j weights[j] * y(j).
template <class Y> __device__ __forceinline__ float weighed_sum(const float *weights, u32 slots, const Y &y) {
  float sum = 0.0f;
#pragma unroll 4
  for (u32 slot = 0; slot < slots; slot++) sum = fmaf(weights[slot], y(slot), sum);
  return sum;
}

/// Column `col` of sum_j weights[j] * y[j, :], with y [slots, cols].
__device__ __forceinline__ float weighed_sum(const float *y, const float *weights, u32 slots, u32 cols, u32 col) {
  return weighed_sum(weights, slots, [=](u32 slot) { return y[(u64)slot * cols + col]; });
}

/// Where a branch of the residual stream ends: out = factor * y + residual, product and sum rounded each, and the squares of out by
/// panels of 16 columns. Pointers are of the token's row; residual and squares may be null, out may be residual.
struct BranchEnd {
  const float *residual;
  float *out, *squares;
  u32 cols;
  float factor;

  /// Ends column `col`, which may lie past the row's end. The whole warp calls it, neighbouring lanes with neighbouring columns, lanes 0 and
  /// 16 with the first column of a panel.
  __device__ __forceinline__ void add(float y, u32 col) const {
    const bool exists = col < cols;
    float v = y * factor;
    if (exists && residual) v += residual[col];
    if (exists) out[col] = v;
    if (!squares) return;
    const float sum = panel_square_sum(exists ? v : 0.0f);
    if (exists && threadIdx.x % 16 == 0) squares[col / 16] = sum;
  }
};
