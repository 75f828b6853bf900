// Philox4x32-10, a counter-based random number generator: a number is a function of (seed, position) alone, so a sequence draws the same
// numbers whatever shares its batch. J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
#pragma once
#include "launch.cuh"

/// 53 random bits: the numerator of a number in [0, 1) over 2^53.
__device__ __forceinline__ u64 philox_53_bits(u64 seed, u64 position) {
  u32 c0 = (u32)position, c1 = (u32)(position >> 32), c2 = 0, c3 = 0, k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
  for (u32 round = 0; round < 10; round++) {
    const u64 a = (u64)0xd2511f53u * c0, b = (u64)0xcd9e8d57u * c2;
    c0 = (u32)(b >> 32) ^ c1 ^ k0;
    c1 = (u32)b;
    c2 = (u32)(a >> 32) ^ c3 ^ k1;
    c3 = (u32)a;
    // Weyl sequences of the golden ratio and of sqrt(3) - 1.
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return ((u64)c0 << 32 | c1) >> 11;
}
