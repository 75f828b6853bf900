// scale_columns: out[r, :] = x[r, :] * w.
#include "elementwise.cuh"

KERNEL(scale_columns, ScaleColumnsParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u64 row = (u64)blockIdx.x * p.cols;
  for_elements(blockIdx.y, p.cols, [&](u64 c) { p.out[row + c] = p.x[row + c] * p.w[c]; });
}
