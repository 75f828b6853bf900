// Products of rows with one matrix each of a stack: which (token, slot) pairs meet which matrix, and who computes what.
//
// Few tokens: a block has some row tiles of one pair's matrix, or of all tokens where slot j meets matrix j; nothing is sorted. Many tokens: a
// counting sort by one block lists the pairs by matrix and cuts the list into tiles of tokens, in an order fixed by the experts alone; a block of
// the grid, drawn for the greatest number of tiles there can be, has one. A matrix that does not exist gives zeros. A row of x is prepared and
// multiplied alike in both, so that a pair has the same bits in any batch.
#pragma once
#include "product_gemm.cuh"

#ifndef WEIGHT
#error "WEIGHT is not defined: the format of the weights, formats::NAME"
#endif
#ifndef ACTIVATIONS
#error "ACTIVATIONS is not defined: how the product sees x, activations::NAME"
#endif
#ifndef COUNTER_BYTES
#error "COUNTER_BYTES is not defined: bytes of the workspace that are counters"
#endif

/// Blocks an SM that entries are compiled for, 0 as the compiler likes: found by looking for spills, which it makes for one block more of some formats.
/// Formats of long units are best left to it: told that one block will do, it begins so much at once that all 255 registers are not enough.
struct Occupancy {
  typedef Dequant<WEIGHT> D;
  static constexpr u32 PARTS = Operand<WEIGHT, ACTIVATIONS>::PARTS;
  static constexpr bool SUPER = D::UNIT_CHUNKS >= 4, MANY_SCALES = D::GROUP_TILES == 2 || D::GROUP_TILES == 4 || D::HAS_MINIMUM;
  static constexpr bool ZEROED = D::UNIT_SCALE_BYTES > 0 && D::UNIT_SCALE_BYTES % 48 == 0;
  static constexpr u32 FEW = SUPER ? 1 : MANY_SCALES || ZEROED || D::CODE_WORDS != 4 || PARTS > 1 ? 2 : 3;
  static constexpr u32 NARROW = SUPER ? 0 : D::HAS_MINIMUM ? 1 : 2, MANY = SUPER ? 0 : 1;
};

/// A number or an address that the compiler cannot know to be the same as before: what is made of it is made anew. What ends a block of many tokens is
/// made so, and what its tile is stands in shared memory: else registers keep all of it while the block multiplies, and spill it there.
__device__ __forceinline__ u32 anew(u32 v) {
  asm volatile("" : "+r"(v));
  return v;
}
__device__ __forceinline__ u8 *anew(u8 *p) {
  asm volatile("" : "+l"(p));
  return p;
}

/// Pairs of token and slot, pair = token * slots + slot, and the matrix each meets.
struct Pairs {
  const int *experts;  // Null: slot j meets matrix j.
  u32 tokens, slots, matrices;

  __device__ __forceinline__ u32 count() const { return tokens * slots; }
  __device__ __forceinline__ Pairs anew() const { return Pairs{experts, ::anew(tokens), slots, matrices}; }
  /// At least `matrices` where there is none of the expert's number.
  __device__ __forceinline__ u32 matrix(u32 pair) const { return experts ? (u32)experts[pair] : pair % slots; }
};

/// Tokens of the narrow tiles, and how many pairs a matrix has on average at most where they are used: a wide tile would mostly be empty.
constexpr u32 NARROW_TOKENS = 16;

/// Tokens of a tile of a launch. kernels/src/cuda/experts.rs chooses alike.
__device__ __forceinline__ u32 tile_tokens(const Pairs &pairs) {
  constexpr u32 WIDE = 8 * token_tiles<WEIGHT, Operand<WEIGHT, ACTIVATIONS>::PARTS>();
  const u32 average = pairs.experts ? (pairs.count() - 1) / pairs.matrices + 1 : pairs.tokens;
  return average <= NARROW_TOKENS ? NARROW_TOKENS : WIDE;
}

/// The greatest number of tiles of sorted pairs, whatever the experts: n pairs make at most (n + most - 1) / most of them, and there are no more
/// groups than pairs.
__device__ __forceinline__ u32 most_listed_tiles(const Pairs &pairs, u32 tokens) {
  const u32 groups = min(pairs.matrices + 1, pairs.count());
  return (pairs.count() + (tokens - 1) * groups) / tokens;
}

