// combine_add: the experts' results, weighed, added up and added to the residual stream, and the squares of the sum. A thread a column.
#include "combine.cuh"

#ifndef THREADS
#error "THREADS is not defined: threads of a block"
#endif

KERNEL(combine_add, CombineAddParams, THREADS) {
  const u32 per_token = (p.cols + THREADS - 1) / THREADS, panels = (p.cols + 15) / 16;
  const u64 token = blockIdx.x / per_token;
  const u32 col = blockIdx.x % per_token * THREADS + threadIdx.x;
  const BranchEnd end = {p.residual + token * p.cols, p.out + token * p.cols, p.squares ? p.squares + token * panels : nullptr, p.cols,
                         p.factor};
  wait_for_inputs();
  const float *y = p.y + token * p.slots * p.cols;
  const float sum = col < p.cols ? weighed_sum(y, p.weights + token * p.slots, p.slots, p.cols, col) : 0.0f;
  end.add(sum, col);
  let_next_start();
}
