// The experts of a token and their weights, by one block: the semantics, and but for the order in which partial logits are added the
// operations, of the native kernels (kernels/src/cpu/{router,router_weights,route}.rs), so that every device selects the same experts.
//
// A score and its expert become one integer that orders as they do (better score first, then lower index, NaN last), so no two are equal
// and the next best is the greatest below the last: a maximum a warp finds alone, in any order of comparisons. Every warp of a block can
// therefore have the selection without another barrier.
#pragma once
#include "math.cuh"
#include "panel_sums.cuh"

/// How experts are scored and weighed.
enum Scoring : u32 { SOFTMAX = 0, SIGMOID = 1, SPARSEMIXER = 2 };

/// Threads of a block that routes: a warp a slice of partial logits.
#define ROUTE_THREADS 256
#define ROUTE_SLICES LOGIT_SLICES

/// The rank of an expert or group that takes no part, and one above every rank.
#define RANK_EXCLUDED 0ull
#define RANK_HIGHEST 0xffffffffffffffffull

/// What a token is routed by; as RouteParams.
struct RouteSource {
  const float *logits, *partials, *squares, *logits_bias, *bias;
  u32 experts, groups, top_groups, width;
  float eps;
};

/// Shared memory of a block that routes: [experts] ranks, logits, and ROUTE_SLICES sums each, whose room the ranks of groups take later.
struct RouteMemory {
  u64 *ranks, *group_ranks;
  float *logits, *slices;

  __device__ __forceinline__ RouteMemory(void *shared, u32 experts)
      : ranks((u64 *)shared), group_ranks(ranks + experts), logits((float *)(group_ranks + ROUTE_SLICES / 2 * experts)),
        slices((float *)group_ranks) {}
};

/// Bytes of RouteMemory.
#define ROUTE_BYTES(experts) ((experts) * (sizeof(u64) + ROUTE_SLICES / 2 * sizeof(u64) + sizeof(float)))

/// The rank of an expert or group of this score.
__device__ __forceinline__ u64 rank_of(float score, u32 index) {
  // Both zeros are the positive one.
  const u32 bits = __float_as_uint(score + 0.0f);
  const u32 ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return (u64)(score != score ? 1u : ordered) << 32 | (0xffffffffu - index);
}

/// The index of a rank.
__device__ __forceinline__ u32 index_of(u64 rank) { return 0xffffffffu - (u32)rank; }

/// The score of a rank; NaN of those that take no part.
__device__ __forceinline__ float score_of(u64 rank) {
  const u32 ordered = (u32)(rank >> 32);
  if (ordered <= 1) return __uint_as_float(0x7fc00000u);
  return __uint_as_float(ordered >> 31 ? ordered ^ 0x80000000u : ~ordered);
}

/// The greatest of `count` ranks below `bound`, in every lane of the warp.
__device__ __forceinline__ u64 best_below(const u64 *ranks, u32 count, u64 bound) {
  u64 best = RANK_EXCLUDED;
  for (u32 i = threadIdx.x % 32; i < count; i += 32) {
    const u64 rank = ranks[i];
    if (rank < bound && rank > best) best = rank;
  }
#pragma unroll
  for (u32 step = 16; step; step >>= 1) {
    const u64 other = __shfl_xor_sync(0xffffffffu, best, step);
    if (other > best) best = other;
  }
  return best;
}

/// Adds the warp's slice of a token's partial logits, [panels, experts], panels in order.
__device__ __forceinline__ void add_slice(const RouteSource &in, u64 token, float *slices) {
  const u32 panels = (in.width + 15) / 16, slice = threadIdx.x / 32;
  for (u32 e = threadIdx.x % 32; e < in.experts; e += 32)
    slices[slice * in.experts + e] = logit_slice(in.partials + token * panels * in.experts + e, panels, in.experts, slice);
}

/// The logit of an expert from its slices: added in order, by the norm's factor, plus the bias.
__device__ __forceinline__ float finished_logit(const RouteSource &in, const float *slices, u32 e, float factor) {
  float sum = 0.0f;
#pragma unroll
  for (u32 slice = 0; slice < ROUTE_SLICES; slice++) sum += slices[slice * in.experts + e];
  sum *= factor;
  return in.logits_bias ? sum + in.logits_bias[e] : sum;
}

/// The logits of a token, as they are or made of partial sums, and the ranks they give experts. Ends with a barrier.
__device__ __forceinline__ void rank_experts(const RouteSource &in, u64 token, u32 scoring, const RouteMemory &memory) {
  float factor = 1.0f;
  if (!in.logits) {
    add_slice(in, token, memory.slices);
    factor = row_reciprocal_rms(in.squares + token * ((in.width + 15) / 16), in.width, in.eps);
    __syncthreads();
  }
  for (u32 e = threadIdx.x; e < in.experts; e += ROUTE_THREADS) {
    const float logit = in.logits ? in.logits[token * in.experts + e] : finished_logit(in, memory.slices, e, factor);
    memory.logits[e] = logit;
    const float score = scoring == SIGMOID ? sigmoid(logit) : logit;
    memory.ranks[e] = rank_of(score + (scoring == SIGMOID && in.bias ? in.bias[e] : 0.0f), e);
  }
  __syncthreads();
}

