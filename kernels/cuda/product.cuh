// Products of packed weights with rows of x on the tensor cores: weights are the 16 rows of an mma, tokens its 8 columns.
//
// The same template serves one token and many: the k order, the eight slices of K and the order of their sums are fixed by the matrix alone, so that
// an element has the same bits in any batch. One token wastes seven of eight columns, which costs nothing where weights come from
// memory: an mma takes 128 bytes of 4-bit weights in the time their load takes many times over.
//
// This file has the products of a unit, and the few-token path: a block is eight warps, warp w has slice w of K.
#pragma once
#include "activations.cuh"
#include "async.cuh"
#include "mma.cuh"

/// The mma of a format's operands.
template <class F> __device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  if constexpr (Dequant<F>::BF16)
    mma_bf16(d, a, b0, b1);
  else
    mma_f16(d, a, b0, b1);
}

/// Adds the products of all parts of weights and x, the smallest first. Pairs below f32's precision are left out.
template <class F, u32 XPARTS> __device__ __forceinline__ void multiply_parts(float (&d)[4], const u32 (&a)[Dequant<F>::PARTS][4], const u32 (&b)[XPARTS][2]) {
  constexpr u32 PARTS = Dequant<F>::PARTS, LAST = PARTS + XPARTS - 2;
#pragma unroll
  for (u32 rest = 0; rest <= LAST; rest++) {
    const u32 order = LAST - rest;
    if (order > 2) continue;
#pragma unroll
    for (u32 i = 0; i < PARTS; i++)
      if (i <= order && order - i < XPARTS) multiply<F>(d, a[i], b[order - i][0], b[order - i][1]);
  }
}

/// Sums of a group of columns that share a scale, of 8 NT tokens: products, and x alone where the format has a minimum.
template <class F, u32 NT> struct GroupSums {
  static constexpr bool GROUPED = Dequant<F>::GROUP_TILES != 0;
  float products[GROUPED ? NT : 1][4], x[Dequant<F>::HAS_MINIMUM ? NT : 1][4];

  /// Begins a group of token tile n.
  __device__ __forceinline__ void begin(u32 n) {
    products[n][0] = products[n][1] = products[n][2] = products[n][3] = 0.0f;
    if constexpr (Dequant<F>::HAS_MINIMUM) x[n][0] = x[n][1] = x[n][2] = x[n][3] = 0.0f;
  }

  /// Ends group number `group` of a unit: adds what it is worth to acc.
  __device__ __forceinline__ void end(u32 n, const typename Dequant<F>::Scales &scales, u32 group, float (&acc)[4]) const {
    const float2 d = Dequant<F>::scale(scales, group);
    acc[0] = fmaf(products[n][0], d.x, acc[0]), acc[1] = fmaf(products[n][1], d.x, acc[1]);
    acc[2] = fmaf(products[n][2], d.y, acc[2]), acc[3] = fmaf(products[n][3], d.y, acc[3]);
    if constexpr (Dequant<F>::HAS_MINIMUM) {
      const float2 m = Dequant<F>::minimum(scales, group);
      acc[0] = fmaf(x[n][0], m.x, acc[0]), acc[1] = fmaf(x[n][1], m.x, acc[1]);
      acc[2] = fmaf(x[n][2], m.y, acc[2]), acc[3] = fmaf(x[n][3], m.y, acc[3]);
    }
  }
};

/// Ends a unit: its group, where that is longer than a chunk.
template <class F, u32 NT>
__device__ __forceinline__ void end_unit(const typename Dequant<F>::Scales &scales, const GroupSums<F, NT> &sums, float (&acc)[NT][4]) {
  if constexpr (Dequant<F>::GROUP_TILES > 4) {
#pragma unroll
    for (u32 n = 0; n < NT; n++) sums.end(n, scales, 0, acc[n]);
  }
}

