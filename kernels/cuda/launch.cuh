// What every kernel begins and ends with: its signature, and the hand-over between launches that may overlap.
//
// A kernel is written as prefetch_weights, wait, compute, publish: nothing another launch wrote is read, and nothing at all is
// written, before wait_for_inputs(). Only weights may be read earlier. Where the architecture overlaps dependent launches (9.0 and
// later) these are instructions; elsewhere a launch starts when the one before it has ended, and they are nothing.
#pragma once
#include "params.h"

#ifndef PARAMS_BYTES
#error "PARAMS_BYTES is not defined: the size of the kernel's parameter struct in bytes, as the host lays it out"
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
typedef unsigned char u8;

/// The definition of an entry `name`, with blocks of so many threads, and at least so many blocks an SM if a second number says so; the
/// parameters are `p` and `workspace`.
#define KERNEL(name, Params, ...)                                                                                          \
  static_assert(sizeof(Params) == PARAMS_BYTES, #Params " is laid out differently by the host");                           \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__)                                                                  \
      name(const __grid_constant__ Params p, unsigned char *workspace)

/// Waits until the launches before this one have written their results.
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next launch start its prefetch; it still waits for this one's results.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
