// router: the experts of greatest score of each token, best first. One block a token.
#include "route.cuh"

#ifndef SCORING
#error "SCORING is not defined: 0 softmax, 1 sigmoid, 2 sparsemixer"
#endif

KERNEL(router, RouterParams, ROUTE_THREADS) {
  extern __shared__ u64 shared[];
  const RouteMemory memory(shared, p.experts);
  const RouteSource in = {p.logits, nullptr, nullptr, nullptr, p.bias, p.experts, p.groups, p.top_groups, 0, 0.0f};
  wait_for_inputs();
  rank_token(in, blockIdx.x, SCORING, memory);
  if (threadIdx.x < 32) select_experts(memory, p.experts, p.slots, p.out + (u64)blockIdx.x * p.slots);
  let_next_start();
}
