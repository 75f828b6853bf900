// unary: out[i] = f(x[i]); OPERATION is scale or softcap.
#include "elementwise.cuh"
#include "math.cuh"

#ifndef OPERATION
#error "OPERATION is not defined: the name of one of the functions below"
#endif

__device__ __forceinline__ float scale(float x, float value) { return x * value; }
__device__ __forceinline__ float softcap(float x, float value) { return soft_capped(x, value); }

KERNEL(unary, UnaryParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  for_elements(blockIdx.x, p.count, [&](u64 i) { p.out[i] = OPERATION(p.x[i], p.value); });
}
