// Weights in the fragments layout (ir/src/quant/fragments.rs) as operands of mma.m16n8k16: one specialisation of Dequant a format.
//
// A chunk is 16 rows by 64 columns: four k16 tiles. A lane (4 g + t) holds of each tile the columns 4t to 4t + 3 of rows g and g + 8. Integers become f16
// exactly, by putting them into the mantissa of 1024 (after Kim et al., "Who Says Elephants Can't Run", 2022); scales are applied in f32 after the products
// of a group, so that weights have the very values the format defines. Formats with a minimum have it multiplied by the sum of x over
// the group. bf16 and f32 weights are bf16 operands, f32 ones as the sum of three.
#pragma once
#include "mma.cuh"

/// One tag a format, by its name in the compiler.
namespace formats {
struct f32;
struct f16;
struct bf16;
struct q4_0;
struct q4_1;
struct q5_0;
struct q5_1;
struct q8_0;
struct q4_k;
struct q5_k;
struct q6_k;
struct q4g64;
struct q4g128;
struct q4z32;
struct q4z64;
struct q4z128;
struct q8c;
struct f8_e4m3;
struct mxfp4;
struct t2;
} // namespace formats

/// Loads of weights from global memory: read once, so they pass by L1. Weights are written by no launch.
struct GlobalLoad {
  static __device__ __forceinline__ uint4 load16(const u8 *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
  }
  static __device__ __forceinline__ uint2 load8(const u8 *p) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
  }
  static __device__ __forceinline__ u32 load4(const u8 *p) {
    u32 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
  }
  /// Scales: a sector serves eight rows of several groups, so they may stay in L1.
  static __device__ __forceinline__ uint2 scale8(const u8 *p) {
    uint2 v;
    asm volatile("ld.global.nc.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
  }
  static __device__ __forceinline__ u32 scale4(const u8 *p) {
    u32 v;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
  }
  static __device__ __forceinline__ u32 scale2(const u8 *p) {
    u16 v;
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
  }
};

/// Loads of weights that stand in shared memory.
struct SharedLoad {
  static __device__ __forceinline__ uint4 load16(const u8 *p) { return *(const uint4 *)p; }
  static __device__ __forceinline__ uint2 load8(const u8 *p) { return *(const uint2 *)p; }
  static __device__ __forceinline__ u32 load4(const u8 *p) { return *(const u32 *)p; }
  static __device__ __forceinline__ uint2 scale8(const u8 *p) { return load8(p); }
  static __device__ __forceinline__ u32 scale4(const u8 *p) { return load4(p); }
  static __device__ __forceinline__ u32 scale2(const u8 *p) { return *(const u16 *)p; }
};

/// A number of which the compiler knows nothing. Where it knew the low bits to be zeros it would or each offset in and keep every sum in a register,
/// instead of in the instructions that load.
__device__ __forceinline__ u32 opaque(u32 v) {
  asm("" : "+r"(v));
  return v;
}

/// (a & mask) | bits in one instruction: lop3 table 0xea.
__device__ __forceinline__ u32 and_or(u32 a, u32 mask, u32 bits) {
  u32 r;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "r"(mask), "r"(bits));
  return r;
}

__device__ __forceinline__ u32 fma_f16x2(u32 a, u32 b, u32 c) {
  u32 r;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}

/// The two f16 of a word as f32: lower, upper.
__device__ __forceinline__ float2 f16x2_to_float2(u32 v) {
  float2 r;
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(r.x), "=f"(r.y) : "r"(v));
  return r;
}

/// The two bf16 of a word as f32: lower, upper.
__device__ __forceinline__ float2 bf16x2_to_float2(u32 v) { return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)); }

/// Byte I of a word as f32: put into the mantissa of 2^23. As fast as any addition, which conversions are not.
template <u32 I> __device__ __forceinline__ float float_of_byte(u32 word) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + I)) - 8388608.0f;
}

