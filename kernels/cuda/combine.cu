// combine: the experts' results, weighed and added. A thread a column.
#include "combine.cuh"

#ifndef THREADS
#error "THREADS is not defined: threads of a block"
#endif

KERNEL(combine, CombineParams, THREADS) {
  const u32 per_token = (p.cols + THREADS - 1) / THREADS;
  const u64 token = blockIdx.x / per_token;
  const u32 col = blockIdx.x % per_token * THREADS + threadIdx.x;
  wait_for_inputs();
  if (col < p.cols) {
    const float *y = p.y + token * p.slots * p.cols;
    p.out[token * p.cols + col] = weighed_sum(y, p.weights + token * p.slots, p.slots, p.cols, col);
  }
  let_next_start();
}
