// Activations as operands of tensor-core products: rows of x pass their norm and rounding and become one to three 16-bit parts.
//
// A row is multiplied by a power of two that brings its greatest magnitude below 2^15, so that no f16 overflows, and is the sum of its parts. Two f16
// parts hold 22 bits, three bf16 parts 24: products then lose nothing of f32 activations that their sums would keep. The row's
// factor is undone once, after the sum. K is cut into eight slices, one a warp; statistics of a row are per-slice results taken in slice order,
// so that a row has the same bits whichever launch prepares it.
//
// Four columns c to c + 3 (c a multiple of 4) stand together: of each 32 columns those with c % 16 / 4 = t at bytes 16 t, of the first 16 columns, then
// of the second. A lane t reads the operands of two k16 tiles in one load.
#pragma once
#include "dequant.cuh"
#include "row_statistics.cuh"

/// How a product sees its activations: the word of its variant.
namespace activations {
struct f32;
struct half;
struct block;
struct row;
struct q8x32;
} // namespace activations

/// The most tokens of one mma.
constexpr u32 COLUMNS = 8;

template <class A, class B> struct Same {
  static constexpr bool VALUE = false;
};
template <class A> struct Same<A, A> {
  static constexpr bool VALUE = true;
};

/// What becomes of x of kind X for weights of format F.
template <class F, class X> struct Operand {
  static constexpr bool BF16 = Dequant<F>::BF16;
  static constexpr bool HALF = Same<X, activations::half>::VALUE, ROW = Same<X, activations::row>::VALUE;
  static constexpr bool BLOCK = Same<X, activations::block>::VALUE, STORED = Same<X, activations::q8x32>::VALUE;
  static constexpr u32 PARTS = HALF ? (BF16 ? 2 : 1) : BF16 ? 3 : 2;
  /// Whether the greatest magnitude of a row must be known: bf16 parts need no factor.
  static constexpr bool GREATEST = HALF || ROW || !BF16;
};

/// Rows of x and the norm they pass: 0 none, 1 rms_norm, 2 layer_norm, 3 scale_columns.
struct Source {
  const void *x;
  const float *weight, *bias;
  u32 cols, norm;
  float eps;
};

/// Where a slice begins and ends, in chunks of 64 columns; `staged` counts whole units, past the end of the row as well.
struct Slice {
  u32 first, chunks, staged;
};

template <class F> __device__ __forceinline__ Slice slice_of(u32 cols, u32 index) {
  constexpr u32 UNIT = Dequant<F>::UNIT_CHUNKS;
  const u32 units = Tile<F>::units(cols), each = (units + SLICES - 1) / SLICES;
  const u32 first = min(index * each, units), end = min(first + each, units);
  return Slice{first * UNIT, min(end * UNIT, Tile<F>::chunks(cols)) - min(first * UNIT, Tile<F>::chunks(cols)), (end - first) * UNIT};
}

/// Per-slice results of a row, exchanged between the warps of a block: [kind][token][slice].
struct Statistics {
  float values[3][COLUMNS][SLICES];
};

/// Four columns of a row of q8x32.
__device__ __forceinline__ float4 load_rounded(const u8 *row, u32 c, u32 cols) {
  const u32 groups = (cols + 31) / 32;
  if (c >= groups * 32) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  const u32 q = *(const u32 *)(row + c);
  const float d = *(const float *)(row + (u64)groups * 32 + 4 * (c / 32));
  return make_float4((float)(signed char)(q & 0xffu) * d, (float)(signed char)(q >> 8 & 0xffu) * d, (float)(signed char)(q >> 16 & 0xffu) * d,
                     (float)(signed char)(q >> 24) * d);
}

