// Work that waits for other blocks of the same launch without anybody waiting: the last block to arrive does it.
#pragma once
#include "launch.cuh"

/// Whether this block is the last of `blocks` to arrive; what the others wrote before is then readable. `counter` is zero before and after: one of
/// the workspace's first COUNTER_BYTES. Called by the whole block.
__device__ __forceinline__ bool last_to_arrive(u32 *counter, u32 blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(counter, 1) + 1 == blocks;
    if (last) atomicExch(counter, 0);
  }
  __syncthreads();
  __threadfence();
  return last;
}
