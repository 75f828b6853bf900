// concat: out[r, :] = a[r, :] then b[r, :].
#include "elementwise.cuh"

KERNEL(concat, ConcatParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u64 cols = (u64)p.a_cols + p.b_cols;
  const float *a = p.a + (u64)blockIdx.x * p.a_cols, *b = p.b + (u64)blockIdx.x * p.b_cols;
  float *out = p.out + blockIdx.x * cols;
  for_elements(blockIdx.y, cols, [&](u64 c) { out[c] = c < p.a_cols ? a[c] : b[c - p.a_cols]; });
}