namespace dequant {
/// Nibbles 0..3 and 4..7 of a word, less the zeros of rows g and g + 8, as the four registers of a fragment.
__device__ __forceinline__ void nibbles(u32 w, u32 zero_low, u32 zero_high, u32 (&a)[4]) {
  // 1024 + n less 1024 + zero; (1024 + 16 n) / 16 less 64 + zero.
  const u32 above = w >> 8, low = 0x64006400u + zero_low * 0x00010001u, high = 0xd400d400u + zero_high * 0x00100010u;
  a[0] = sub_f16x2(and_or(w, 0x000f000fu, 0x64006400u), low);
  a[1] = fma_f16x2(and_or(w, 0x00f000f0u, 0x64006400u), 0x2c002c00u, high);
  a[2] = sub_f16x2(and_or(above, 0x000f000fu, 0x64006400u), low);
  a[3] = fma_f16x2(and_or(above, 0x00f000f0u, 0x64006400u), 0x2c002c00u, high);
}

/// Nibbles with further bits above them, which stand in `more` as lower and upper bit 16 apart, `step` bits from one register to the next.
template <u32 MASK, u32 STEP> __device__ __forceinline__ void wide_nibbles(u32 w, u32 more, u32 zero, u32 (&a)[4]) {
  const u32 offset = 0x64006400u + zero * 0x00010001u;
#pragma unroll
  for (u32 j = 0; j < 4; j++) {
    const u32 high = ((more >> (STEP * j)) & (MASK * 0x00010001u)) << 4;
    a[j] = sub_f16x2(and_or(w >> (4 * j), 0x000f000fu, 0x64006400u) | high, offset);
  }
}

/// Bytes, less 128.
__device__ __forceinline__ void bytes(u32 first, u32 second, u32 (&a)[4]) {
  a[0] = sub_f16x2(and_or(first, 0x00ff00ffu, 0x64006400u), 0x64806480u);
  a[1] = sub_f16x2(and_or(first >> 8, 0x00ff00ffu, 0x64006400u), 0x64806480u);
  a[2] = sub_f16x2(and_or(second, 0x00ff00ffu, 0x64006400u), 0x64806480u);
  a[3] = sub_f16x2(and_or(second >> 8, 0x00ff00ffu, 0x64006400u), 0x64806480u);
}

/// E4M3 as f16, 2^-8 of its value: sign, exponent and mantissa moved to their places.
__device__ __forceinline__ void e4m3(u32 first, u32 second, u32 (&a)[4]) {
  a[0] = and_or(first << 7, 0x3f803f80u, (first << 8) & 0x80008000u);
  a[1] = and_or(first >> 1, 0x3f803f80u, first & 0x80008000u);
  a[2] = and_or(second << 7, 0x3f803f80u, (second << 8) & 0x80008000u);
  a[3] = and_or(second >> 1, 0x3f803f80u, second & 0x80008000u);
}

/// E2M1 as f16, 2^-14 of its value.
__device__ __forceinline__ void e2m1(u32 w, u32 (&a)[4]) {
  a[0] = and_or(w << 9, 0x0e000e00u, (w << 12) & 0x80008000u);
  a[1] = and_or(w << 5, 0x0e000e00u, (w << 8) & 0x80008000u);
  a[2] = and_or(w << 1, 0x0e000e00u, (w << 4) & 0x80008000u);
  a[3] = and_or(w >> 3, 0x0e000e00u, w & 0x80008000u);
}

/// 2-bit integers less 1, of the lower byte of each half.
__device__ __forceinline__ void ternary(u32 w, u32 (&a)[4]) {
  a[0] = sub_f16x2(and_or(w, 0x00030003u, 0x64006400u), 0x64016401u);                        // 1024 + c - 1025
  a[1] = fma_f16x2(and_or(w, 0x000c000cu, 0x64006400u), 0x34003400u, 0xdc04dc04u);          // (1024 + 4c) / 4 - 257
  a[2] = fma_f16x2(and_or(w, 0x00300030u, 0x64006400u), 0x2c002c00u, 0xd410d410u);          // (1024 + 16c) / 16 - 65
  a[3] = fma_f16x2(and_or(w, 0x00c000c0u, 0x64006400u), 0x24002400u, 0xcc40cc40u);          // (1024 + 64c) / 64 - 17
}

/// Words of a lane of planes of 4 bits and of `MORE` further bits a code.
template <class Load, u32 WORDS, u32 MORE_BYTES> __device__ __forceinline__ void load_nibbles(u32 (&w)[WORDS], const u8 *chunk, u32 lane) {
  const uint4 v = Load::load16(chunk + lane * 16);
  w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
  if constexpr (MORE_BYTES == 4) w[4] = Load::load4(chunk + 512 + lane * 4);
  if constexpr (MORE_BYTES == 8) {
    const uint2 m = Load::load8(chunk + 512 + lane * 8);
    w[4] = m.x, w[5] = m.y;
  }
}

/// Words of a lane that stand in parts of 512 bytes.
template <class Load, u32 WORDS> __device__ __forceinline__ void load_parts(u32 (&w)[WORDS], const u8 *chunk, u32 lane) {
#pragma unroll
  for (u32 part = 0; part < WORDS / 4; part++) {
    const uint4 v = Load::load16(chunk + part * 512 + lane * 16);
    w[4 * part] = v.x, w[4 * part + 1] = v.y, w[4 * part + 2] = v.z, w[4 * part + 3] = v.w;
  }
}

/// What most formats are: f16 operands in one part, a scale a group, no minimum.
struct Plain {
  static constexpr bool BF16 = false, HAS_MINIMUM = false;
  static constexpr u32 PARTS = 1, ROW_SCALE_BYTES = 0, UNIT_CHUNKS = 1;
};

/// 4-bit integers with an f16 scale every 16 GROUP columns.
template <u32 GROUP, u32 ZERO> struct SignedNibbles : Plain {
  static constexpr u32 CODE_BYTES = 512, CODE_WORDS = 4, GROUP_TILES = GROUP, UNIT_CHUNKS = GROUP == 8 ? 2 : 1;
  static constexpr u32 GROUPS = 4 * UNIT_CHUNKS / GROUP, UNIT_SCALE_BYTES = 32 * GROUPS;
  struct Scales {
    u32 d[GROUPS];
  };
  template <class Load> static __device__ __forceinline__ void load_codes(u32 (&w)[CODE_WORDS], const u8 *chunk, u32 lane) {
    load_nibbles<Load, CODE_WORDS, 0>(w, chunk, lane);
  }
  template <class Load> static __device__ __forceinline__ void load_scales(Scales &s, const u8 *unit, u32 g) {
#pragma unroll
    for (u32 i = 0; i < GROUPS; i++) s.d[i] = Load::scale4(unit + 32 * i + 4 * g);
  }
  static __device__ __forceinline__ void fragment(const u32 (&w)[CODE_WORDS], u32 tile, const Scales &, u32, u32 (&a)[1][4]) {
    nibbles(w[tile], ZERO, ZERO, a[0]);
  }
  static __device__ __forceinline__ float2 scale(const Scales &s, u32 group) { return f16x2_to_float2(s.d[group]); }
};

/// 4-bit integers about a zero of the group, with an f16 scale, every 16 GROUP columns.
template <u32 GROUP> struct ZeroedNibbles : SignedNibbles<GROUP, 0> {
  typedef SignedNibbles<GROUP, 0> Base;
  static constexpr u32 GROUPS = Base::GROUPS, UNIT_SCALE_BYTES = 48 * GROUPS;
  struct Scales {
    u32 d[GROUPS], z[GROUPS];
  };
  template <class Load> static __device__ __forceinline__ void load_scales(Scales &s, const u8 *unit, u32 g) {
#pragma unroll
    for (u32 i = 0; i < GROUPS; i++) {
      s.d[i] = Load::scale4(unit + 48 * i + 4 * g);
      s.z[i] = Load::scale2(unit + 48 * i + 32 + 2 * g);
    }
  }
  static __device__ __forceinline__ void fragment(const u32 (&w)[4], u32 tile, const Scales &s, u32 group, u32 (&a)[1][4]) {
    nibbles(w[tile], s.z[group] & 0xffu, s.z[group] >> 8, a[0]);
  }
  static __device__ __forceinline__ float2 scale(const Scales &s, u32 group) { return f16x2_to_float2(s.d[group]); }
};

/// 4 or 5-bit integers with an f16 scale (and minimum) every 32 columns.
template <u32 WORDS, bool MINIMUM, u32 ZERO> struct Blocks32 : Plain {
  static constexpr bool HAS_MINIMUM = MINIMUM;
  static constexpr u32 CODE_BYTES = WORDS == 5 ? 640 : 512, CODE_WORDS = WORDS, GROUP_TILES = 2;
  static constexpr u32 GROUP_BYTES = MINIMUM ? 64 : 32, UNIT_SCALE_BYTES = 2 * GROUP_BYTES;
  struct Scales {
    u32 d[2], m[2];
  };
  template <class Load> static __device__ __forceinline__ void load_codes(u32 (&w)[WORDS], const u8 *chunk, u32 lane) {
    load_nibbles<Load, WORDS, (WORDS - 4) * 4>(w, chunk, lane);
  }
  template <class Load> static __device__ __forceinline__ void load_scales(Scales &s, const u8 *unit, u32 g) {
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
      s.d[i] = Load::scale4(unit + GROUP_BYTES * i + 4 * g);
      s.m[i] = MINIMUM ? Load::scale4(unit + GROUP_BYTES * i + 32 + 4 * g) : 0;
    }
  }
  static __device__ __forceinline__ void fragment(const u32 (&w)[WORDS], u32 tile, const Scales &, u32, u32 (&a)[1][4]) {
    if constexpr (WORDS == 5)
      wide_nibbles<1, 1>(w[tile], w[4] >> (4 * tile), ZERO, a[0]);
    else
      nibbles(w[tile], ZERO, ZERO, a[0]);
  }
  static __device__ __forceinline__ float2 scale(const Scales &s, u32 group) { return f16x2_to_float2(s.d[group]); }
  static __device__ __forceinline__ float2 minimum(const Scales &s, u32 group) { return f16x2_to_float2(s.m[group]); }
};

