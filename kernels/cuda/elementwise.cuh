// The grid of kernels whose elements do not depend on each other: a block has THREADS threads and ELEMENTS elements, a thread every
// THREADS-th of them, so that its loads are under way together and a warp's are neighbours.
#pragma once
#include "launch.cuh"

#if !defined(THREADS) || !defined(ELEMENTS)
#error "THREADS and ELEMENTS are not defined: threads and elements of a block"
#endif

/// Calls body(i) for the elements below `count` of block number `block`.
template <class Body> __device__ __forceinline__ void for_elements(u32 block, u64 count, const Body &body) {
  const u64 first = (u64)block * ELEMENTS + threadIdx.x;
#pragma unroll
  for (u32 step = 0; step < ELEMENTS; step += THREADS) {
    if (first + step < count) body(first + step);
  }
}
