// Rounding of a row of activations to q8x32 or to f16 under a power of two, bit for bit as the definition of the formats has it.
#pragma once
#include "mma.cuh"
#include "reduce.cuh"

/// How rows are rounded: a scale each 32 columns, a scale a row, or f16 stored as f32.
enum Rounding { ROUND_BLOCK = 1, ROUND_ROW = 2, ROUND_HALF = 3 };

/// The maximum over a block of WARPS warps, in every thread; patterns of non-negative floats are in their order. `scratch` holds
/// WARPS words.
template <u32 WARPS> __device__ __forceinline__ u32 block_max(u32 v, u32 *scratch) {
#pragma unroll
  for (u32 step = 16; step; step >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, step));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  v = scratch[0];
#pragma unroll
  for (u32 warp = 1; warp < WARPS; warp++) v = max(v, scratch[warp]);
  __syncthreads();
  return v;
}

/// The pattern of the greatest magnitude of a row.
template <u32 WIDTH, class Row> __device__ __forceinline__ u32 greatest_bits(const Row &row, u32 cols, u32 *scratch) {
  u32 greatest = 0;
  for (u32 c = threadIdx.x; c < cols; c += WIDTH) greatest = max(greatest, __float_as_uint(row(c)) & 0x7fffffffu);
  return block_max<WIDTH / 32>(greatest, scratch);
}

/// 2^(14-e) and 2^(e-14) of a row whose greatest magnitude has that pattern, e = floor(log2(magnitude)), at least -112; both 1 for rows
/// of zeros and rows that are not finite.
__device__ __forceinline__ void half_factors(u32 greatest, float &up, float &down) {
  up = down = 1.0f;
  if (greatest == 0 || greatest >= 0x7f800000u) return;
  const u32 exponent = max(greatest >> 23, 15u);
  up = __uint_as_float((268u - exponent) << 23);
  down = __uint_as_float((exponent - 14u) << 23);
}

/// Rounds 32 columns, one a lane; `group` is theirs of `groups`. Two correctly rounded divisions, ties to even, exact integer sums.
__device__ __forceinline__ void round_group(float x, float greatest, u32 group, u32 groups, u8 *out) {
  const float smallest = 127.0f * 0x1p-126f;
  const u32 lane = threadIdx.x % 32;
  float scale = 0.0f;
  int q = 0;
  if (greatest >= smallest) {
    scale = greatest / 127.0f;
    q = __float2int_rn(x * (127.0f / greatest));
  }
  int sum = q;
#pragma unroll
  for (u32 step = 8; step; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  out[(u64)group * 32 + lane] = (u8)q;
  float *scales = (float *)(out + (u64)groups * 32);
  if (lane == 0) scales[group] = scale;
  if (lane % 16 == 0) scales[(u64)groups + 2 * group + lane / 16] = scale * (float)sum;
}

/// Rounds a row to q8x32, a warp a group. `ROW_SCALE`: one scale serves the row.
template <u32 WIDTH, bool ROW_SCALE, class Row>
__device__ __forceinline__ void round_row_to_integers(const Row &row, u32 cols, u8 *out, u32 *scratch) {
  float shared = 0.0f;
  if constexpr (ROW_SCALE) shared = fmaxf(__uint_as_float(greatest_bits<WIDTH>(row, cols, scratch)), 1e-5f);
  const u32 groups = (cols + 31) / 32;
  for (u32 group = threadIdx.x / 32; group < groups; group += WIDTH / 32) {
    const u32 c = group * 32 + threadIdx.x % 32;
    const float x = c < cols ? row(c) : 0.0f;
    round_group(x, ROW_SCALE ? shared : warp_max(fabsf(x)), group, groups, out);
  }
}

/// Rounds a row to f16 under its power of two, stored as f32.
template <u32 WIDTH, class Row>
__device__ __forceinline__ void round_row_to_half(const Row &row, u32 cols, float *out, u32 *scratch) {
  float up, down;
  half_factors(greatest_bits<WIDTH>(row, cols, scratch), up, down);
  for (u32 c = threadIdx.x; c < cols; c += WIDTH) out[c] = float_of_f16(f16_of_float(row(c) * up)) * down;
}

/// Rounds row number `index` of a result as HOW says; `out` is the result's first row.
template <u32 WIDTH, int HOW, class Row>
__device__ __forceinline__ void round_row(const Row &row, u32 index, u32 cols, void *out, u32 *scratch) {
  if constexpr (HOW == ROUND_HALF) {
    round_row_to_half<WIDTH>(row, cols, (float *)out + (u64)index * cols, scratch);
  } else {
    const u64 row_bytes = (u64)((cols + 31) / 32) * 44;
    round_row_to_integers<WIDTH, HOW == ROUND_ROW>(row, cols, (u8 *)out + index * row_bytes, scratch);
  }
}