/// 4 or 5-bit integers in superblocks of 256 columns: f16 factors of 6-bit scales and minima every 32.
template <u32 WORDS> struct SuperBlocks : Plain {
  static constexpr bool HAS_MINIMUM = true;
  static constexpr u32 CODE_BYTES = WORDS == 5 ? 640 : 512, CODE_WORDS = WORDS, GROUP_TILES = 2, UNIT_CHUNKS = 4, UNIT_SCALE_BYTES = 320;
  struct Scales {
    u32 d, dmin;
    // Scales of rows g, g + 8, then their minima, a byte each.
    u32 six[8];
  };
  template <class Load> static __device__ __forceinline__ void load_codes(u32 (&w)[WORDS], const u8 *chunk, u32 lane) {
    load_nibbles<Load, WORDS, (WORDS - 4) * 4>(w, chunk, lane);
  }
  template <class Load> static __device__ __forceinline__ void load_scales(Scales &s, const u8 *unit, u32 g) {
    s.d = Load::scale4(unit + 4 * g);
    s.dmin = Load::scale4(unit + 32 + 4 * g);
    const u32 row = opaque(2 * g);
#pragma unroll
    for (u32 i = 0; i < 8; i++) s.six[i] = Load::scale2(unit + 64 + 32 * i + row) | Load::scale2(unit + 80 + 32 * i + row) << 16;
  }
  static __device__ __forceinline__ void fragment(const u32 (&w)[WORDS], u32 tile, const Scales &, u32, u32 (&a)[1][4]) {
    if constexpr (WORDS == 5)
      wide_nibbles<1, 1>(w[tile], w[4] >> (4 * tile), 0, a[0]);
    else
      nibbles(w[tile], 0, 0, a[0]);
  }
  static __device__ __forceinline__ float2 scale(const Scales &s, u32 group) {
    const float2 d = f16x2_to_float2(s.d);
    return make_float2(d.x * float_of_byte<0>(s.six[group]), d.y * float_of_byte<1>(s.six[group]));
  }
  static __device__ __forceinline__ float2 minimum(const Scales &s, u32 group) {
    const float2 d = f16x2_to_float2(s.dmin);
    return make_float2(-(d.x * float_of_byte<2>(s.six[group])), -(d.y * float_of_byte<3>(s.six[group])));
  }
};

