// binary: out[i] = a[i] (op) b[i]; OPERATION is add, mul, or an activation of a times b.
#include "elementwise.cuh"
#include "math.cuh"

#ifndef OPERATION
#error "OPERATION is not defined: the name of one of the functions below"
#endif

__device__ __forceinline__ float add(float a, float b, float) { return a + b; }
__device__ __forceinline__ float mul(float a, float b, float) { return a * b; }
__device__ __forceinline__ float silu_mul(float a, float b, float limit) { return activated<SILU>(a, b, limit); }
__device__ __forceinline__ float gelu_tanh_mul(float a, float b, float limit) { return activated<GELU_TANH>(a, b, limit); }
__device__ __forceinline__ float gelu_mul(float a, float b, float limit) { return activated<GELU>(a, b, limit); }
__device__ __forceinline__ float relu2_mul(float a, float b, float limit) { return activated<RELU2>(a, b, limit); }
__device__ __forceinline__ float clamped_swiglu_mul(float a, float b, float limit) { return activated<CLAMPED_SWIGLU>(a, b, limit); }

KERNEL(binary, BinaryParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  for_elements(blockIdx.x, p.count, [&](u64 i) { p.out[i] = OPERATION(p.a[i], p.b[i], p.limit); });
}