/// Takes the experts of all but the best groups of neighbours out, and a remainder that makes no group. A group scores its best expert,
/// with sigmoid the sum of its best two. Ends with a barrier.
__device__ __forceinline__ void exclude_groups(const RouteSource &in, u32 scoring, const RouteMemory &memory) {
  const u32 size = max(in.experts / in.groups, 1u), groups = in.experts / size;
  for (u32 g = threadIdx.x / 32; g < groups; g += ROUTE_THREADS / 32) {
    const u64 first = best_below(memory.ranks + g * size, size, RANK_HIGHEST);
    float score = score_of(first);
    if (scoring == SIGMOID && size > 1) score += score_of(best_below(memory.ranks + g * size, size, first));
    if (threadIdx.x % 32 == 0) memory.group_ranks[g] = rank_of(score, g);
  }
  __syncthreads();
  u64 last = RANK_HIGHEST;
  for (u32 i = 0; i < min(in.top_groups, groups); i++) last = best_below(memory.group_ranks, groups, last);
  for (u32 e = threadIdx.x; e < in.experts; e += ROUTE_THREADS) {
    if (e >= groups * size || memory.group_ranks[e / size] < last) memory.ranks[e] = RANK_EXCLUDED;
  }
  __syncthreads();
}

/// Ranks the experts of a token: what select_experts and selected_expert read. The whole block calls it.
__device__ __forceinline__ void rank_token(const RouteSource &in, u64 token, u32 scoring, const RouteMemory &memory) {
  rank_experts(in, token, scoring, memory);
  if (in.groups > 1) exclude_groups(in, scoring, memory);
}

/// The best experts, `slots` of them, by one warp; -1 where none is left. Read them after a __syncwarp, which stands at the end.
__device__ __forceinline__ void select_experts(const RouteMemory &memory, u32 experts, u32 slots, int *selected) {
  u64 last = RANK_HIGHEST;
  for (u32 slot = 0; slot < slots; slot++) {
    last = best_below(memory.ranks, experts, last);
    if (threadIdx.x % 32 == 0) selected[slot] = last == RANK_EXCLUDED ? -1 : (int)index_of(last);
  }
  __syncwarp();
}

/// The expert of one slot, in every lane of the warp.
__device__ __forceinline__ int selected_expert(const RouteMemory &memory, u32 experts, u32 slot) {
  u64 last = RANK_HIGHEST;
  for (u32 i = 0; i <= slot; i++) last = best_below(memory.ranks, experts, last);
  return last == RANK_EXCLUDED ? -1 : (int)index_of(last);
}

/// The greatest logit, NaNs passed over, and sum(e^(s - max)): 16 lanes, lane = expert mod 16, then the tree. By one warp.
__device__ __forceinline__ float2 softmax_denominator(const float *logits, u32 experts) {
  float max = -3.402823466e38f, total = 0.0f;
  for (u32 e = threadIdx.x % 32; e < experts; e += 32) max = logits[e] > max ? logits[e] : max;
#pragma unroll
  for (u32 step = 16; step; step >>= 1) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, step));
  for (u32 e = threadIdx.x % 16; e < experts; e += 16) total += exp_of(logits[e] - max);
  return make_float2(max, half_warp_sum(total));
}

/// The sum of e^(s - max) over the experts near `max` that are not among the first `slot` selected (Phi-3.5-MoE).
__device__ __forceinline__ float sum_of_near(const float *logits, u32 experts, float max, const int *selected, u32 slot, float bound) {
  float sum = 0.0f;
  for (u32 e = 0; e < experts; e++) {
    const float s = logits[e], magnitude = fabsf(s) > max ? fabsf(s) : max;
    // Where both are 0 the quotient is no number, and no distance.
    bool counts = !((max - s) / magnitude > bound);
    for (u32 before = 0; before < slot; before++) counts = counts && selected[before] != (int)e;
    if (counts) sum += exp_of(s - max);
  }
  return sum;
}

/// How weights are made of scores; as RouterWeightsParams.
struct Weighing {
  u32 scoring, renormalise;
  float scale, jitter;
};

/// Writes the weights of a token's selected experts to `weights`, in shared memory, by one warp: 0 of one that does not exist. Ends with a
/// __syncwarp.
__device__ __forceinline__ void weigh_experts(const Weighing &how, const float *logits, u32 experts, const int *selected, u32 slots,
                                              float *weights) {
  const float2 softmax = how.scoring == SOFTMAX ? softmax_denominator(logits, experts) : make_float2(0.0f, 1.0f);
  for (u32 slot = threadIdx.x % 32; slot < slots; slot += 32) {
    const u32 expert = (u32)selected[slot];
    float weight = 0.0f;
    if (expert < experts) {
      const float s = logits[expert];
      if (how.scoring == SOFTMAX) weight = exp_of(s - softmax.x) / softmax.y;
      if (how.scoring == SIGMOID) weight = sigmoid(s);
      if (how.scoring == SPARSEMIXER) weight = 1.0f / sum_of_near(logits, experts, s, selected, slot, 2.0f * how.jitter);
    }
    weights[slot] = weight;
  }
  __syncwarp();
  float total = 0.0f;
  for (u32 slot = 0; slot < slots; slot++) total += weights[slot];
  total = how.renormalise && total != 0.0f ? total : 1.0f;
  __syncwarp();
  for (u32 slot = threadIdx.x % 32; slot < slots; slot += 32) weights[slot] = weights[slot] / total * how.scale;
  __syncwarp();
}
