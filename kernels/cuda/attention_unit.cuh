// The arithmetic of attention, for 16 rows and one unit of 64 positions: what every launch of it does, whatever its tiles.
//
// A unit: scores s = q k (f32 sums over ascending dimensions), capped, masked; m = their greatest, p = 2^(s - m), l = sum of p, o = p v
// (f32 sums over ascending positions). Scores are in units of log2: exponentials are to base 2. A state (m, l, o) takes in another
// one, Fold, as Milakov and Gimelshein ("Online normalizer calculation for softmax", 2018): units in order into their segment of 256
// positions, segments in order into the result. m is finite always, so that a unit in which a row sees nothing (m lowest, l = 0,
// o = 0) changes nothing. Rows of an mma do not touch each other: a row's bits are the same in every tile.
//
// A position that is not seen weighs 0, and 0 times what it holds must be 0: chunks are zero where nobody of a tile looks. What is left is
// an infinite value: it makes NaN of earlier tokens of its own sequence that share its tile, never of another sequence.
//
// Lane 4g + t holds, of rows g and g + 8, the positions 2t and 2t + 1 of each 8.
#pragma once
#include "attention_chunks.cuh"
#include "math.cuh"

constexpr float LOWEST = -3.402823466e38f;
constexpr float LOG2_E = 1.44269504f;

/// 2^x: one instruction, relative error below 2^-22; 2^0 is 1 and 2^-inf is 0.
__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// What queries are multiplied by before their scores: log2 of the base comes after the cap, if there is one.
__device__ __forceinline__ float query_scale(const AttentionParams &p) { return p.softcap > 0.0f ? p.scale : p.scale * LOG2_E; }

/// d += a b over one k16 tile, of operands in parts; of three parts each the products that f32 can tell, small ones first.
__device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[PARTS][4], const u32 (&b)[PARTS][4], u32 pair) {
  if constexpr (PARTS == 1) {
    mma_f16(d, a[0], b[0][2 * pair], b[0][2 * pair + 1]);
  } else {
#pragma unroll
    for (u32 order = PARTS; order-- > 0;) {
#pragma unroll
      for (u32 i = 0; i <= order; i++) mma_bf16(d, a[i], b[order - i][2 * pair], b[order - i][2 * pair + 1]);
    }
  }
}

/// Adds a chunk's products of queries and keys to the scores of TILES times 8 positions from 8 * `first` on.
template <u32 CHUNK, u32 TILES>
__device__ __forceinline__ void add_scores(float (&s)[TILES][4], u32 queries, u32 stage, u32 chunk, u32 first) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (u32 k = 0; k < CHUNK; k += 16) {
    if (chunk * CHUNK + k >= KEY_DIMS) break;
    u32 a[PARTS][4];
#pragma unroll
    for (u32 part = 0; part < PARTS; part++)
      ldmatrix_x4(a[part], queries + (part * 16 + lane % 16) * QUERY_ROW + 2 * (chunk * CHUNK + k) + lane / 16 * 16);
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile += 2) {
      u32 b[PARTS][4];
#pragma unroll
      for (u32 part = 0; part < PARTS; part++)
        ldmatrix_x4_trans(b[part], stage + part * Chunks<CHUNK>::KEY_PART + key_piece(k + lane % 16, first + tile + lane / 16));
      multiply(s[tile], a, b, 0);
      multiply(s[tile + 1], a, b, 1);
    }
  }
}

/// Weights of a unit, 16 rows of 64 positions, as the left operand of an mma.
struct Weights {
  u32 tile[4][PARTS][4];

  /// Eight weights of a lane: those of positions 16k and of 16k + 8 on.
  __device__ __forceinline__ void set(u32 k, const float (&lower)[4], const float (&upper)[4]) {
    const float pairs[4][2] = {{lower[0], lower[1]}, {lower[2], lower[3]}, {upper[0], upper[1]}, {upper[2], upper[3]}};
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      float lo = pairs[i][0], hi = pairs[i][1];
      if constexpr (PARTS == 1) {
        tile[k][0][i] = pack_f16(lo, hi);
      } else {
#pragma unroll
        for (u32 part = 0; part < PARTS; part++) {
          tile[k][part][i] = pack_bf16(lo, hi);
          lo -= unpack_bf16_lo(tile[k][part][i]);
          hi -= unpack_bf16_hi(tile[k][part][i]);
        }
      }
    }
  }
};

/// What a row sees: positions first to last; if there is no such row, none, as `first` is beyond all.
struct Seen {
  u32 first, last;

  template <u32 ROWS> __device__ __forceinline__ Seen(const AttentionParams &p, const Rows<ROWS> &rows, u32 row) {
    last = (u32)p.positions[rows.token] + row / Rows<ROWS>::HEADS;
    first = p.window && last >= p.window ? last + 1 - p.window : 0;
    if (row >= rows.count) first = 0xffffffffu;
  }

  __device__ __forceinline__ bool sees(u32 position) const { return position >= first && position <= last; }
  __device__ __forceinline__ bool sees_all(u32 unit) const { return unit * UNIT >= first && unit * UNIT + UNIT - 1 <= last; }
  __device__ __forceinline__ bool sees_some(u32 unit) const { return unit * UNIT <= last && unit * UNIT + UNIT > first; }
};

