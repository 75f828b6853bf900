// Products of many tokens: a block multiplies eight row tiles of weights by up to 64 tokens.
//
// Four warps multiply, two row tiles each, so that operands of x are loaded once for both; four copy weights and x to a ring of stages in shared
// memory by cp.async. Neither has to make room in its loop for the other's instructions. One barrier a stage turns the ring. Another launch has
// prepared x as operands (PreparedRows), so that a stage is copies alone. The K slices of the few-token path are computed one after the other,
// with the same chains of mma and the same sums: an element has the same bits whichever path computes it.
//
// In a stage the 16-byte segments of a token's 64 columns are exchanged between even and odd tokens (segment ^ 4 for odd ones), so that the eight
// lanes of a quarter of a 128-bit load find their two tokens in different banks.
#pragma once
#include "async.cuh"
#include "product.cuh"

/// Rows of x as operands in the workspace: each row its chunks of 64 columns, all those of whole units, of each chunk its parts; then the rows'
/// factors. kernels/src/cuda/product.rs counts the same.
template <class F, class X> struct PreparedRows {
  static constexpr u32 PARTS = Operand<F, X>::PARTS, CHUNK_BYTES = PARTS * 128;

  u8 *rows;
  float *factors;
  u64 row_bytes;

  __device__ __forceinline__ PreparedRows(u8 *workspace, u32 count, u32 cols)
      : rows(workspace), row_bytes((u64)Tile<F>::units(cols) * Dequant<F>::UNIT_CHUNKS * CHUNK_BYTES) {
    factors = (float *)(workspace + count * row_bytes);
  }

  __device__ __forceinline__ const u8 *row(u32 index) const { return rows + index * row_bytes; }

  /// Prepares row `index` of the source, by a block of SLICES warps: the same statistics and parts as where a block stages its own rows.
  __device__ __forceinline__ void prepare(const Source &source, u32 index) const {
    __shared__ Statistics statistics;
    const Slice slice = slice_of<F>(source.cols, threadIdx.x / 32);
    u8 *to = rows + index * row_bytes;
    stage_rows<F, X>(source, 1, [&](u32) { return (long long)index; }, slice, statistics, factors + index,
                     [&](u32 part, u32, u32 c, uint2 words) {
                       *(uint2 *)(to + (u64)(c / 64) * CHUNK_BYTES + part * 128 + staged_offset(c)) = words;
                     });
  }
};

/// A value the compiler cannot compute anew: kept in a register instead, where it is used in a loop.
__device__ __forceinline__ u32 in_register(u32 v) { return __shfl_sync(0xffffffffu, v, threadIdx.x % 32); }

