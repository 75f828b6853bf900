// square_sums: out[r, p] = the sum of squares of the 16 columns of panel p; half a warp a panel.
#include "panel_sums.cuh"

#ifndef THREADS
#error "THREADS is not defined: threads of a block"
#endif

KERNEL(square_sums, SquareSumsParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u32 panels = (p.cols + 15) / 16, c = blockIdx.y * THREADS + threadIdx.x;
  const float x = c < p.cols ? p.x[(u64)blockIdx.x * p.cols + c] : 0.0f;
  const float sum = panel_square_sum(x);
  if (threadIdx.x % 16 == 0 && c / 16 < panels) p.out[(u64)blockIdx.x * panels + c / 16] = sum;
}
