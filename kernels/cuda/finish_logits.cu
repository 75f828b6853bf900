// finish_logits: out[t, e] = rsqrt(sum(squares[t, :]) / width + eps) * sum_p partials[t, p, e] (+ bias[e]); a thread an expert, in the
// order in which a launch that routes adds them.
#include "panel_sums.cuh"

#ifndef THREADS
#error "THREADS is not defined: threads of a block"
#endif

KERNEL(finish_logits, FinishLogitsParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u32 token = blockIdx.x, panels = (p.width + 15) / 16, e = blockIdx.y * THREADS + threadIdx.x;
  const float scale = row_reciprocal_rms(p.squares + (u64)token * panels, p.width, p.eps);
  if (e >= p.experts) return;
  const float *partials = p.partials + (u64)token * panels * p.experts + e;
  float sum = 0.0f;
  for (u32 slice = 0; slice < LOGIT_SLICES; slice++) sum += logit_slice(partials, panels, p.experts, slice);
  sum *= scale;
  p.out[(u64)token * p.experts + e] = p.bias ? sum + p.bias[e] : sum;
}
