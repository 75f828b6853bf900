// Sums and maxima over a warp, in an order fixed by its lanes alone.
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
