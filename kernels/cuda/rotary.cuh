// Rotary embedding: sine and cosine of any angle, and the turn of one pair.
#pragma once
#include "launch.cuh"

/// Sine and cosine of an angle in radians, 0 <= |angle| < 2^31, absolute error below 1e-6.
///
/// The angle is reduced in integers: its mantissa times 2/pi as a fraction of 64 bits, of which the integer part names the quarter
/// and the rest, centred, is exact to 2^-33 of one (after Payne and Hanek, 1983; with angles bounded one product of 64 bits is enough). Costs ten
/// integer instructions, no table, and no f64, which most GPUs have at 1/64 of the rate of f32.
__device__ __forceinline__ void sine_cosine(float angle, float &sine, float &cosine) {
  const u32 bits = __float_as_uint(angle) & 0x7fffffffu;
  const int exponent = (int)(bits >> 23) - 150;  // |angle| = mantissa * 2^exponent, mantissa < 2^24
  const u64 mantissa = bits >> 23 ? (bits & 0x7fffffu) | 0x800000u : 0;
  const u64 two_over_pi = 0xa2f9836e4e441529ull;  // 2/pi * 2^64
  const u64 scaled = exponent > 0 ? mantissa << min(exponent, 7) : mantissa;
  u64 whole = __umul64hi(scaled, two_over_pi), fraction = scaled * two_over_pi;
  if (exponent < 0) {
    const u32 down = min(-exponent, 63);
    fraction = fraction >> down | whole << (64 - down);
    whole >>= down;
  }
  const u32 quarter = (u32)whole + (u32)(fraction >> 63);
  // In -1/2..1/2 of a quarter; small angles keep all their bits.
  const float rest = (float)(long long)fraction * 0x1p-64f * 1.57079637f;
  const float r = quarter ? rest : fabsf(angle), s = r * r;
  const float sin_r = fmaf(fmaf(fmaf(-1.9515296e-4f, s, 8.332161e-3f), s, -1.6666655e-1f), s * r, r);
  const float cos_r = fmaf(fmaf(fmaf(2.4433157e-5f, s, -1.3887316e-3f), s, 4.1666646e-2f), s * s, fmaf(-0.5f, s, 1.0f));
  const float first = quarter & 1 ? cos_r : sin_r, second = quarter & 1 ? sin_r : cos_r;
  const float magnitude = quarter & 2 ? -first : first;
  sine = angle < 0.0f ? -magnitude : magnitude;
  cosine = (quarter + 1) & 2 ? -second : second;
}

/// Sine and cosine, by `scale`, of pair i of a token: the angle is position * inv_freq rounded to f32, as models are trained with it.
/// Kernels give their parameter struct, of which positions, inv_freq, table, tables, pairs and scale are read. A table that does not exist counts
/// as table 0.
template <class Params>
__device__ __forceinline__ void rotation(const Params &p, u32 token, u32 i, float &sine, float &cosine) {
  u32 table = 0;
  if (p.table) {
    const u32 named = (u32)p.table[token];
    table = named < p.tables ? named : 0;
  }
  sine_cosine((float)p.positions[token] * p.inv_freq[(u64)table * p.pairs + i], sine, cosine);
  sine *= p.scale;
  cosine *= p.scale;
}

/// The two dimensions of pair i: neighbours, or the dimension and its counterpart in the second half.
__device__ __forceinline__ void pair_dimensions(u32 i, u32 pairs, bool interleaved, u32 &first, u32 &second) {
  first = interleaved ? 2 * i : i;
  second = interleaved ? 2 * i + 1 : i + pairs;
}

/// Turns a pair.
__device__ __forceinline__ void turn(float &a, float &b, float sine, float cosine) {
  const float first = fmaf(a, cosine, -(b * sine));
  b = fmaf(a, sine, b * cosine);
  a = first;
}
