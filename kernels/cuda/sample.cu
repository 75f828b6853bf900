// sample: a token of each row of logits, chosen by one block a row. Scores that a mask or penalties change stand in the workspace.
#include "sampling.cuh"

/// Bytes of the workspace before its free part; kernels/src/cuda/mod.rs.
#ifndef COUNTER_BYTES
#error "COUNTER_BYTES is not defined: bytes of the workspace that are counters"
#endif

/// Writes the allowed logits to `scores`, with -infinity added to the others, as the host's logit bias does: what is no number stays none.
__device__ __forceinline__ void mask_row(const SampleParams &p, u64 row, float *scores) {
  const float *logits = p.logits + row * p.vocab;
  const unsigned *allowed = p.allowed + row * ((p.vocab + 31) / 32);
  for_row(logits, p.vocab, [&](u32 id, float logit) {
    const bool is_allowed = !p.allowed || allowed[id / 32] >> id % 32 & 1;
    scores[id] = is_allowed ? logit : logit + __uint_as_float(0xff800000u);
  });
  __syncthreads();
}

/// Applies the penalties to the scores of the history's tokens; the number of those that do not exist.
__device__ __forceinline__ u32 penalise_row(const SampleParams &p, u64 row, const SampleSettings &how, float *scores) {
  u32 unknown = 0;
  for (u32 i = p.history_offsets[row] + threadIdx.x; i < p.history_offsets[row + 1]; i += blockDim.x) {
    const u32 token = p.history_tokens[i], outputs = p.history_counts[i];
    if (token >= p.vocab) {
      unknown++;
      continue;
    }
    float score = scores[token];
    score = score > 0.0f ? score / how.repetition_penalty : score * how.repetition_penalty;
    if (outputs) score -= how.presence_penalty + how.frequency_penalty * (float)outputs;
    scores[token] = score;
  }
  return unknown;
}

// One block an SM is enough: with more in mind the assembler takes fewer registers than the row needs.
KERNEL(sample, SampleParams, SAMPLE_THREADS, 1) {
  __shared__ SampleMemory memory;
  const u64 row = blockIdx.x;
  const float *logits = p.logits + row * p.vocab;
  Sampler sampler = {memory, logits, p.vocab, 0};
  wait_for_inputs();
  const SampleSettings how = p.settings[row];
  const bool penalised =
      p.history_offsets && (how.repetition_penalty != 1.0f || how.presence_penalty != 0.0f || how.frequency_penalty != 0.0f);
  u32 unknown = 0;
  if (penalised || p.allowed) {
    float *scores = (float *)(workspace + COUNTER_BYTES) + row * p.vocab;
    mask_row(p, row, scores);
    if (penalised) unknown = penalise_row(p, row, how, scores);
    unknown = sampler.total({0, unknown}).count;
    sampler.scores = scores;
  }
  const u64 best = sampler.largest(sampler.scores);
  const u32 order = (u32)(best >> 32);
  int token = unknown ? UNKNOWN_TOKEN : order == 0xffffffffu ? INVALID_LOGIT : order <= FORBIDDEN ? NOTHING_ALLOWED : (int)~(u32)best;
  if (token >= 0 && how.temperature != 0.0f) token = (int)sampler.draw(how, value_of(order), (u32)token);
  float logprob = __uint_as_float(0x7fc00000u);
  if (p.logprobs && token >= 0) {
    const float largest = value_of((u32)(sampler.largest(logits) >> 32));
    const Weighing weigh = {largest, 1.0f, 0.0f};
    const u64 mass = sampler.mass_above(logits, FORBIDDEN, weigh);
    logprob = (logits[token] - largest) - log_of_mass(mass);
  }
  if (threadIdx.x == 0) {
    p.out[row] = token;
    if (p.logprobs) p.logprobs[row] = logprob;
  }
  let_next_start();
}
