// gather_rows: out[i, :] = x[rows[i], :]; a row of blocks a row.
#include "elementwise.cuh"

KERNEL(gather_rows, GatherRowsParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const float *x = p.x + (u64)(u32)p.rows[blockIdx.x] * p.cols;
  float *out = p.out + (u64)blockIdx.x * p.cols;
  for_elements(blockIdx.y, p.cols, [&](u64 c) { out[c] = x[c]; });
}
