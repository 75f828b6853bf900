// scale_rows: out[t, j, :] = y[t, j, :] * rsqrt(sum(squares[t, :]) / width + eps) (+ bias).
#include "elementwise.cuh"
#include "panel_sums.cuh"

KERNEL(scale_rows, ScaleRowsParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u32 token = blockIdx.x / p.slots;
  const u64 row = (u64)blockIdx.x * p.cols;
  const float scale = row_reciprocal_rms(p.squares + (u64)token * ((p.width + 15) / 16), p.width, p.eps);
  for_elements(blockIdx.y, p.cols, [&](u64 c) {
    const float y = p.y[row + c] * scale;
    p.out[row + c] = p.bias ? y + p.bias[c] : y;
  });
}
