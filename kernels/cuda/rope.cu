// rope: turns pairs of each head's dimensions. A thread computes sine and cosine of a token's pair once and turns it in every
// WARPS-th head; a pair is read before it is written, so out may be x.
#include "rotary.cuh"

#ifndef WARPS
#error "WARPS is not defined: warps of a block"
#endif

KERNEL(rope, RopeParams, 32 * WARPS) {
  wait_for_inputs();
  let_next_start();
  const u32 token = blockIdx.x, i = blockIdx.y * 32 + threadIdx.x % 32, warp = threadIdx.x / 32;
  const u64 width = (u64)p.heads * p.head_dim;
  const float *x = p.x + token * width;
  float *out = p.out + token * width;
  if (i < p.pairs) {
    float sine, cosine;
    rotation(p, token, i, sine, cosine);
    u32 first, second;
    pair_dimensions(i, p.pairs, p.interleaved, first, second);
    for (u32 head = warp; head < p.heads; head += WARPS) {
      const u64 at = (u64)head * p.head_dim;
      float a = x[at + first], b = x[at + second];
      turn(a, b, sine, cosine);
      out[at + first] = a;
      out[at + second] = b;
    }
  }
  // Dimensions that are not turned, dealt to the blocks of the token.
  if (x == out) return;
  for (u32 d = 2 * p.pairs + i; d < p.head_dim; d += 32 * gridDim.y) {
    for (u32 head = warp; head < p.heads; head += WARPS) out[(u64)head * p.head_dim + d] = x[(u64)head * p.head_dim + d];
  }
}
