// rms_norm: one block a row; out = x * rsqrt(mean(x^2) + eps) * weight.
#include "row_norm.cuh"

#ifndef THREADS
#error "THREADS is not defined: threads of a block"
#endif

KERNEL(rms_norm, RmsNormParams, THREADS) {
  __shared__ float scratch[THREADS / 32];
  wait_for_inputs();
  let_next_start();
  const u64 at = (u64)blockIdx.x * p.cols;
  const NormalisedRow row = normalised_row<THREADS>(p.x + at, p.weight, nullptr, 1, p.cols, p.eps, scratch);
  for (u32 c = threadIdx.x; c < p.cols; c += THREADS) p.out[at + c] = row(c);
}
