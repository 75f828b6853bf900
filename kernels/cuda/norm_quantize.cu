// norm_quantize: one block a row; a norm of x rounded to q8x32 or to f16, as ROUNDING says.
#include "rounding.cuh"
#include "row_norm.cuh"

#if !defined(THREADS) || !defined(ROUNDING)
#error "THREADS and ROUNDING are not defined: threads of a block; 1 a scale each 32 columns, 2 a scale a row, 3 f16"
#endif

KERNEL(norm_quantize, NormQuantizeParams, THREADS) {
  __shared__ float sums[THREADS / 32];
  __shared__ u32 maxima[THREADS / 32];
  wait_for_inputs();
  let_next_start();
  const float *x = p.x + (u64)blockIdx.x * p.cols;
  const NormalisedRow row = normalised_row<THREADS>(x, p.weight, p.bias, p.norm, p.cols, p.eps, sums);
  round_row<THREADS, ROUNDING>(row, blockIdx.x, p.cols, p.out, maxima);
}