/// 8-bit numbers with an f32 scale every 128 columns, or one a row.
template <bool FLOATS> struct Bytes : Plain {
  static constexpr u32 CODE_BYTES = 1024, CODE_WORDS = 8;
  template <class Load> static __device__ __forceinline__ void load_codes(u32 (&w)[8], const u8 *chunk, u32 lane) { load_parts<Load, 8>(w, chunk, lane); }
  template <class Scales> static __device__ __forceinline__ void fragment(const u32 (&w)[8], u32 tile, const Scales &, u32, u32 (&a)[1][4]) {
    if constexpr (FLOATS)
      e4m3(w[2 * tile], w[2 * tile + 1], a[0]);
    else
      bytes(w[2 * tile], w[2 * tile + 1], a[0]);
  }
};

/// No scale within the row.
struct NoScales {};

/// What has no scale but one of its row, or none at all.
template <class Base, u32 BYTES> struct RowScaled : Base {
  static constexpr u32 GROUP_TILES = 0, UNIT_SCALE_BYTES = 0, ROW_SCALE_BYTES = BYTES;
  typedef NoScales Scales;
  template <class Load> static __device__ __forceinline__ void load_scales(Scales &, const u8 *, u32) {}
};

/// 16-bit floats.
template <bool BRAIN> struct Floats16 : Plain {
  static constexpr bool BF16 = BRAIN;
  static constexpr u32 CODE_BYTES = 2048, CODE_WORDS = 16;
  template <class Load> static __device__ __forceinline__ void load_codes(u32 (&w)[16], const u8 *chunk, u32 lane) { load_parts<Load, 16>(w, chunk, lane); }
  template <class Scales> static __device__ __forceinline__ void fragment(const u32 (&w)[16], u32 tile, const Scales &, u32, u32 (&a)[1][4]) {
#pragma unroll
    for (u32 j = 0; j < 4; j++) a[0][j] = w[4 * tile + j];
  }
};

