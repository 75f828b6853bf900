// quantize_rows: one block a row; x rounded to q8x32 or to f16, as ROUNDING says.
#include "rounding.cuh"

#if !defined(THREADS) || !defined(ROUNDING)
#error "THREADS and ROUNDING are not defined: threads of a block; 1 a scale each 32 columns, 2 a scale a row, 3 f16"
#endif

KERNEL(quantize_rows, QuantizeRowsParams, THREADS) {
  __shared__ u32 scratch[THREADS / 32];
  wait_for_inputs();
  let_next_start();
  const float *x = p.x + (u64)blockIdx.x * p.cols;
  round_row<THREADS, ROUNDING>([=](u32 c) { return x[c]; }, blockIdx.x, p.cols, p.out, scratch);
}
