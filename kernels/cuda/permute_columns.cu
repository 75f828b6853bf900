// permute_columns: out[t, j, c] = x[t, j, index[e, c]]. Indexes come from a checkpoint and experts from the step before, so neither
// is trusted: what does not exist gives zeros.
#include "elementwise.cuh"

KERNEL(permute_columns, PermuteColumnsParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u32 row = blockIdx.x, from = p.slots_share_x ? row / p.slots : row;
  const float *x = p.x + (u64)from * p.cols;
  float *out = p.out + (u64)row * p.cols;
  const u32 expert = p.experts ? (u32)p.experts[row] : 0;
  const int *index = p.index + (u64)expert * p.cols;
  for_elements(blockIdx.y, p.cols, [&](u64 c) {
    const u32 column = expert < p.matrices ? (u32)index[c] : p.cols;
    out[c] = column < p.cols ? x[column] : 0.0f;
  });
}
