// route: the selected experts of each token and their weights, of logits or of their partial sums. One block a token.
#include "route.cuh"

#ifndef SCORING
#error "SCORING is not defined: 0 softmax, 1 sigmoid, 2 sparsemixer"
#endif

KERNEL(route, RouteParams, ROUTE_THREADS) {
  extern __shared__ u64 shared[];
  const RouteMemory memory(shared, p.experts);
  float *weights = memory.logits + p.experts;
  int *selected = (int *)(weights + p.slots);
  const RouteSource in = {p.logits,  p.partials, p.squares,    p.logits_bias, p.bias,
                          p.experts, p.groups,   p.top_groups, p.width,       p.eps};
  const u64 first = (u64)blockIdx.x * p.slots;
  wait_for_inputs();
  rank_token(in, blockIdx.x, SCORING, memory);
  if (threadIdx.x < 32) {
    select_experts(memory, p.experts, p.slots, selected);
    if (p.weights) weigh_experts({SCORING, p.renormalise, p.scale, p.jitter}, memory.logits, p.experts, selected, p.slots, weights);
    for (u32 slot = threadIdx.x; slot < p.slots; slot += 32) {
      p.selected[first + slot] = selected[slot];
      if (p.weights) p.weights[first + slot] = weights[slot];
    }
  }
  let_next_start();
}