/// Products of chunk number `chunk` of a unit of TILES row tiles with 8 NT tokens, added to acc as groups end; `sums` lasts for the unit. codes: a lane's
/// words of the chunk; load(n, part, pair): 16 bytes of token tile n: the operands of k16 tiles 2 pair and 2 pair + 1.
template <class F, u32 XPARTS, u32 TILES, u32 NT, class Load>
__device__ __forceinline__ void chunk_products(const u32 (&codes)[TILES][Dequant<F>::CODE_WORDS], const typename Dequant<F>::Scales (&scales)[TILES], u32 chunk,
                                               const Load &load, GroupSums<F, NT> (&sums)[TILES], float (&acc)[TILES][NT][4]) {
  typedef Dequant<F> D;
  // A row without groups has one, which never ends: its products go to acc at once.
  constexpr bool GROUPED = D::GROUP_TILES != 0;
  constexpr u32 GROUP = GROUPED ? D::GROUP_TILES : 1;
#pragma unroll
  for (u32 pair = 0; pair < 2; pair++) {
    const u32 first = chunk * 4 + 2 * pair;
    // Keeps the work of a long unit in order: begun all at once it would take more registers than there are.
    if (D::UNIT_CHUNKS > 2 && D::HAS_MINIMUM) __syncwarp();
    u32 a[TILES][2][D::PARTS][4];
#pragma unroll
    for (u32 r = 0; r < TILES; r++)
#pragma unroll
      for (u32 half = 0; half < 2; half++) D::fragment(codes[r], 2 * pair + half, scales[r], GROUPED ? (first + half) / GROUP : 0, a[r][half]);
#pragma unroll
    for (u32 n = 0; n < NT; n++) {
      u32 b[2][XPARTS][2];
#pragma unroll
      for (u32 part = 0; part < XPARTS; part++) {
        const uint4 v = load(n, part, pair);
        b[0][part][0] = v.x, b[0][part][1] = v.y, b[1][part][0] = v.z, b[1][part][1] = v.w;
      }
#pragma unroll
      for (u32 r = 0; r < TILES; r++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
          if constexpr (!GROUPED) {
            multiply_parts<F, XPARTS>(acc[r][n], a[r][half], b[half]);
          } else {
            if ((first + half) % GROUP == 0) sums[r].begin(n);
            multiply_parts<F, XPARTS>(sums[r].products[n], a[r][half], b[half]);
            if constexpr (D::HAS_MINIMUM) {
              const u32 ones[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u};
#pragma unroll
              for (u32 part = XPARTS; part-- > 0;) multiply<F>(sums[r].x[n], ones, b[half][part][0], b[half][part][1]);
            }
            if (GROUP <= 4 && (first + half) % GROUP == GROUP - 1) sums[r].end(n, scales[r], (first + half) / GROUP, acc[r][n]);
          }
        }
      }
    }
  }
}

/// Ends a slice: the scale of the row, where the format has one. `tile` is the first byte of the row tile.
template <class F, u32 NT> __device__ __forceinline__ void end_slice(const u8 *tile, u32 cols, u32 lane, float (&acc)[NT][4]) {
  if constexpr (Dequant<F>::ROW_SCALE_BYTES != 0) {
    const uint2 d = GlobalLoad::scale8(tile + Tile<F>::code_bytes(cols) + 8 * (lane / 4));
#pragma unroll
    for (u32 n = 0; n < NT; n++) {
      acc[n][0] *= __uint_as_float(d.x), acc[n][1] *= __uint_as_float(d.x);
      acc[n][2] *= __uint_as_float(d.y), acc[n][3] *= __uint_as_float(d.y);
    }
  }
}

