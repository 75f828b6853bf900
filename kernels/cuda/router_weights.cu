// router_weights: the factor of each selected expert. One block a token, of which one warp works: the sums have an order.
#include "route.cuh"

#ifndef SCORING
#error "SCORING is not defined: 0 softmax, 1 sigmoid, 2 sparsemixer"
#endif

KERNEL(router_weights, RouterWeightsParams, 32) {
  extern __shared__ float weights[];
  const u64 token = blockIdx.x;
  const Weighing how = {SCORING, p.renormalise, p.scale, p.jitter};
  wait_for_inputs();
  weigh_experts(how, p.logits + token * p.experts, p.experts, p.selected + token * p.slots, p.slots, weights);
  for (u32 slot = threadIdx.x; slot < p.slots; slot += 32) p.out[token * p.slots + slot] = weights[slot];
  let_next_start();
}
