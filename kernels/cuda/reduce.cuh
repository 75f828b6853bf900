// Sums and maxima over a warp and a block, in an order fixed by the number of threads alone.
#pragma once
#include "launch.cuh"

/// The sum over the warp, in every lane: a butterfly, which gives each lane the same bits.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (u32 step = 16; step; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}

/// The maximum over the warp, in every lane.
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (u32 step = 16; step; step >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}

/// The sum over a block of WARPS warps, in every thread: warps in order. `scratch` holds WARPS floats.
template <u32 WARPS> __device__ __forceinline__ float block_sum(float v, float *scratch) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (u32 warp = 0; warp < WARPS; warp++) sum += scratch[warp];
  __syncthreads();
  return sum;
}