/// f32 as three bf16, which hold its 24 bits.
struct Floats32 : Plain {
  static constexpr bool BF16 = true;
  static constexpr u32 CODE_BYTES = 4096, CODE_WORDS = 32, PARTS = 3;
  template <class Load> static __device__ __forceinline__ void load_codes(u32 (&w)[32], const u8 *chunk, u32 lane) { load_parts<Load, 32>(w, chunk, lane); }
  template <class Scales> static __device__ __forceinline__ void fragment(const u32 (&w)[32], u32 tile, const Scales &, u32, u32 (&a)[3][4]) {
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
      // Registers 0 and 2 are of row g, 1 and 3 of row g + 8.
      const u32 at = 8 * tile + 4 * (j % 2) + 2 * (j / 2);
      float low = __uint_as_float(w[at]), high = __uint_as_float(w[at + 1]);
#pragma unroll
      for (u32 part = 0; part < 3; part++) {
        a[part][j] = pack_bf16(low, high);
        const float2 taken = bf16x2_to_float2(a[part][j]);
        low -= taken.x, high -= taken.y;
      }
    }
  }
};

/// Two bits an integer: -1, 0, 1.
struct Ternary : Plain {
  static constexpr u32 CODE_BYTES = 256, CODE_WORDS = 2;
  template <class Load> static __device__ __forceinline__ void load_codes(u32 (&w)[2], const u8 *chunk, u32 lane) {
    const uint2 v = Load::load8(chunk + lane * 8);
    w[0] = v.x, w[1] = v.y;
  }
  template <class Scales> static __device__ __forceinline__ void fragment(const u32 (&w)[2], u32 tile, const Scales &, u32, u32 (&a)[1][4]) {
    ternary(w[tile / 2] >> (8 * (tile % 2)), a[0]);
  }
};
} // namespace dequant

