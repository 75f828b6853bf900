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

/// Zeroes counters for the launch that follows. Called by the whole grid.
__device__ __forceinline__ void clear_counters(u32 *counters, u64 count) {
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) counters[i] = 0;
}

/// Of `count` things whose parts several blocks bring, which are complete with this block's part: last[i], in shared memory. A thing has parts(i) parts,
/// counted by *counter(i), which was zero before the launch and is not asked for where there is one part. What the others wrote of things that are
/// complete is then readable past the first-level cache. Called by the whole block.
template <class Parts, class Counter> __device__ __forceinline__ void arrive(u32 count, bool *last, const Parts &parts, const Counter &counter) {
  __threadfence();
  __syncthreads();
  for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
    const u32 all = parts(i);
    last[i] = all == 1 || atomicAdd(counter(i), 1) + 1 == all;
  }
  __syncthreads();
  __threadfence();
}