/// A tile: `count` pairs that meet one matrix.
struct TokenTile {
  u32 matrix, first, count;
};

/// The sorted pairs of a launch and their tiles, in the workspace.
struct TileList {
  u32 *count;
  uint4 *tiles;
  u32 *sorted;

  __device__ __forceinline__ TileList(u8 *memory, u32 most) : count((u32 *)memory), tiles((uint4 *)(memory + 16)) {
    sorted = (u32 *)(memory + 16 + 16 * (u64)most);
  }
};

/// The lanes of the warp whose `group`, less than `groups`, is this lane's.
__device__ __forceinline__ u32 lanes_alike(u32 group, u32 groups) {
  u32 alike = 0xffffffffu;
  for (u32 bit = 1; bit < groups; bit <<= 1) {
    const bool set = group & bit;
    const u32 lanes = __ballot_sync(0xffffffffu, set);
    alike &= set ? lanes : ~lanes;
  }
  return alike;
}

/// The sum over the lanes before this one; `total` is that over all.
__device__ __forceinline__ u32 sum_before(u32 v, u32 &total) {
  u32 sum = v;
#pragma unroll
  for (u32 step = 1; step < 32; step <<= 1) {
    const u32 other = __shfl_up_sync(0xffffffffu, sum, step);
    if (threadIdx.x % 32 >= step) sum += other;
  }
  total = __shfl_sync(0xffffffffu, sum, 31);
  return sum - v;
}

/// A stable counting sort of pairs by matrix, those without one last, by a block of SLICES warps; a warp has a stretch of neighbouring pairs.
struct PairSort {
  const Pairs pairs;
  const TileList list;
  u32 tokens, groups;
  // [warp][group], then [group] first place of each group, then [group] first tile.
  u32 *counters, *places, *first_tiles;

  __device__ __forceinline__ PairSort(const Pairs &pairs, const TileList &list, u32 tokens, u32 *shared)
      : pairs(pairs), list(list), tokens(tokens), groups(pairs.matrices + 1), counters(shared), places(shared + SLICES * groups),
        first_tiles(places + groups) {}

  /// Calls visit(pair, group, lanes of its group) for the warp's pairs, 32 at a time; lanes past the end have group `groups`.
  template <class Visit> __device__ __forceinline__ void walk(const Visit &visit) const {
    const u32 each = ((pairs.count() + SLICES * 32 - 1) / (SLICES * 32)) * 32;
    const u32 start = threadIdx.x / 32 * each, end = min(start + each, pairs.count());
    for (u32 at = start; at < end; at += 32) {
      const u32 pair = at + threadIdx.x % 32;
      const u32 group = pair < end ? min(pairs.matrix(pair), pairs.matrices) : groups;
      visit(pair, group, lanes_alike(group, groups + 1));
      __syncwarp();
    }
  }

  __device__ __forceinline__ u32 &counter(u32 group) const { return counters[threadIdx.x / 32 * groups + group]; }

  /// Counts the pairs of each warp and group.
  __device__ __forceinline__ void count() const {
    for (u32 i = threadIdx.x; i < SLICES * groups; i += 32 * SLICES) counters[i] = 0;
    __syncthreads();
    walk([&](u32, u32 group, u32 alike) {
      if (group < groups && __ffs(alike) - 1 == threadIdx.x % 32) counter(group) += __popc(alike);
    });
    __syncthreads();
  }

  /// Makes of the counts where each warp's pairs of a group begin within it; `places` holds the size of groups.
  __device__ __forceinline__ void add_warps() const {
    for (u32 group = threadIdx.x; group < groups; group += 32 * SLICES) {
      u32 sum = 0;
      for (u32 warp = 0; warp < SLICES; warp++) {
        const u32 n = counters[warp * groups + group];
        counters[warp * groups + group] = sum;
        sum += n;
      }
      places[group] = sum;
    }
    __syncthreads();
  }

