// Copies from global to shared memory that pass no register: issued early, waited for late.
//
// A thread waits for its own copies; what other threads copied is there after a block barrier as well.
#pragma once
#include "launch.cuh"

/// The address of shared memory as the instructions here and ldmatrix take it.
__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

/// 16 bytes of shared memory, by an address of 32 bits: half the arithmetic of a pointer.
__device__ __forceinline__ uint4 load_shared_16(u32 shared) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(shared) : "memory");
  return v;
}

/// Copies 16 bytes, of which those from `valid` on are zero and not read; both addresses are multiples of 16. Past L1 (.cg), which
/// streamed data would only empty.
__device__ __forceinline__ void copy_async_16(u32 shared, const void *global, u32 valid = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(valid) : "memory");
}

/// As copy_async_16 for 4 bytes, of which `valid` are read: sources that are aligned no better.
__device__ __forceinline__ void copy_async_4(u32 shared, const void *global, u32 valid = 4) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(valid) : "memory");
}

/// Ends the group of copies issued since the last one; an empty group is one too, so that counting stays regular.
__device__ __forceinline__ void commit_async() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most the N newest groups of this thread are under way.
template <u32 N> __device__ __forceinline__ void wait_async() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