/// How a format's weights become operands. Every specialisation has:
/// CODE_BYTES, CODE_WORDS: a chunk, and what a lane holds of it; UNIT_CHUNKS: chunks that K is cut between; GROUP_TILES: k16 tiles of one scale, 0 for
/// all; UNIT_SCALE_BYTES: of the scale region; ROW_SCALE_BYTES: likewise, of a tile; BF16; PARTS; HAS_MINIMUM;
/// load_codes, load_scales, fragment(words, tile of the chunk, scales, group of the unit, registers), scale, minimum (rows g and g + 8).
template <class F> struct Dequant;

template <> struct Dequant<formats::q4_0> : dequant::Blocks32<4, false, 8> {};
template <> struct Dequant<formats::q4_1> : dequant::Blocks32<4, true, 0> {};
template <> struct Dequant<formats::q5_0> : dequant::Blocks32<5, false, 16> {};
template <> struct Dequant<formats::q5_1> : dequant::Blocks32<5, true, 0> {};
template <> struct Dequant<formats::q4_k> : dequant::SuperBlocks<4> {};
template <> struct Dequant<formats::q5_k> : dequant::SuperBlocks<5> {};
template <> struct Dequant<formats::q4g64> : dequant::SignedNibbles<4, 8> {};
template <> struct Dequant<formats::q4g128> : dequant::SignedNibbles<8, 8> {};
template <> struct Dequant<formats::q4z32> : dequant::ZeroedNibbles<2> {};
template <> struct Dequant<formats::q4z64> : dequant::ZeroedNibbles<4> {};
template <> struct Dequant<formats::q4z128> : dequant::ZeroedNibbles<8> {};
template <> struct Dequant<formats::f32> : dequant::RowScaled<dequant::Floats32, 0> {};
template <> struct Dequant<formats::f16> : dequant::RowScaled<dequant::Floats16<false>, 0> {};
template <> struct Dequant<formats::bf16> : dequant::RowScaled<dequant::Floats16<true>, 0> {};
template <> struct Dequant<formats::q8c> : dequant::RowScaled<dequant::Bytes<false>, 64> {};
template <> struct Dequant<formats::t2> : dequant::RowScaled<dequant::Ternary, 64> {};

template <> struct Dequant<formats::q8_0> : dequant::Bytes<false> {
  static constexpr u32 GROUP_TILES = 2, UNIT_SCALE_BYTES = 64;
  struct Scales {
    u32 d[2];
  };
  template <class Load> static __device__ __forceinline__ void load_scales(Scales &s, const u8 *unit, u32 g) {
    s.d[0] = Load::scale4(unit + 4 * g), s.d[1] = Load::scale4(unit + 32 + 4 * g);
  }
  static __device__ __forceinline__ float2 scale(const Scales &s, u32 group) { return f16x2_to_float2(s.d[group]); }
};

template <> struct Dequant<formats::f8_e4m3> : dequant::Bytes<true> {
  static constexpr u32 GROUP_TILES = 8, UNIT_CHUNKS = 2, UNIT_SCALE_BYTES = 64;
  struct Scales {
    uint2 d;
  };
  template <class Load> static __device__ __forceinline__ void load_scales(Scales &s, const u8 *unit, u32 g) { s.d = Load::scale8(unit + 8 * g); }
  static __device__ __forceinline__ float2 scale(const Scales &s, u32) {
    return make_float2(__uint_as_float(s.d.x) * 256.0f, __uint_as_float(s.d.y) * 256.0f);
  }
};