/// The slice of a warp of several row tiles, one after the other, its loads under way RING chunks ahead. base(i) is the first byte of row tile i.
template <class F, class Base> struct WeightStream {
  typedef Dequant<F> D;
  static constexpr u32 UNIT = D::UNIT_CHUNKS, WORDS = D::CODE_WORDS;
  /// Chunks in flight: as many as 32 registers hold with their scales, whole units of them.
  static constexpr u32 RING = WORDS >= 32 ? 1 : WORDS >= 16 ? 2 : WORDS >= 8 ? (UNIT > 2 ? UNIT : 2) : WORDS <= 2 ? 8 : UNIT == 1 && D::HAS_MINIMUM ? 3 : 4;
  static constexpr u32 UNITS = RING / UNIT;

  const Base &base;
  const Slice slice;
  const u32 tiles, cols, lane;
  // What is loaded next: a tile, how many chunks of its slice there are still, how many turns of the ring they take, and where they stand.
  u32 tile;
  int chunks_left, turns_left;
  const u8 *codes_at, *scales_at;
  u32 codes[UNITS][UNIT][1][WORDS];
  typename D::Scales scales[UNITS][1];

  __device__ __forceinline__ WeightStream(const Base &base, const Slice &slice, u32 tiles, u32 cols)
      : base(base), slice(slice), tiles(tiles), cols(cols), lane(threadIdx.x % 32), tile(0), chunks_left(0), turns_left(0) {
    if (tiles) enter(0);
    // The chunks past the end of a slice that ends within a unit meet zeros of x: their codes must only be numbers.
    if constexpr (UNIT > 1) {
#pragma unroll
      for (u32 i = 0; i < UNITS * UNIT * WORDS; i++) codes[i / (UNIT * WORDS)][i / WORDS % UNIT][0][i % WORDS] = 0;
    }
  }

  __device__ __forceinline__ void enter(u32 i) {
    const u8 *first = base(i);
    codes_at = first + (u64)slice.first * D::CODE_BYTES;
    scales_at = first + Tile<F>::code_bytes(cols) + (u64)(slice.first / UNIT) * D::UNIT_SCALE_BYTES;
    chunks_left = slice.chunks, turns_left = turns();
  }

  /// Chunks of the slice with those that fill the ring's last turn.
  __device__ __forceinline__ u32 turns() const { return (slice.chunks + RING - 1) / RING * RING; }

  /// Loads the next unit into a place of the ring.
  __device__ __forceinline__ void fetch(u32 place) {
    if (chunks_left > 0) {
      D::template load_scales<GlobalLoad>(scales[place][0], scales_at, lane / 4);
#pragma unroll
      for (u32 i = 0; i < UNIT; i++)
        if (i == 0 || chunks_left > (int)i) D::template load_codes<GlobalLoad>(codes[place][i][0], codes_at + i * D::CODE_BYTES, lane);
    }
    codes_at += UNIT * D::CODE_BYTES, scales_at += D::UNIT_SCALE_BYTES, chunks_left -= UNIT, turns_left -= UNIT;
    // Only the last place of the ring ends a turn.
    if (place == UNITS - 1 && turns_left <= 0 && tile + 1 < tiles) enter(++tile);
  }

  /// Starts the first loads: before the wait for inputs where base does not depend on them.
  __device__ __forceinline__ void start() {
#pragma unroll
    for (u32 place = 0; place < UNITS; place++) fetch(place);
  }

  /// Products of each tile's slice with the staged tokens; load(part, chunk, pair) as in chunk_products, chunks counted from the slice's first. done(i, acc) takes
  /// the sums of tile i: acc[0], acc[1] of row g with tokens 2t, 2t + 1, acc[2], acc[3] of row g + 8.
  template <u32 XPARTS, class Load, class Done> __device__ __forceinline__ void run(const Load &load, const Done &done) {
    // Of long units the compiler would keep beside the end what it is rounded up from.
    const u32 end = UNIT > 2 ? opaque(turns()) : 0;
    for (u32 i = 0; i < tiles; i++) {
      float acc[1][1][4] = {};
      for (u32 turn = 0; turn < (UNIT > 2 ? end : turns()); turn += RING) {
#pragma unroll
        for (u32 place = 0; place < UNITS; place++) {
          const u32 at = turn + place * UNIT;
          if (at < slice.chunks) {
            GroupSums<F, 1> sums[1];
#pragma unroll
            for (u32 c = 0; c < UNIT; c++)
              chunk_products<F, XPARTS, 1, 1>(codes[place][c], scales[place], c, [&](u32, u32 part, u32 pair) { return load(part, at + c, pair); }, sums, acc);
            end_unit<F, 1>(scales[place][0], sums[0], acc[0]);
          }
          fetch(place);
        }
      }
      end_slice<F, 1>(base(i), cols, lane, acc[0]);
      done(i, acc[0][0]);
    }
  }
};