/// The products of a block: weights of format F by PARTS parts of x of 8 N_TILES tokens.
template <class F, u32 PARTS, u32 N_TILES> struct Gemm {
  typedef Dequant<F> D;
  /// Warps of a block, which are its row tiles; those that multiply, and the tiles of each.
  static constexpr u32 WARPS = 8, THREADS = 32 * WARPS, MULTIPLIERS = 4, TILES = 2, TOKENS = 8 * N_TILES;
  /// Shared memory of the sums of slices: [row tile][token tile][lane] 16 bytes. In registers they would leave no room for the sums of a slice.
  static constexpr u32 TOTAL_BYTES = WARPS * N_TILES * 512;
  /// That of the ring: what a block may use, less room for the kernel's own.
  static constexpr u32 RING_LIMIT = 98 * 1024 - TOTAL_BYTES;
  static constexpr u32 X_PART_BYTES = TOKENS * 128, X_BYTES = PARTS * X_PART_BYTES, W_BYTES = WARPS * D::CODE_BYTES;
  static constexpr u32 SCALE_BYTES = WARPS * D::UNIT_SCALE_BYTES;
  static constexpr u32 stage_bytes(u32 chunks) { return chunks * (X_BYTES + W_BYTES) + SCALE_BYTES; }
  /// Chunks of a stage: two halve the barriers, where they leave room for four stages.
  static constexpr u32 STAGE_CHUNKS = D::UNIT_CHUNKS >= 2 && 4 * stage_bytes(2) <= RING_LIMIT ? 2 : 1;
  static constexpr u32 STAGE_BYTES = stage_bytes(STAGE_CHUNKS), UNIT_STAGES = D::UNIT_CHUNKS / STAGE_CHUNKS;
  static constexpr u32 STAGES = RING_LIMIT / STAGE_BYTES < 6 ? RING_LIMIT / STAGE_BYTES : 6;
  static_assert(STAGES >= 2, "the ring has no room for two stages: fewer tokens are needed");
  /// Sums of a row tile: [token * PITCH + row]; the pitch keeps stores and loads free of bank conflicts.
  static constexpr u32 PITCH = FewTokens::PITCH, TILE_SUMS = TOKENS * PITCH;
  static constexpr u32 RING_BYTES = STAGES * STAGE_BYTES, SUM_BYTES = WARPS * TILE_SUMS * 4;
  /// Dynamic shared memory of a block.
  static constexpr u32 SHARED_BYTES = TOTAL_BYTES + RING_BYTES > SUM_BYTES ? TOTAL_BYTES + RING_BYTES : SUM_BYTES;

  /// The place behind `slot` in the ring, in bytes.
  static __device__ __forceinline__ u32 following(u32 slot) { return slot == RING_BYTES - STAGE_BYTES ? 0 : slot + STAGE_BYTES; }

  /// What a thread of the last four warps copies next, and whereto in a stage. Stages are copied in order.
  struct Copies {
    /// Tokens of which a thread copies a segment of each chunk.
    static constexpr u32 X_COPIES = TOKENS > 16 ? TOKENS / 16 : 1;

    const u8 *x[X_COPIES];
    const u8 *codes[TILES], *scales[TILES];
    u32 chunks, x_place, codes_place, scales_place;

    template <class XRow> __device__ __forceinline__ Copies(const u8 *memory, const u8 *const (&tiles)[WARPS], u32 cols, const XRow &x_row) {
      const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32 - MULTIPLIERS, base = shared_address(memory);
      const u32 token = warp * 4 + lane / 8, segment = lane % 8;
#pragma unroll
      for (u32 i = 0; i < TILES; i++) {
        codes[i] = tiles[warp * TILES + i] + lane * 16;
        scales[i] = tiles[warp * TILES + i] + Tile<F>::code_bytes(cols) + lane * 16;
      }
#pragma unroll
      for (u32 i = 0; i < X_COPIES; i++) x[i] = x_row((token + 16 * i) % TOKENS) + segment * 16;
      x_place = base + token * 128 + (segment ^ token % 2 * 4) * 16;
      codes_place = base + STAGE_CHUNKS * X_BYTES + warp * (TILES * D::CODE_BYTES) + lane * 16;
      scales_place = base + STAGE_CHUNKS * (X_BYTES + W_BYTES) + warp * (TILES * D::UNIT_SCALE_BYTES) + lane * 16;
      chunks = Tile<F>::chunks(cols);
    }

    /// Starts copying the weights of stage number `stage` to `slot` bytes into the ring. Chunks of the last unit that do not exist are zeros.
    __device__ __forceinline__ void weights(u32 stage, u32 slot) {
      const u32 lane = threadIdx.x % 32;
#pragma unroll
      for (u32 tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (u32 i = 0; i < STAGE_CHUNKS; i++) {
          const u32 valid = D::UNIT_CHUNKS == 1 || stage * STAGE_CHUNKS + i < chunks ? 16 : 0;
#pragma unroll
          for (u32 at = 0; at < D::CODE_BYTES; at += 512)
            if (at + 512 <= D::CODE_BYTES || lane < (D::CODE_BYTES - at) / 16)
              copy_async_16(codes_place + slot + i * W_BYTES + tile * D::CODE_BYTES + at, codes[tile] + i * D::CODE_BYTES + at, valid);
        }
        codes[tile] += STAGE_CHUNKS * D::CODE_BYTES;
        if constexpr (D::UNIT_SCALE_BYTES > 0) {
          if (stage % UNIT_STAGES != 0) continue;
          if (lane < D::UNIT_SCALE_BYTES / 16) copy_async_16(scales_place + slot + tile * D::UNIT_SCALE_BYTES, scales[tile]);
          scales[tile] += D::UNIT_SCALE_BYTES;
        }
      }
    }

    /// The same of x, whose prepared rows have all chunks.
    __device__ __forceinline__ void activations(u32 slot) {
      if (TOKENS < 16 && threadIdx.x % 128 >= 8 * TOKENS) return;
#pragma unroll
      for (u32 j = 0; j < X_COPIES; j++) {
#pragma unroll
        for (u32 i = 0; i < STAGE_CHUNKS; i++)
#pragma unroll
          for (u32 part = 0; part < PARTS; part++)
            copy_async_16(x_place + slot + i * X_BYTES + part * X_PART_BYTES + j * 2048, x[j] + (i * PARTS + part) * 128);
        x[j] += STAGE_CHUNKS * PARTS * 128;
      }
    }
  };

  /// Copies all stages, each as soon as its place is free: the work of the last four warps.
  template <class XRow>
  static __device__ __forceinline__ void copy_stages(u8 *memory, const u8 *const (&tiles)[WARPS], u32 cols, const XRow &x_row) {
    Copies copies(memory, tiles, cols, x_row);
    const u32 stages = Tile<F>::units(cols) * UNIT_STAGES;
#pragma unroll
    for (u32 stage = 0; stage < STAGES - 1; stage++)
      if (stage < stages) copies.weights(stage, stage * STAGE_BYTES);
    wait_for_inputs();
#pragma unroll
    for (u32 stage = 0; stage < STAGES - 1; stage++) {
      if (stage < stages) copies.activations(stage * STAGE_BYTES);
      commit_async();
    }
    u32 slot = (STAGES - 1) * STAGE_BYTES;
    for (u32 stage = STAGES - 1; stage < stages + STAGES - 1; stage++) {
      wait_async<STAGES - 2>();
      __syncthreads();
      if (stage < stages) {
        copies.weights(stage, slot);
        copies.activations(slot);
      }
      commit_async();
      slot = following(slot);
    }
  }

  /// What a warp multiplies: where a lane finds its operands in the first stage, and its sums.
  struct Multiplier {
    const u8 *memory;
    // Address of the lane's x in shared memory: of an odd token the two halves of a chunk are exchanged.
    u32 x[2];
    float acc[TILES][N_TILES][4];

    __device__ __forceinline__ Multiplier(const u8 *memory) : memory(memory), acc{} {
      const u32 lane = threadIdx.x % 32, first = shared_address(memory) + lane / 4 * 128 + lane % 4 * 16, swapped = lane / 4 % 2 * 64;
      x[0] = in_register(first + swapped), x[1] = in_register(first + (swapped ^ 64));
    }

    /// Products of the stage `slot` bytes into the ring; `chunk` is its first of the unit.
    __device__ __forceinline__ void stage(u32 slot, u32 chunk, typename D::Scales (&scales)[TILES], GroupSums<F, N_TILES> (&sums)[TILES]) {
      const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
      const u8 *codes_at = memory + slot + STAGE_CHUNKS * X_BYTES + warp * (TILES * D::CODE_BYTES);
      const u8 *scales_at = memory + slot + STAGE_CHUNKS * (X_BYTES + W_BYTES) + warp * (TILES * D::UNIT_SCALE_BYTES);
      if (chunk == 0) {
#pragma unroll
        for (u32 tile = 0; tile < TILES; tile++) D::template load_scales<SharedLoad>(scales[tile], scales_at + tile * D::UNIT_SCALE_BYTES, lane / 4);
      }
      const u32 at[2] = {x[0] + slot, x[1] + slot};
#pragma unroll
      for (u32 i = 0; i < STAGE_CHUNKS; i++) {
        u32 codes[TILES][D::CODE_WORDS];
#pragma unroll
        for (u32 tile = 0; tile < TILES; tile++) D::template load_codes<SharedLoad>(codes[tile], codes_at + i * W_BYTES + tile * D::CODE_BYTES, lane);
        const auto load = [&](u32 n, u32 part, u32 pair) { return load_shared_16(at[pair] + i * X_BYTES + part * X_PART_BYTES + n * 1024); };
        chunk_products<F, PARTS, TILES, N_TILES>(codes, scales, chunk + i, load, sums, acc);
      }
    }

    /// Ends a slice: adds its sums to those before it.
    __device__ __forceinline__ void end(u8 *totals, const u8 *const (&tiles)[WARPS], u32 cols) {
      const u32 first = threadIdx.x / 32 * TILES;
#pragma unroll
      for (u32 tile = 0; tile < TILES; tile++) {
        end_slice<F, N_TILES>(tiles[first + tile], cols, threadIdx.x % 32, acc[tile]);
#pragma unroll
        for (u32 n = 0; n < N_TILES; n++) {
          float4 &total = total_of(totals, first + tile, n);
          const float4 before = total;
          total = make_float4(before.x + acc[tile][n][0], before.y + acc[tile][n][1], before.z + acc[tile][n][2], before.w + acc[tile][n][3]);
          acc[tile][n][0] = acc[tile][n][1] = acc[tile][n][2] = acc[tile][n][3] = 0.0f;
        }
      }
    }
  };

  /// The lane's sums of a row tile with token tile n.
  static __device__ __forceinline__ float4 &total_of(u8 *totals, u32 tile, u32 n) {
    return ((float4 *)totals)[(tile * N_TILES + n) * 32 + threadIdx.x % 32];
  }

  /// Multiplies all stages and adds up their sums: the work of the first four warps.
  static __device__ __forceinline__ void multiply_stages(u8 *totals, u8 *ring, const u8 *const (&tiles)[WARPS], u32 cols) {
    Multiplier multiplier(ring);
    const u32 units = Tile<F>::units(cols), each = (units + SLICES - 1) / SLICES, first = threadIdx.x / 32 * TILES;
#pragma unroll
    for (u32 i = 0; i < TILES * N_TILES; i++) total_of(totals, first + i / N_TILES, i % N_TILES) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    u32 slot = 0;
    wait_for_inputs();
    for (u32 left = units; left > 0;) {
      const u32 slice = min(each, left);
      left -= slice;
      for (u32 unit = 0; unit < slice; unit++) {
        GroupSums<F, N_TILES> sums[TILES];
        typename D::Scales scales[TILES];
#pragma unroll
        for (u32 part = 0; part < UNIT_STAGES; part++) {
          __syncthreads();
          multiplier.stage(slot, part * STAGE_CHUNKS, scales, sums);
          slot = following(slot);
        }
#pragma unroll
        for (u32 tile = 0; tile < TILES; tile++) end_unit<F, N_TILES>(scales[tile], sums[tile], multiplier.acc[tile]);
      }
      multiplier.end(totals, tiles, cols);
    }
  }

  /// The products of the row tile of this warp with the block's tokens: total[n][0], total[n][1] of row g with tokens 8n + 2t, 8n + 2t + 1, total[n][2],
  /// total[n][3] of row g + 8, without the tokens' factors. `tile` exists: a warp past the end of the matrix repeats another's. x_row(token) is the
  /// prepared row of one of the block's tokens, any row where there is none. Waits for inputs between the first loads of weights and those of x.
  /// Called by the whole block.
  template <class XRow> static __device__ __forceinline__ void run(u8 *memory, const u8 *tile, u32 cols, const XRow &x_row, float (&total)[N_TILES][4]) {
    __shared__ const u8 *tiles[WARPS];
    if (threadIdx.x % 32 == 0) tiles[threadIdx.x / 32] = tile;
    __syncthreads();
    u8 *ring = memory + TOTAL_BYTES;
    if (threadIdx.x < 32 * MULTIPLIERS)
      multiply_stages(memory, ring, tiles, cols);
    else
      copy_stages(ring, tiles, cols, x_row);
    __syncthreads();
#pragma unroll
    for (u32 n = 0; n < N_TILES; n++) {
      const float4 v = total_of(memory, threadIdx.x / 32, n);
      total[n][0] = v.x, total[n][1] = v.y, total[n][2] = v.z, total[n][3] = v.w;
    }
    __syncthreads();
  }

  /// The sums of a warp's tile in shared memory, where the ring was.
  static __device__ __forceinline__ float *sums(u8 *memory, u32 warp) { return (float *)memory + warp * TILE_SUMS; }

  /// Keeps the products in shared memory, times factor(token); readable by this warp, after a barrier by the block.
  template <class Factor> static __device__ __forceinline__ void keep(u8 *memory, const float (&total)[N_TILES][4], const Factor &factor) {
    float *to = sums(memory, threadIdx.x / 32);
    const u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 n = 0; n < N_TILES; n++) {
      const float even = factor(8 * n + t), odd = factor(8 * n + t + 1);
      float *tokens = to + (8 * n + t) * PITCH + g;
      tokens[0] = total[n][0] * even, tokens[PITCH] = total[n][1] * odd;
      tokens[8] = total[n][2] * even, tokens[PITCH + 8] = total[n][3] * odd;
    }
    __syncwarp();
  }

  /// The token of step `step` (of TOKENS / 2) of a walk of a warp over a tile's sums: two tokens at a time, sixteen rows (lane % 16) each.
  static __device__ __forceinline__ u32 walk_token(u32 step) { return step / 4 * 8 + step % 4 + threadIdx.x % 32 / 16 * 4; }
};

/// Token tiles of a block: eight, or as many as leave room for two stages of the weights, and registers: sums of x beside the products, and scales of
/// short groups beside several parts of x, leave them for fewer.
template <class F, u32 PARTS> constexpr u32 token_tiles() {
  constexpr u32 GROUP = Dequant<F>::GROUP_TILES;
  if (PARTS > 1 && GROUP == 1) return 2;
  if (Dequant<F>::HAS_MINIMUM || (PARTS > 1 && GROUP == 2)) return 4;
  constexpr u32 FIXED = 2 * 8 * (Dequant<F>::CODE_BYTES + Dequant<F>::UNIT_SCALE_BYTES), TILE = 2 * PARTS * 1024 + 4096;
  return FIXED + 8 * TILE <= 98 * 1024 ? 8 : FIXED + 4 * TILE <= 98 * 1024 ? 4 : 2;
}
