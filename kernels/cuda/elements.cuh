// Single elements of packed weights: where a row and column lie in the fragments layout, and their value, each operation rounded
// as the definition of the formats writes it. For kernels that read rows, not products: a thread reads the word that holds its
// element.
#pragma once
#include "mma.cuh"

namespace elements {

/// The place of one element in its tile of 16 rows: row g or g + 8 (lower), column 16 i + 4 t + k of chunk `chunk`.
struct Place {
  const u8 *tile;
  u64 chunk, scales;  // number of the chunk; offset of the tile's scales
  u32 g, lower, i, t, k, column;

  __device__ __forceinline__ Place(const u8 *tile, u32 row, u32 c, u64 scales)
      : tile(tile), chunk(c / 64), scales(scales), g(row % 8), lower(row / 8 % 2), i(c % 64 / 16), t(c % 16 / 4), k(c % 4),
        column(c) {}

  /// The lane that holds it, and its fragment register.
  __device__ __forceinline__ u32 lane() const { return 4 * g + t; }
  __device__ __forceinline__ u32 fragment() const { return lower + 2 * (k / 2); }
  /// Of 16 rows stored as 0, 8, 1, 9, ... the row's.
  __device__ __forceinline__ u32 pair_row() const { return 2 * g + lower; }
};

/// The integer of a plane of BITS = 1, 2 or 4, which starts `plane` bytes into chunks of CHUNK bytes.
template <u32 BITS, u32 CHUNK> __device__ __forceinline__ u32 field(const Place &e, u32 plane = 0) {
  const u32 word = *(const u32 *)(e.tile + e.chunk * CHUNK + plane + 4 * BITS * e.lane() + 4 * (e.i * BITS / 4));
  return word >> (4 * BITS * (e.i % (4 / BITS)) + BITS * e.fragment() + 16 * (e.k % 2)) & ((1u << BITS) - 1);
}

/// The integer of a plane of 8 bits.
__device__ __forceinline__ u32 byte(const Place &e) {
  return e.tile[e.chunk * 1024 + 512 * (e.i / 2) + 16 * e.lane() + 8 * (e.i % 2) + 4 * (e.k / 2) + e.lower + 2 * (e.k % 2)];
}

/// A float of 16 bits, as its pattern.
__device__ __forceinline__ u16 half_word(const Place &e) {
  return *(const u16 *)(e.tile + e.chunk * 2048 + 512 * e.i + 16 * e.lane() + 4 * e.fragment() + 2 * (e.k % 2));
}

/// The row's element of vector number `vector` of f16, f32 or bytes, `step` bytes into the scales.
__device__ __forceinline__ float half_scale(const Place &e, u64 step, u32 vector = 0) {
  return float_of_f16(*(const u16 *)(e.tile + e.scales + step + 32 * vector + 2 * e.pair_row()));
}
__device__ __forceinline__ float single_scale(const Place &e, u64 step) {
  return *(const float *)(e.tile + e.scales + step + 4 * e.pair_row());
}
__device__ __forceinline__ u8 byte_scale(const Place &e, u64 step, u32 vector = 0) {
  return e.tile[e.scales + step + 16 * vector + e.pair_row()];
}

/// Floats.
struct f32 {
  static constexpr u32 CHUNK = 4096;
  static __device__ __forceinline__ float value(const Place &e) {
    return *(const float *)(e.tile + e.chunk * CHUNK + 512 * (2 * e.i + e.lower) + 16 * e.lane() + 4 * e.k);
  }
};
struct f16 {
  static constexpr u32 CHUNK = 2048;
  static __device__ __forceinline__ float value(const Place &e) { return float_of_f16(half_word(e)); }
};
struct bf16 {
  static constexpr u32 CHUNK = 2048;
  static __device__ __forceinline__ float value(const Place &e) { return __uint_as_float((u32)half_word(e) << 16); }
};

/// Integers of 4 bits less 8, an f16 scale every COLUMNS.
template <u32 COLUMNS> struct Symmetric4 {
  static constexpr u32 CHUNK = 512;
  static __device__ __forceinline__ float value(const Place &e) {
    return (float)((int)field<4, CHUNK>(e) - 8) * half_scale(e, (u64)(e.column / COLUMNS) * 32);
  }
};
typedef Symmetric4<32> q4_0;
typedef Symmetric4<64> q4g64;
typedef Symmetric4<128> q4g128;

/// Integers of 4 bits, an f16 scale and an integer zero every COLUMNS.
template <u32 COLUMNS> struct Zeroed4 {
  static constexpr u32 CHUNK = 512;
  static __device__ __forceinline__ float value(const Place &e) {
    const u64 step = (u64)(e.column / COLUMNS) * 48;
    const float d = half_scale(e, step);
    return (float)field<4, CHUNK>(e) * d - (float)byte_scale(e, step + 32) * d;
  }
};
typedef Zeroed4<32> q4z32;
typedef Zeroed4<64> q4z64;
typedef Zeroed4<128> q4z128;

/// The fifth bit of an integer.
__device__ __forceinline__ u32 five_bits(const Place &e) { return field<4, 640>(e) | field<1, 640>(e, 512) << 4; }

struct q5_0 {
  static constexpr u32 CHUNK = 640;
  static __device__ __forceinline__ float value(const Place &e) {
    return (float)((int)five_bits(e) - 16) * half_scale(e, (u64)(e.column / 32) * 32);
  }
};

/// An f16 scale and an f16 minimum every 32 columns.
__device__ __forceinline__ float affine(const Place &e, u32 q) {
  const u64 step = (u64)(e.column / 32) * 64;
  return (float)q * half_scale(e, step) + half_scale(e, step, 1);
}
struct q4_1 {
  static constexpr u32 CHUNK = 512;
  static __device__ __forceinline__ float value(const Place &e) { return affine(e, field<4, CHUNK>(e)); }
};
struct q5_1 {
  static constexpr u32 CHUNK = 640;
  static __device__ __forceinline__ float value(const Place &e) { return affine(e, five_bits(e)); }
};

/// Every 256 columns an f16 scale of scales and one of minima, then for each 32 a scale and a minimum of 6 bits.
__device__ __forceinline__ float affine_k(const Place &e, u32 q) {
  const u64 step = (u64)(e.column / 256) * 320;
  const u32 group = e.column % 256 / 32;
  const float scale = half_scale(e, step) * (float)byte_scale(e, step + 64, 2 * group);
  return scale * (float)q - half_scale(e, step, 1) * (float)byte_scale(e, step + 64, 2 * group + 1);
}
struct q4_k {
  static constexpr u32 CHUNK = 512;
  static __device__ __forceinline__ float value(const Place &e) { return affine_k(e, field<4, CHUNK>(e)); }
};
struct q5_k {
  static constexpr u32 CHUNK = 640;
  static __device__ __forceinline__ float value(const Place &e) { return affine_k(e, five_bits(e)); }
};

/// Every 256 columns an f16 scale of scales, then for each 16 a signed scale of 8 bits.
struct q6_k {
  static constexpr u32 CHUNK = 768;
  static __device__ __forceinline__ float value(const Place &e) {
    const u64 step = (u64)(e.column / 256) * 288;
    const float scale = half_scale(e, step) * (float)(signed char)byte_scale(e, step + 32, e.column % 256 / 16);
    const u32 q = field<4, CHUNK>(e) | field<2, CHUNK>(e, 512) << 4;
    return scale * (float)((int)q - 32);
  }
};

struct q8_0 {
  static constexpr u32 CHUNK = 1024;
  static __device__ __forceinline__ float value(const Place &e) {
    return (float)((int)byte(e) - 128) * half_scale(e, (u64)(e.column / 32) * 32);
  }
};
struct q8c {
  static constexpr u32 CHUNK = 1024;
  static __device__ __forceinline__ float value(const Place &e) { return (float)((int)byte(e) - 128) * single_scale(e, 0); }
};

/// The fields of the code, moved to where f32 has them, are its value times 2^-120.
struct f8_e4m3 {
  static constexpr u32 CHUNK = 1024;
  static __device__ __forceinline__ float value(const Place &e) {
    const u32 code = byte(e);
    const float magnitude = __uint_as_float((code & 0x7f) << 20) * 0x1p120f;
    const float q = __uint_as_float(__float_as_uint(magnitude) | (code & 0x80) << 24);
    return q * single_scale(e, (u64)(e.column / 128) * 64);
  }
};

/// Twice the value of E2M1 is a whole number: 0, 1, 2, 3, 4, 6, 8 or 12, here the nibbles of a word. Negative zero is zero.
struct mxfp4 {
  static constexpr u32 CHUNK = 512;
  static __device__ __forceinline__ float value(const Place &e) {
    const u32 code = field<4, CHUNK>(e);
    const int magnitude = (int)(0xc8643210u >> (4 * (code & 7)) & 15);
    // 2^-127, the least power, is no normal number.
    const float power = fmaxf(__uint_as_float((u32)byte_scale(e, (u64)(e.column / 32) * 16) << 23), 0x1p-127f);
    return (float)(code & 8 ? -magnitude : magnitude) * (0.5f * power);
  }
};

struct t2 {
  static constexpr u32 CHUNK = 256;
  static __device__ __forceinline__ float value(const Place &e) {
    return (float)((int)field<2, CHUNK>(e) - 1) * single_scale(e, 0);
  }
};

}  // namespace elements