/// One row seen through its norm.
template <class F, class X> struct SourceRow {
  const Source &source;
  u64 row;
  bool present;
  float mean, scale;

  /// Columns c to c + 3 as they stand in memory.
  __device__ __forceinline__ float4 raw(u32 c) const {
    if (!present) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if constexpr (Operand<F, X>::STORED) return load_rounded((const u8 *)source.x + row * ((source.cols + 31) / 32) * 44, c, source.cols);
    return load_columns((const float *)source.x + row * source.cols, c, source.cols);
  }

  /// Columns c to c + 3 after the norm.
  __device__ __forceinline__ float4 operator()(u32 c) const {
    float4 v = raw(c);
    if constexpr (Operand<F, X>::STORED) return v;
    if (source.norm == 0) return v;
    const float4 w = load_columns(source.weight, c, source.cols);
    if (source.norm == 3) return make_float4(v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w);
    v = make_float4((v.x - mean) * scale * w.x, (v.y - mean) * scale * w.y, (v.z - mean) * scale * w.z, (v.w - mean) * scale * w.w);
    if (source.norm != 2 || !source.bias) return v;
    const float4 b = load_columns(source.bias, c, source.cols);
    return make_float4(v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w);
  }
};

/// The greatest magnitude of four numbers.
__device__ __forceinline__ float greatest_of(float4 v) { return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))); }

/// 2^(14-e) and 2^(e-14) with e = floor(log2(greatest)), which is taken to be at least -112; ones for rows of zeros and rows that are not finite.
__device__ __forceinline__ float2 power_of_row(float greatest) {
  const u32 exponent = __float_as_uint(greatest) >> 23;
  if (greatest == 0.0f || exponent >= 255) return make_float2(1.0f, 1.0f);
  const u32 e = max(exponent, 15u);
  return make_float2(__uint_as_float((268u - e) << 23), __uint_as_float((e - 14u) << 23));
}

/// Rounding to q8x32 by a greatest magnitude: the integers times their scale, as they are where another launch has rounded.
struct BlockRounding {
  float d, inverse;

  __device__ __forceinline__ BlockRounding(float greatest) : d(0.0f), inverse(0.0f) {
    if (greatest >= 127.0f * 0x1p-126f) d = greatest / 127.0f, inverse = 127.0f / greatest;
  }
  __device__ __forceinline__ float operator()(float v) const { return rintf(v * inverse) * d; }
  __device__ __forceinline__ float4 operator()(float4 v) const { return make_float4((*this)(v.x), (*this)(v.y), (*this)(v.z), (*this)(v.w)); }
};

/// The least magnitude that a scale of a row is made of.
constexpr float ROW_SMALLEST = 1e-5f;

/// The rounding of x and its cut into parts: what multiplies a row before, and its sums afterwards.
template <class F, class X> struct Cutter {
  typedef Operand<F, X> O;
  float up, down, greatest;

  /// `row` is the greatest magnitude of the row.
  __device__ __forceinline__ Cutter(float row) : up(1.0f), down(1.0f), greatest(O::ROW ? fmaxf(row, ROW_SMALLEST) : row) {
    if constexpr (O::HALF || !O::BF16) {
      // Of what is rounded to integers, the greatest after rounding: a row that is rounded before has no other.
      const float2 power = power_of_row(O::ROW || O::BLOCK ? BlockRounding(greatest)(row) : row);
      up = power.x, down = power.y;
    }
  }

  /// Rounds four columns; a scale serves 32 columns, which eight lanes hold, or the row.
  __device__ __forceinline__ float4 rounded(float4 v) const {
    if constexpr (O::ROW) return BlockRounding(greatest)(v);
    float block = greatest_of(v);
#pragma unroll
    for (u32 step = 4; step; step >>= 1) block = fmaxf(block, __shfl_xor_sync(0xffffffffu, block, step));
    return BlockRounding(block)(v);
  }

  /// The parts of four columns, each two words. All lanes of a warp take part.
  __device__ __forceinline__ void cut(float4 v, uint2 (&parts)[O::PARTS]) const {
    if constexpr (O::BLOCK || O::ROW) v = rounded(v);
    v = make_float4(v.x * up, v.y * up, v.z * up, v.w * up);
    if constexpr (O::HALF && O::BF16) {
      const float2 low = f16x2_to_float2(pack_f16(v.x, v.y)), high = f16x2_to_float2(pack_f16(v.z, v.w));
      v = make_float4(low.x, low.y, high.x, high.y);
    }
#pragma unroll
    for (u32 part = 0; part < O::PARTS; part++) {
      float2 low, high;
      if constexpr (O::BF16) {
        parts[part] = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
        low = bf16x2_to_float2(parts[part].x), high = bf16x2_to_float2(parts[part].y);
      } else {
        parts[part] = make_uint2(pack_f16(v.x, v.y), pack_f16(v.z, v.w));
        low = f16x2_to_float2(parts[part].x), high = f16x2_to_float2(parts[part].y);
      }
      v = make_float4(v.x - low.x, v.y - low.y, v.z - high.x, v.w - high.y);
    }
  }
};

