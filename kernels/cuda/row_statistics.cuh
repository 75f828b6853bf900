// Sums over a row of x, in one order wherever they are needed: in a norm of its own, in the product that a norm was fused into, in the norm of a head.
// A program may do the one for a token and the other for many; a token's bits must not differ.
//
// A row is cut into eight slices of whole chunks of 64 columns. In a slice, lane l of a warp adds columns 4l to 4l + 3 of each 128, in order; lanes are
// added by a butterfly, slices in order. A block gives each warp a slice, a warp alone takes one after the other.
#pragma once
#include "reduce.cuh"

/// Slices of a row, and warps of a block that shares it.
constexpr u32 SLICES = 8;

/// The columns of a slice.
struct RowSlice {
  u32 first, end;

  __device__ __forceinline__ RowSlice(u32 cols, u32 index) {
    const u32 chunks = (cols + 63) / 64, each = (chunks + SLICES - 1) / SLICES;
    first = min(index * each, chunks) * 64, end = min(min((index + 1) * each, chunks) * 64, cols);
  }
};

/// Four columns of a row of floats; zero past the end.
__device__ __forceinline__ float4 load_columns(const float *row, u32 c, u32 cols) {
  if (cols % 4 == 0) return c < cols ? *(const float4 *)(row + c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  return make_float4(c < cols ? row[c] : 0.0f, c + 1 < cols ? row[c + 1] : 0.0f, c + 2 < cols ? row[c + 2] : 0.0f, c + 3 < cols ? row[c + 3] : 0.0f);
}

/// The sum of a slice, in every lane; row(c) gives columns c to c + 3, zero past the end.
template <class Row> __device__ __forceinline__ float slice_sum(const Row &row, const RowSlice &slice) {
  float sum = 0.0f;
  for (u32 c = slice.first + threadIdx.x % 32 * 4; c < slice.end; c += 128) {
    const float4 v = row(c);
    sum += (v.x + v.y) + (v.z + v.w);
  }
  return warp_sum(sum);
}

/// The sum of the squares of a slice's distances from `mean`, in every lane.
template <class Row> __device__ __forceinline__ float slice_squares(const Row &row, const RowSlice &slice, float mean) {
  float squares = 0.0f;
  for (u32 c = slice.first + threadIdx.x % 32 * 4; c < slice.end; c += 128) {
    const float4 v = row(c);
    squares = fmaf(v.x - mean, v.x - mean, squares);
    if (c + 1 < slice.end) squares = fmaf(v.y - mean, v.y - mean, squares);
    if (c + 2 < slice.end) squares = fmaf(v.z - mean, v.z - mean, squares);
    if (c + 3 < slice.end) squares = fmaf(v.w - mean, v.w - mean, squares);
  }
  return warp_sum(squares);
}

/// Sums (or maxima) of the eight slices in their order.
template <bool MAXIMUM> __device__ __forceinline__ float over_slices(const float (&values)[SLICES]) {
  float all = values[0];
#pragma unroll
  for (u32 slice = 1; slice < SLICES; slice++) all = MAXIMUM ? fmaxf(all, values[slice]) : all + values[slice];
  return all;
}

/// 1 / sqrt(mean square + eps), of a sum of squares.
__device__ __forceinline__ float reciprocal_rms(float squares, u32 cols, float eps) { return 1.0f / sqrtf(squares / (float)cols + eps); }

/// 1 / sqrt(mean square + eps) of a row, by a warp alone.
template <class Row> __device__ __forceinline__ float warp_reciprocal_rms(const Row &row, u32 cols, float eps) {
  float slices[SLICES];
#pragma unroll
  for (u32 slice = 0; slice < SLICES; slice++) slices[slice] = slice_squares(row, RowSlice(cols, slice), 0.0f);
  return reciprocal_rms(over_slices<false>(slices), cols, eps);
}