/// The greatest score and the sum of the weights relative to it.
struct Softmax {
  float m, l;

  static __device__ __forceinline__ Softmax nothing() { return {LOWEST, 0.0f}; }
};

/// How a state and one it takes in are weighted.
struct Fold {
  float old, fresh;

  /// Of `state`, which takes in `unit`.
  __device__ __forceinline__ Fold(Softmax &state, const Softmax &unit) {
    const float m = fmaxf(state.m, unit.m);
    old = exp2_of(state.m - m);
    fresh = exp2_of(unit.m - m);
    state.l = fmaf(unit.l, fresh, state.l * old);
    state.m = m;
  }

  __device__ __forceinline__ float operator()(float state, float unit) const { return fmaf(unit, fresh, state * old); }
};

/// Caps the scores of rows g and g + 8 and selects what they see; the factors become those of capped scores.
__device__ __forceinline__ void cap_and_mask(float (&s)[8][4], float softcap, const Seen &low, const Seen &high, u32 unit,
                                             float (&factors)[2]) {
  if (softcap > 0.0f) {
    const float inverse = 1.0f / softcap;
#pragma unroll
    for (u32 tile = 0; tile < 8; tile++) {
#pragma unroll
      for (u32 i = 0; i < 4; i++) s[tile][i] = softcap * tanh_of(s[tile][i] * (factors[i / 2] * inverse)) * LOG2_E;
    }
    factors[0] = factors[1] = 1.0f;
  }
  if (__all_sync(0xffffffffu, low.sees_all(unit) && high.sees_all(unit))) return;
  const float unseen = __uint_as_float(0xff800000u);
  const u32 position = unit * UNIT + threadIdx.x % 4 * 2;
#pragma unroll
  for (u32 tile = 0; tile < 8; tile++) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) s[tile][i] = (i < 2 ? low : high).sees(position + 8 * tile + i % 2) ? s[tile][i] : unseen;
  }
}

/// The greater or the sum over the four lanes that share a row: the same bits in each.
__device__ __forceinline__ float row_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
  return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}
__device__ __forceinline__ float row_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/// Turns a unit's scores into weights. Factors are powers of two, so that their products are exact.
__device__ __forceinline__ Weights weigh(float (&s)[8][4], const float (&factors)[2], Softmax (&softmax)[2]) {
#pragma unroll
  for (u32 row = 0; row < 2; row++) {
    float greatest = LOWEST;
#pragma unroll
    for (u32 tile = 0; tile < 8; tile++) greatest = fmaxf(greatest, fmaxf(s[tile][2 * row], s[tile][2 * row + 1]));
    const float m = fminf(fmaxf(row_max(greatest) * factors[row], LOWEST), -LOWEST);
    float l = 0.0f;
#pragma unroll
    for (u32 tile = 0; tile < 8; tile++) {
#pragma unroll
      for (u32 i = 2 * row; i < 2 * row + 2; i++) {
        s[tile][i] = exp2_of(fmaf(s[tile][i], factors[row], -m));
        l += s[tile][i];
      }
    }
    softmax[row] = {m, row_sum(l)};
  }
  Weights weights;
#pragma unroll
  for (u32 k = 0; k < 4; k++) weights.set(k, s[2 * k], s[2 * k + 1]);
  return weights;
}

/// The unit's weighted sum of 8 columns of values, from `column` of the chunk on.
template <u32 CHUNK> __device__ __forceinline__ void weighted_values(float (&o)[4], const Weights &weights, u32 stage, u32 column) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (u32 i = 0; i < 4; i++) o[i] = 0.0f;
#pragma unroll
  for (u32 half = 0; half < 2; half++) {
    u32 b[PARTS][4];
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) {
      if constexpr (LATENT) {
        ldmatrix_x4(b[part], stage + part * Chunks<CHUNK>::KEY_PART + key_piece(column + lane % 8, 4 * half + lane / 8));
      } else {
        const u32 row = stage + part * Chunks<CHUNK>::VALUE_PART + (32 * half + lane) * Chunks<CHUNK>::VALUE_ROW;
        ldmatrix_x4_trans(b[part], row + 2 * column);
      }
    }
    multiply(o, weights.tile[2 * half], b, 0);
    multiply(o, weights.tile[2 * half + 1], b, 1);
  }
}

/// What sums of values are multiplied by in the end. A sink joins the sum of weights here, once; an infinite one is the greatest or
/// least number.
__device__ __forceinline__ float output_factor(const AttentionParams &p, Softmax state, u32 head) {
  if (!p.sinks) return 1.0f / state.l;
  const Fold fold(state, Softmax{fminf(fmaxf(p.sinks[head] * LOG2_E, LOWEST), -LOWEST), 1.0f});
  return fold.old / state.l;
}

/// An output: + 0 makes -0 and 0 one, between which units not seen could decide.
__device__ __forceinline__ float output(float sum, float factor) { return (sum + 0.0f) * factor; }