  /// Makes of the sizes where groups begin, in pairs and in tiles, and lists the tiles. By one warp.
  __device__ __forceinline__ void list_tiles() const {
    u32 place = 0, tile = 0;
    for (u32 at = 0; at < groups; at += 32) {
      const u32 group = at + threadIdx.x % 32, size = group < groups ? places[group] : 0, tiles = (size + tokens - 1) / tokens;
      u32 pairs_here, tiles_here;
      const u32 first = place + sum_before(size, pairs_here), first_tile = tile + sum_before(tiles, tiles_here);
      for (u32 i = 0; i < tiles; i++) list.tiles[first_tile + i] = make_uint4(group, first + i * tokens, min(tokens, size - i * tokens), 0);
      if (group < groups) places[group] = first;
      place += pairs_here, tile += tiles_here;
    }
    if (threadIdx.x == 0) *list.count = tile;
  }

  /// Writes each pair to its place.
  __device__ __forceinline__ void write() const {
    walk([&](u32 pair, u32 group, u32 alike) {
      const u32 before = __popc(alike & ((1u << threadIdx.x % 32) - 1));
      const u32 place = group < groups ? counter(group) : 0;
      __syncwarp();
      if (group >= groups) return;
      list.sorted[places[group] + place + before] = pair;
      if (before == 0) counter(group) = place + __popc(alike);
    });
  }

  __device__ __forceinline__ void run() const {
    count();
    add_warps();
    if (threadIdx.x < 32) list_tiles();
    __syncthreads();
    write();
  }
};

/// The tile of tokens a block of the many-token path has: `pairs` in shared memory, repeated past `count`.
template <u32 TOKENS> struct BlockPairs {
  /// Words in shared memory: pairs, then matrix and count.
  static constexpr u32 WORDS = TOKENS + 2;

  u32 matrix, count;
  u32 *pairs;

  /// The tile that `shared` has.
  __device__ __forceinline__ explicit BlockPairs(u32 *shared) : matrix(shared[TOKENS]), count(shared[TOKENS + 1]), pairs(shared) {}

  /// Of tile `index`; count is 0 past the last. `shared` holds WORDS words. Ends with a barrier.
  __device__ __forceinline__ BlockPairs(const Pairs &all, const TileList &list, u32 index, u32 *shared) : matrix(0), count(0), pairs(shared) {
    if (!all.experts) {
      const u32 per_slot = (all.tokens + TOKENS - 1) / TOKENS, slot = index / per_slot, first = index % per_slot * TOKENS;
      matrix = slot, count = min(TOKENS, all.tokens - first);
      if (threadIdx.x < TOKENS) pairs[threadIdx.x] = (first + min(threadIdx.x, count - 1)) * all.slots + slot;
    } else if (index < *list.count) {
      const uint4 tile = list.tiles[index];
      matrix = tile.x, count = tile.z;
      if (threadIdx.x < TOKENS) pairs[threadIdx.x] = list.sorted[tile.y + min(threadIdx.x, count - 1)];
    }
    if (threadIdx.x == 0) shared[TOKENS] = matrix, shared[TOKENS + 1] = count;
    __syncthreads();
  }
};

/// Rows of x: one a token that its slots share, or one a pair.
struct RowsOfPairs {
  u32 slots, shared;

  __device__ __forceinline__ u32 operator()(u32 pair) const { return shared ? pair / slots : pair; }
  __device__ __forceinline__ u32 count(const Pairs &pairs) const { return shared ? pairs.tokens : pairs.count(); }
};

/// Where the parts of the workspace of the many-token path begin, behind the counters: prepared rows, lists of tiles, what a kernel keeps besides.
struct ExpertsWorkspace {
  PreparedRows<WEIGHT, ACTIVATIONS> rows;
  u32 most;
  u8 *lists, *rest;

  __device__ __forceinline__ ExpertsWorkspace(u8 *memory, const Pairs &pairs, u32 row_count, u32 cols)
      : rows(memory + COUNTER_BYTES, row_count, cols), most(pairs.experts ? most_listed_tiles(pairs, tile_tokens(pairs)) : 0) {
    lists = memory + COUNTER_BYTES + (row_count * (rows.row_bytes + sizeof(float)) + 15) / 16 * 16;
    rest = pairs.experts ? lists + (16 + 16 * (u64)most + 4 * (u64)pairs.count() + 15) / 16 * 16 : lists;
  }

  __device__ __forceinline__ TileList list() const { return TileList(lists, most); }
};