/// Shared memory of a block of the few-token path: statistics and factors, then staged x, then partial sums. kernels/src/cuda/product.rs counts the same.
struct FewTokens {
  static constexpr u32 HEAD_BYTES = sizeof(Statistics) + COLUMNS * 4, PITCH = 20;

  u8 *memory;
  u32 tokens, stride, warp_bytes;
  // Address of this lane's operands in shared memory.
  u32 operands;

  /// `staged`: the most chunks a slice stages.
  __device__ __forceinline__ FewTokens(u8 *memory, u32 tokens, u32 staged, u32 parts)
      : memory(memory), tokens(tokens), stride(staged * 128 + 64), warp_bytes(parts * tokens * (staged * 128 + 64)) {
    const u32 lane = threadIdx.x % 32;
    operands = shared_address(this->staged(0, min(lane / 4, tokens - 1)) + lane % 4 * 16);
    // Kept in a register: the compiler would compute it anew for every load.
    asm volatile("" : "+r"(operands));
  }

  __device__ __forceinline__ Statistics &statistics() const { return *(Statistics *)memory; }
  __device__ __forceinline__ float *factors() const { return (float *)(memory + sizeof(Statistics)); }
  /// Parts of tokens of this warp's slice.
  __device__ __forceinline__ u8 *staged(u32 part, u32 token) const {
    return memory + HEAD_BYTES + threadIdx.x / 32 * warp_bytes + (part * tokens + token) * stride;
  }
  /// Sums of a slice of a tile: [token * PITCH + row]; the pitch keeps stores and loads free of bank conflicts.
  __device__ __forceinline__ float *partial(u32 tile, u32 slice) const {
    return (float *)(memory + HEAD_BYTES + SLICES * warp_bytes) + (tile * SLICES + slice) * COLUMNS * PITCH;
  }

  /// Stages this warp's slice of the rows.
  template <class F, class X, class Row> __device__ __forceinline__ void stage(const Source &source, const Row &row, const Slice &slice) const {
    const u32 first = slice.first;
    stage_rows<F, X>(source, tokens, row, slice, statistics(), factors(), [&](u32 part, u32 t, u32 c, uint2 words) {
      *(uint2 *)(staged(part, t) + (c / 64 - first) * 128 + staged_offset(c)) = words;
    });
  }

  /// Operands of a lane: tokens that do not exist repeat the last, whose columns nobody reads.
  __device__ __forceinline__ uint4 operand(u32 part, u32 chunk, u32 pair) const {
    return load_shared_16(operands + part * tokens * stride + chunk * 128 + pair * 64);
  }

  /// Keeps a slice's sums of a tile.
  __device__ __forceinline__ void keep(u32 tile, const float (&acc)[4]) const {
    float *sums = partial(tile, threadIdx.x / 32);
    const u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
    sums[t * PITCH + g] = acc[0], sums[(t + 1) * PITCH + g] = acc[1];
    sums[t * PITCH + g + 8] = acc[2], sums[(t + 1) * PITCH + g + 8] = acc[3];
  }

  /// The product of a row of a tile with a token, once all slices are kept (a barrier between).
  __device__ __forceinline__ float reduced(u32 tile, u32 token, u32 row) const {
    float sum = 0.0f;
#pragma unroll
    for (u32 slice = 0; slice < SLICES; slice++) sum += partial(tile, slice)[token * PITCH + row];
    return sum * factors()[token];
  }
};

/// Chunks the largest slice stages.
template <class F> __device__ __forceinline__ u32 staged_chunks(u32 cols) {
  return (Tile<F>::units(cols) + SLICES - 1) / SLICES * Dequant<F>::UNIT_CHUNKS;
}
