// Choosing a token of a row of scores by one block.
//
// Nothing is sorted. A filter keeps the first tokens in falling order of score, the lower id first among equals, so it is a cut: a score
// and how many of the tokens with just that score are kept. Cuts are found by bisection over the bits of a float in the order of their
// values: by count for top-k, by mass for top-p and for the draw itself. Once few enough tokens are left between the bounds they
// are gathered in shared memory.
//
// Masses are sums of weights as integers in units of 2^-MASS_BITS: such sums are exact, whatever the order and the number of threads.
#pragma once
#include "math.cuh"
#include "philox.cuh"

/// Fraction bits of a mass. A weight is at most 1 and a vocabulary at most 2^21: a mass is at most 2^63.
#define MASS_BITS 42
/// Tokens that are gathered in shared memory.
#define GATHERED 4096
/// Most threads of a block. With twice as many there are not enough registers.
#define SAMPLE_THREADS 512
/// Loads of a thread that are under way together.
#define SAMPLE_LOADS 8

/// Instead of a token.
enum NoToken { INVALID_LOGIT = -1, NOTHING_ALLOWED = -2, UNKNOWN_TOKEN = -3 };

/// A number whose order is that of the floats: -infinity first, -0 just before +0.
__device__ __forceinline__ u32 order_of(float x) {
  const u32 bits = __float_as_uint(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(u32 order) {
  return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}

/// order_of(-infinity)
#define FORBIDDEN 0x007fffffu

struct Tally {
  u64 mass;
  u32 count;
};

struct SampleMemory {
  Tally tallies[2][SAMPLE_THREADS / 32];
  u32 orders[GATHERED];
  u32 gathered;
  u32 found;
};

/// The measure of a cut by mass: exp((score - largest) / temperature), and 0 below min_p and for forbidden tokens.
struct Weighing {
  float largest, temperature, min_p;

  __device__ __forceinline__ u64 operator()(float score) const {
    const float weight = exp_of((score - largest) / temperature);
    // Settings without meaning give any weights, but none above 1.
    const float bounded = weight <= 1.0f ? weight : 1.0f;
    return bounded >= min_p && score > value_of(FORBIDDEN) ? (u64)(bounded * (float)(1ull << MASS_BITS)) : 0;
  }
};

/// The measure of a cut by number of tokens.
struct Counting {
  __device__ __forceinline__ u64 operator()(float) const { return 1; }
};

/// What a filter keeps: scores above the one of that order, and `ties` of those that equal it. `inside` scores are at least that.
struct Cut {
  u32 order, ties, inside;
};

/// Calls body(id, value) for all values of a row, spread over the block.
template <class Body> __device__ __forceinline__ void for_row(const float *row, u32 count, const Body &body) {
  for (u32 base = threadIdx.x; base < count; base += SAMPLE_LOADS * blockDim.x) {
    float values[SAMPLE_LOADS];
#pragma unroll
    for (u32 i = 0; i < SAMPLE_LOADS; i++) {
      const u32 id = base + i * blockDim.x;
      values[i] = id < count ? row[id] : 0.0f;
    }
#pragma unroll
    for (u32 i = 0; i < SAMPLE_LOADS; i++) {
      const u32 id = base + i * blockDim.x;
      if (id < count) body(id, values[i]);
    }
  }
}

/// A block at work on a row.
struct Sampler {
  SampleMemory &memory;
  const float *scores;
  u32 vocab;
  u32 turn;

  /// The sums over the block, in every thread. One barrier: two sets of partial sums take turns.
  __device__ __forceinline__ Tally total(Tally v) {
    v = in_warp(v);
    if (threadIdx.x % 32 == 0) memory.tallies[turn][threadIdx.x / 32] = v;
    __syncthreads();
    const u32 warp = threadIdx.x % 32;
    const Tally none = {0, 0}, other = warp < blockDim.x / 32 ? memory.tallies[turn][warp] : none;
    turn ^= 1;
    return in_warp(other);
  }

  static __device__ __forceinline__ Tally in_warp(Tally v) {
#pragma unroll
    for (u32 step = 16; step; step >>= 1) {
      v.mass += __shfl_xor_sync(0xffffffffu, v.mass, step);
      v.count += __shfl_xor_sync(0xffffffffu, v.count, step);
    }
    return v;
  }

  /// The greatest order, 0xffffffff for NaN and +infinity, in the upper word, and in the lower one the complement of its lowest id.
  __device__ __forceinline__ u64 largest(const float *row) {
    u64 best = 0;
    for_row(row, vocab, [&](u32 id, float value) {
      // Zeros of either sign are equal.
      const float score = value + 0.0f;
      const u32 order = score < __uint_as_float(0x7f800000u) ? order_of(score) : 0xffffffffu;
      const u64 here = (u64)order << 32 | ~id;
      best = here > best ? here : best;
    });
    best = largest_in_warp(best);
    if (threadIdx.x % 32 == 0) memory.tallies[turn][threadIdx.x / 32].mass = best;
    __syncthreads();
    const u32 warp = threadIdx.x % 32;
    const u64 other = warp < blockDim.x / 32 ? memory.tallies[turn][warp].mass : 0;
    turn ^= 1;
    return largest_in_warp(other);
  }

  static __device__ __forceinline__ u64 largest_in_warp(u64 best) {
#pragma unroll
    for (u32 step = 16; step; step >>= 1) {
      const u64 other = __shfl_xor_sync(0xffffffffu, best, step);
      best = other > best ? other : best;
    }
    return best;
  }

  /// The mass of a row whose scores have an order above `order`.
  template <class Measure> __device__ __forceinline__ u64 mass_above(const float *row, u32 order, const Measure &measure) {
    u64 mass = 0;
    for_row(row, vocab, [&](u32, float score) {
      if (order_of(score) > order) mass += measure(score);
    });
    return total({mass, 0}).mass;
  }

  template <class Measure> __device__ __forceinline__ u64 mass_of(const Cut &kept, const Measure &measure) {
    return mass_above(scores, kept.order, measure) + kept.ties * measure(value_of(kept.order));
  }

  /// Puts the orders from `low` to below `high` into shared memory, in any order; there are at most GATHERED.
  __device__ __forceinline__ void gather(u32 low, u32 high) {
    if (threadIdx.x == 0) memory.gathered = 0;
    __syncthreads();
    for_row(scores, vocab, [&](u32, float score) {
      const u32 order = order_of(score);
      if (order >= low && order < high) memory.orders[atomicAdd(&memory.gathered, 1u)] = order;
    });
    __syncthreads();
  }

  /// The cut at which the measure of what is kept first reaches `need`, at `within` at the lowest; no score has an order of `high` or
  /// above. Keeps `at least low, below high` around it and halves that until one order is left.
  template <class Measure> __device__ Cut find_cut(const Cut &within, u32 high, u64 need, const Measure &measure) {
    u32 low = within.order, inside = within.inside, above_count = 0;
    u64 above = 0;
    u32 gathered = 0;
    while (high - low > 1 && inside) {
      if (!gathered && inside <= GATHERED) {
        gather(low, high);
        gathered = inside;
      }
      const u32 middle = low + (high - low) / 2;
      Tally v = {0, 0};
      const auto count = [&](u32 order) {
        if (order >= middle && order < high) {
          v.mass += measure(value_of(order));
          v.count++;
        }
      };
      if (gathered) {
        for (u32 i = threadIdx.x; i < gathered; i += blockDim.x) count(memory.orders[i]);
      } else {
        for_row(scores, vocab, [&](u32, float score) { count(order_of(score)); });
      }
      v = total(v);
      if (above + v.mass >= need) {
        low = middle;
        inside = v.count;
      } else {
        high = middle;
        inside -= v.count;
        above += v.mass;
        above_count += v.count;
      }
    }
    const u64 each = measure(value_of(low));
    const u64 missing = each && need > above ? (need - above + each - 1) / each : inside;
    return {low, missing < inside ? (u32)missing : inside, above_count + inside};
  }

  /// The first id at which the measure of the ids up to it reaches `need`; `vocab` if it does not. `measure` is of a score. Each warp has
  /// a run of ids, and the one whose run holds the place walks through it.
  template <class Measure> __device__ u32 find_id(u64 need, const Measure &measure) {
    const u32 warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 run = (vocab + warps * 32 - 1) / (warps * 32) * 32, first = warp * run;
    const u32 end = first + run < vocab ? first + run : vocab;
    Tally mine = {0, 0};
#pragma unroll 4
    for (u32 id = first + lane; id < end; id += 32) mine.mass += measure(scores[id]);
    mine = in_warp(mine);
    if (lane == 0) memory.tallies[turn][warp] = mine;
    if (threadIdx.x == 0) memory.found = vocab;
    __syncthreads();
    u64 before = 0;
    for (u32 other = 0; other < warp; other++) before += memory.tallies[turn][other].mass;
    if (before < need && before + mine.mass >= need) {
      for (u32 base = first; base < end; base += 32) {
        u64 sum = base + lane < end ? measure(scores[base + lane]) : 0;
#pragma unroll
        for (u32 step = 1; step < 32; step <<= 1) {
          const u64 left = __shfl_up_sync(0xffffffffu, sum, step);
          if (lane >= step) sum += left;
        }
        const u32 reached = __ballot_sync(0xffffffffu, before + sum >= need);
        if (reached) {
          if (lane == 0) memory.found = base + __ffs(reached) - 1;
          break;
        }
        before += __shfl_sync(0xffffffffu, sum, 31);
      }
    }
    turn ^= 1;
    __syncthreads();
    return memory.found;
  }

  /// What top-k and top-p keep, and whether either of them says anything.
  __device__ __forceinline__ bool filter(const SampleSettings &how, u32 high, const Weighing &weigh, Cut &kept) {
    bool falling = false;
    if (how.top_k >= 1 && how.top_k < vocab) {
      kept = find_cut(kept, high, how.top_k, Counting());
      falling = true;
    }
    if (how.top_p < 1.0f) {
      const u64 mass = mass_of(kept, weigh), share = (u64)(how.top_p * (float)(1ull << 40));
      // mass * share / 2^40, rounded up.
      const u64 low = mass * share, need = (__umul64hi(mass, share) << 24 | low >> 40) + ((low & ((1ull << 40) - 1)) != 0);
      const Cut nucleus = find_cut(kept, high, need ? need : 1, weigh);
      const u32 most = nucleus.order == kept.order ? kept.ties : nucleus.ties;
      kept = {nucleus.order, nucleus.ties < most ? nucleus.ties : most, nucleus.inside};
      falling = true;
    }
    return falling;
  }

  /// A token drawn by its weight; `best`, the one of the largest score, if no token weighs anything. Where a filter puts the tokens in
  /// falling order they are drawn in that order, else by rising id.
  __device__ __forceinline__ u32 draw(const SampleSettings &how, float largest, u32 best) {
    const u32 high = order_of(largest) + 1;
    const Weighing weigh = {largest, how.temperature, 0.0f}, drawn = {largest, how.temperature, how.min_p};
    Cut kept = {FORBIDDEN, 0, vocab};
    const bool falling = filter(how, high, weigh, kept);
    const u64 mass = mass_of(kept, drawn);
    if (mass == 0) return best;
    const u64 random = philox_53_bits(how.seed, how.position);
    // The number in [0, 1) times the mass, rounded down: below the mass, so that the last token is within reach.
    const u64 need = (__umul64hi(random, mass) << 11 | (random * mass) >> 53) + 1;
    u32 id;
    if (falling) {
      const Cut place = find_cut(kept, high, need, drawn);
      id = find_id(place.ties, [&](float score) -> u64 { return order_of(score) == place.order; });
    } else {
      id = find_id(need, drawn);
    }
    return id < vocab ? id : best;
  }
};

/// The natural logarithm of a mass that is not 0, to 3e-7: m * 2^e with m near 1, and the series of the area hyperbolic tangent.
__device__ __forceinline__ float log_of_mass(u64 mass) {
  const int top = 63 - __clzll((long long)mass);
  const u32 mantissa = (u32)(mass << (63 - top) >> 40);
  const bool large = mantissa > 0xb504f3u;
  const float m = (float)mantissa * (large ? 5.9604645e-8f : 1.1920929e-7f);
  const float e = (float)(top - MASS_BITS + (large ? 1 : 0));
  const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
  float p = fmaf(0.11111111f, z, 0.14285715f);
  p = fmaf(p, z, 0.2f);
  p = fmaf(p, z, 0.33333334f);
  p = fmaf(p, z, 1.0f);
  return fmaf(e, 0.6931472f, (s + s) * p);
}