/// Byte of columns c to c + 3 within their chunk of a part.
__device__ __forceinline__ u32 staged_offset(u32 c) { return (c % 64 / 32) * 64 + (c % 16 / 4) * 16 + (c % 32 / 16) * 8; }

/// Prepares the columns of this warp's slice of `tokens` rows (at most COLUMNS). row(t) is the row of x, negative for one of zeros; store(part, t, column,
/// words) takes four columns, `column` counted from the start of the row. factors[t], written by warp 0, is what sums are multiplied by. Called
/// by a whole block of SLICES warps; what it stores is visible to this warp, the factors after the next barrier.
template <class F, class X, class Row, class Store>
__device__ __forceinline__ void stage_rows(const Source &source, u32 tokens, const Row &row, const Slice &slice, Statistics &shared, float *factors,
                                           const Store &store) {
  typedef Operand<F, X> O;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 first = slice.first * 64, end = first + slice.staged * 64;
  const bool layer = !O::STORED && source.norm == 2, scaled = layer || (!O::STORED && source.norm == 1);
  auto row_of = [&](u32 t) {
    const long long index = row(t);
    return SourceRow<F, X>{source, (u64)(index < 0 ? 0 : index), index >= 0, 0.0f, 1.0f};
  };
  auto mean_of = [&](u32 t) { return layer ? over_slices<false>(shared.values[0][t]) / (float)source.cols : 0.0f; };
  auto complete = [&](SourceRow<F, X> &r, u32 t) {
    r.mean = mean_of(t);
    if (scaled) r.scale = reciprocal_rms(over_slices<false>(shared.values[1][t]), source.cols, source.eps);
  };
  const RowSlice statistics(source.cols, warp);
  if (layer) {
    for (u32 t = 0; t < tokens; t++) {
      const SourceRow<F, X> r = row_of(t);
      const float sum = slice_sum([&](u32 c) { return r.raw(c); }, statistics);
      if (lane == 0) shared.values[0][t][warp] = sum;
    }
    __syncthreads();
  }
  if (scaled) {
    for (u32 t = 0; t < tokens; t++) {
      const SourceRow<F, X> r = row_of(t);
      const float squares = slice_squares([&](u32 c) { return r.raw(c); }, statistics, mean_of(t));
      if (lane == 0) shared.values[1][t][warp] = squares;
    }
    __syncthreads();
  }
  if constexpr (O::GREATEST) {
    for (u32 t = 0; t < tokens; t++) {
      SourceRow<F, X> r = row_of(t);
      complete(r, t);
      float greatest = 0.0f;
      for (u32 c = first + lane * 4; c < end; c += 128) greatest = fmaxf(greatest, greatest_of(c < source.cols ? r(c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f)));
      greatest = warp_max(greatest);
      if (lane == 0) shared.values[2][t][warp] = greatest;
    }
    __syncthreads();
  }
  for (u32 t = 0; t < tokens; t++) {
    SourceRow<F, X> r = row_of(t);
    complete(r, t);
    const Cutter<F, X> cutter(O::GREATEST ? over_slices<true>(shared.values[2][t]) : 0.0f);
    if (threadIdx.x == 0) factors[t] = cutter.down;
    // Every lane passes the same number of times: rounding a block is a matter of eight lanes.
    for (u32 start = first; start < end; start += 128) {
      const u32 c = start + lane * 4;
      uint2 parts[O::PARTS];
      cutter.cut(c < source.cols ? r(c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f), parts);
      if (c < end) {
#pragma unroll
        for (u32 part = 0; part < O::PARTS; part++) store(part, t, c, parts[part]);
      }
    }
  }
  __syncwarp();
}
