// norm_add: one block a row; out = factor * rms_norm(x) + residual, and the squares of out. A thread reads its element of x and residual
// before it writes that of out, and the row's scale is known before, so out may be either.
#include "combine.cuh"
#include "row_norm.cuh"

#ifndef THREADS
#error "THREADS is not defined: threads of a block"
#endif

KERNEL(norm_add, NormAddParams, THREADS) {
  __shared__ float scratch[THREADS / 32];
  wait_for_inputs();
  let_next_start();
  const u64 at = (u64)blockIdx.x * p.cols;
  const float *x = p.x + at;
  float *squares = p.squares ? p.squares + (u64)blockIdx.x * ((p.cols + PANEL - 1) / PANEL) : nullptr;
  const BranchEnd end{p.residual + at, p.out + at, squares, p.cols, p.factor};
  const float scale = block_reciprocal_rms<THREADS>(x, p.cols, p.eps, scratch);
  for (u32 first = 0; first < p.cols; first += THREADS) {
    const u32 c = first + threadIdx.x;
    end.add(c < p.cols ? x[c] * scale * p.weight[c] : 0.0f, c);
  }
}