template <> struct Dequant<formats::q6_k> : dequant::Plain {
  static constexpr u32 CODE_BYTES = 768, CODE_WORDS = 6, GROUP_TILES = 1, UNIT_CHUNKS = 4, UNIT_SCALE_BYTES = 288;
  struct Scales {
    u32 d;
    // Of a group of 32: rows g, g + 8 of its first 16 columns, then of the others, a signed byte each.
    u32 eight[8];
  };
  template <class Load> static __device__ __forceinline__ void load_codes(u32 (&w)[6], const u8 *chunk, u32 lane) {
    dequant::load_nibbles<Load, 6, 8>(w, chunk, lane);
  }
  template <class Load> static __device__ __forceinline__ void load_scales(Scales &s, const u8 *unit, u32 g) {
    s.d = Load::scale4(unit + 4 * g);
    const u32 row = opaque(2 * g);
#pragma unroll
    for (u32 i = 0; i < 8; i++) s.eight[i] = Load::scale2(unit + 32 + 32 * i + row) | Load::scale2(unit + 48 + 32 * i + row) << 16;
  }
  static __device__ __forceinline__ void fragment(const u32 (&w)[6], u32 tile, const Scales &, u32, u32 (&a)[1][4]) {
    dequant::wide_nibbles<3, 2>(w[tile], w[4 + tile / 2] >> (8 * (tile % 2)), 32, a[0]);
  }
  static __device__ __forceinline__ float2 scale(const Scales &s, u32 group) {
    const float2 d = f16x2_to_float2(s.d);
    const u32 pair = s.eight[group / 2] >> (16 * (group % 2));
    return make_float2(d.x * (float)(signed char)(pair & 0xffu), d.y * (float)(signed char)(pair >> 8 & 0xffu));
  }
};

template <> struct Dequant<formats::mxfp4> : dequant::Plain {
  static constexpr u32 CODE_BYTES = 512, CODE_WORDS = 4, GROUP_TILES = 2, UNIT_SCALE_BYTES = 32;
  struct Scales {
    u32 e[2];
  };
  template <class Load> static __device__ __forceinline__ void load_codes(u32 (&w)[4], const u8 *chunk, u32 lane) {
    dequant::load_nibbles<Load, 4, 0>(w, chunk, lane);
  }
  template <class Load> static __device__ __forceinline__ void load_scales(Scales &s, const u8 *unit, u32 g) {
    s.e[0] = Load::scale2(unit + 2 * g), s.e[1] = Load::scale2(unit + 16 + 2 * g);
  }
  static __device__ __forceinline__ void fragment(const u32 (&w)[4], u32 tile, const Scales &, u32, u32 (&a)[1][4]) { dequant::e2m1(w[tile], a[0]); }
  /// 2^(e - 127) as f32, times the 2^14 that the operands lack. e = 0 is a subnormal.
  static __device__ __forceinline__ float power(u32 e) { return __uint_as_float(e ? e << 23 : 0x00400000u) * 16384.0f; }
  static __device__ __forceinline__ float2 scale(const Scales &s, u32 group) {
    return make_float2(power(s.e[group] & 0xffu), power(s.e[group] >> 8));
  }
};

/// Where things are in a packed matrix of `cols` columns.
template <class F> struct Tile {
  typedef Dequant<F> D;
  static __device__ __forceinline__ u32 chunks(u32 cols) { return (cols + 63) / 64; }
  static __device__ __forceinline__ u32 units(u32 cols) { return (chunks(cols) + D::UNIT_CHUNKS - 1) / D::UNIT_CHUNKS; }
  /// Offset of the scale region.
  static __device__ __forceinline__ u64 code_bytes(u32 cols) { return (u64)chunks(cols) * D::CODE_BYTES; }
  /// Bytes from a row tile to the next.
  static __device__ __forceinline__ u64 bytes(u32 cols) {
    const u64 all = code_bytes(cols) + (u64)units(cols) * D::UNIT_SCALE_BYTES + D::ROW_SCALE_BYTES;
    return (all + 127) / 128 * 128;
  }
};
