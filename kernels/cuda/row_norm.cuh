// The norms a row of activations may pass before it is multiplied or rounded: what a block finds out about a row, and what it
// makes of one element. Norms are numbered as in the parameter structs: 0 none, 1 rms_norm, 2 layer_norm, 3 scale_columns.
#pragma once
#include "row_statistics.cuh"

/// A row seen through its norm. Elements are computed anew wherever they are needed: reading a row again costs less than shared
/// memory for it, and no row is too long.
struct NormalisedRow {
  const float *x, *weight, *bias;
  float mean, scale;
  u32 norm;

  __device__ __forceinline__ float operator()(u32 c) const {
    switch (norm) {
    case 1: return x[c] * scale * weight[c];
    case 2: {
      const float y = (x[c] - mean) * scale * weight[c];
      return bias ? y + bias[c] : y;
    }
    case 3: return x[c] * weight[c];
    default: return x[c];
    }
  }
};

/// The sum of what each warp has, in every thread: slices in order. `scratch` holds a float a warp.
template <u32 WIDTH> __device__ __forceinline__ float over_warps(float slice, float *scratch) {
  static_assert(WIDTH == 32 * SLICES, "a row is shared by a warp a slice");
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = slice;
  __syncthreads();
  float slices[SLICES];
#pragma unroll
  for (u32 warp = 0; warp < SLICES; warp++) slices[warp] = scratch[warp];
  __syncthreads();
  return over_slices<false>(slices);
}

/// The sum of the squares of a row's distances from `mean`, in every thread.
template <u32 WIDTH> __device__ __forceinline__ float block_squares(const float *x, u32 cols, float mean, float *scratch) {
  return over_warps<WIDTH>(slice_squares([&](u32 c) { return load_columns(x, c, cols); }, RowSlice(cols, threadIdx.x / 32), mean), scratch);
}

/// 1 / sqrt(mean(x^2) + eps) of a row, by a block of WIDTH threads; `scratch` holds a float a warp.
template <u32 WIDTH> __device__ __forceinline__ float block_reciprocal_rms(const float *x, u32 cols, float eps, float *scratch) {
  return reciprocal_rms(block_squares<WIDTH>(x, cols, 0.0f, scratch), cols, eps);
}

/// What a block of WIDTH threads finds out about a row: its mean and scale, as far as the norm has them. Layer norm takes two passes: the
/// squares of centred values do not cancel. `scratch` holds a float a warp.
template <u32 WIDTH>
__device__ __forceinline__ NormalisedRow normalised_row(const float *x, const float *weight, const float *bias, u32 norm, u32 cols,
                                                        float eps, float *scratch) {
  NormalisedRow row{x, weight, bias, 0.0f, 1.0f, norm};
  if (norm == 1) row.scale = block_reciprocal_rms<WIDTH>(x, cols, eps, scratch);
  if (norm == 2) {
    const float sum = slice_sum([&](u32 c) { return load_columns(x, c, cols); }, RowSlice(cols, threadIdx.x / 32));
    row.mean = over_warps<WIDTH>(sum, scratch) / (float)cols;
    row.scale = reciprocal_rms(block_squares<WIDTH>(x, cols, row.mean, scratch), cols, eps);
  }
  return row;
}
