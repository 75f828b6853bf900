// Elementary functions in single precision, operation for operation those of the native kernels, so that both give the same bits.
//
// Straight-line code over fmaf: no table, no slow path, no local memory; the hardware's approximations would differ from one
// architecture to the next.
#pragma once
#include "launch.cuh"

/// e^x with relative error below 2e-7 for x in -87..=88; 0 below, infinite above. NaN stays NaN. Cody-Waite reduction and a
/// polynomial of degree 6.
__device__ __forceinline__ float exp_of(float x) {
  const float round = 12582912.0f;  // Adding it leaves the nearest integer in the low bits.
  const float above = x < -87.0f ? -87.0f : x, clamped = above > 88.0f ? 88.0f : above;
  const float shifted = fmaf(clamped, 1.44269504f, round), n = shifted - round;
  const float r = fmaf(-n, -2.1219444e-4f, fmaf(-n, 0.6933594f, clamped));
  float p = fmaf(1.9875691e-4f, r, 1.3982e-3f);
  p = fmaf(p, r, 8.333452e-3f);
  p = fmaf(p, r, 4.1665796e-2f);
  p = fmaf(p, r, 1.6666665e-1f);
  p = fmaf(p, r, 5e-1f);
  const float e = fmaf(p, r * r, r) + 1.0f;
  const float scale = __uint_as_float((__float_as_uint(shifted) - __float_as_uint(round) + 127u) << 23);
  const float finite = x > 88.0f ? __uint_as_float(0x7f800000u) : e * scale;
  return x < -87.0f ? 0.0f : finite;
}

/// 1 / (1 + e^-x).
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + exp_of(-x)); }

/// x / (1 + e^-x).
__device__ __forceinline__ float silu(float x) { return x / (1.0f + exp_of(-x)); }

/// tanh(x) to 2 ulp. Near 0, where the exponentials would cancel, a polynomial of degree 11.
__device__ __forceinline__ float tanh_of(float x) {
  const float t = exp_of(-2.0f * fabsf(x)), s = x * x;
  const float far = copysignf((1.0f - t) / (1.0f + t), x);
  float p = fmaf(-6.045165e-3f, s, 2.096133e-2f);
  p = fmaf(p, s, -5.3843264e-2f);
  p = fmaf(p, s, 1.3332719e-1f);
  p = fmaf(p, s, -3.3333328e-1f);
  return fabsf(x) < 0.6f ? fmaf(p * s, x, x) : far;
}

/// softcap * tanh(x / softcap).
__device__ __forceinline__ float soft_capped(float x, float softcap) { return softcap * tanh_of(x / softcap); }

/// x * Phi(x), the Gaussian error linear unit, to 6 ulp for x above -13; 0 below. Phi(-|x|) = e^(-x^2/2) * Q(1 / (1 + |x|/4)).
__device__ __forceinline__ float gelu(float x) {
  const float a = fabsf(x), t = 1.0f / fmaf(a, 0.25f, 1.0f);
  float q = fmaf(1.4993632e-2f, t, -5.412951e-2f);
  q = fmaf(q, t, 3.1143045e-2f);
  q = fmaf(q, t, 5.6012694e-2f);
  q = fmaf(q, t, -1.0455066e-2f);
  q = fmaf(q, t, 9.924573e-2f);
  q = fmaf(q, t, 6.758127e-2f);
  q = fmaf(q, t, 9.648022e-2f);
  q = fmaf(q, t, 9.937381e-2f);
  q = fmaf(q, t, 9.9754184e-2f);
  // `low` is what squaring rounded away, as the exponential would magnify it.
  const float s = a * a, low = fmaf(a, a, -s), e = exp_of(-0.5f * s);
  const float tail = fmaf(-0.5f * low, e, e) * (q * t);
  const float positive = x < 0.0f ? 0.0f : x;
  // Past 13 e is 0, and squares and products of what is left may be infinite.
  return a > 13.0f ? positive : fmaf(-a, tail, positive);
}

/// The tanh form of gelu, written as x * sigmoid of twice the argument, which does not cancel.
__device__ __forceinline__ float gelu_tanh(float x) {
  return x / (1.0f + exp_of(-(x * fmaf(x * x, 7.1354816e-2f, 1.5957692f))));
}

/// The kinds of activation(gate) * up, numbered as GateUpParams numbers them.
enum Activation { SILU, GELU_TANH, GELU, RELU2, CLAMPED_SWIGLU };

/// activation(gate) * up; `limit` is that of clamped_swiglu (the gate of gpt-oss).
template <int KIND> __device__ __forceinline__ float activated(float gate, float up, float limit) {
  if constexpr (KIND == SILU) return silu(gate) * up;
  if constexpr (KIND == GELU_TANH) return gelu_tanh(gate) * up;
  if constexpr (KIND == GELU) return gelu(gate) * up;
  if constexpr (KIND == RELU2) {
    const float positive = gate < 0.0f ? 0.0f : gate;
    return positive * positive * up;
  }
  // Comparisons, as minima would hide a NaN.
  const float g = gate > limit ? limit : gate, upper = up > limit ? limit : up;
  return ((upper < -limit ? -limit : upper) + 1.0f) * (g * sigmoid(1.702f * g));
}
