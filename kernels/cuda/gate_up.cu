// gate_up: activation(x w_gate^T) * (x w_up^T), of one pair of matrices or of each selected expert's.
//
// Few tokens: gate_up_few; a block has row tiles of both matrices of a pair, and with ROUTING 2 finds its expert itself. Many tokens:
// gate_up_prepare makes operands of x, selects experts and lists who meets which matrix, gate_up_many or gate_up_narrow multiplies.
#include "arrival.cuh"
#include "experts.cuh"
#include "math.cuh"
#include "route.cuh"

#ifndef ROUTING
#error "ROUTING is not defined: 0 slot j meets matrix j, 1 experts are given, 2 the launch selects them"
#endif
#ifndef GATE
#error "GATE is not defined: the number of the activation, as GateUpParams has it"
#endif

constexpr u32 PARTS = Operand<WEIGHT, ACTIVATIONS>::PARTS;

struct GateUp {
  const GateUpParams &p;
  const Pairs pairs;
  const RowsOfPairs row_of;

  __device__ __forceinline__ GateUp(const GateUpParams &p)
      : p(p), pairs{ROUTING == 0 ? nullptr : ROUTING == 1 ? p.experts : p.experts_out, p.tokens, p.slots, p.matrices}, row_of{p.slots, p.slots_share_x} {}

  __device__ __forceinline__ Source source() const { return Source{p.x, p.norm_weight, p.norm_bias, p.cols, p.norm, p.norm_eps}; }

  /// Row tile `tile` of a matrix: of the gate, or of what it multiplies.
  __device__ __forceinline__ const u8 *row_tile(bool up, u32 matrix, u32 tile) const {
    const u64 bytes = Tile<WEIGHT>::bytes(p.cols);
    return (const u8 *)(up ? p.w_up : p.w_gate) + ((u64)matrix * row_tiles() + tile) * bytes;
  }

  __device__ __forceinline__ u32 row_tiles() const { return (p.rows + 15) / 16; }

  __device__ __forceinline__ u32 x_rows() const { return row_of.count(pairs); }

  __device__ __forceinline__ ExpertsWorkspace space(u8 *workspace) const { return ExpertsWorkspace(workspace, pairs, x_rows(), p.cols); }

  __device__ __forceinline__ ExpertsWorkspace space_anew(u8 *workspace) const {
    const Pairs pairs = this->pairs.anew();
    return ExpertsWorkspace(anew(workspace), pairs, row_of.count(pairs), anew(p.cols));
  }

  __device__ __forceinline__ void sort(const ExpertsWorkspace &space, u8 *shared) const {
    PairSort(pairs, space.list(), tile_tokens(pairs), (u32 *)shared).run();
  }

  /// What the products of a token are multiplied by: its row's reciprocal root mean square, where the sums of squares are given. Half a warp has a token.
  __device__ __forceinline__ float token_scale(u32 token) const {
    if (!p.squares) return 1.0f;
    const u64 panels = (p.cols + PANEL - 1) / PANEL;
    return row_reciprocal_rms(p.squares + token * panels, p.cols, p.eps);
  }

  /// Writes row `row` of a pair, of both products.
  __device__ __forceinline__ void finish(float gate, float up, float scale, u32 matrix, u32 pair, u32 row) const {
    if (p.squares) gate *= scale, up *= scale;
    if (matrix < p.matrices) {
      if (p.gate_bias) gate += p.gate_bias[(u64)matrix * p.rows + row];
      if (p.up_bias) up += p.up_bias[(u64)matrix * p.rows + row];
    }
    p.out[(u64)pair * p.rows + row] = activated<GATE>(gate, up, p.limit);
  }

  /// Ranks the experts of a token in the shared memory of the block.
  __device__ __forceinline__ RouteMemory rank(u32 token, void *shared) const {
    const RouteMemory memory(shared, p.matrices);
    const RouteSource in = {p.logits,   p.route_partials, p.route_squares, p.route_bias,  p.correction,
                            p.matrices, p.groups,         p.top_groups,    p.route_width, p.route_eps};
    rank_token(in, token, p.scoring, memory);
    return memory;
  }

  /// Writes the experts of a token and their weights, by one warp.
  __device__ __forceinline__ void publish(u32 token, const RouteMemory &memory) const {
    float *weights = memory.logits + p.matrices;
    int *selected = (int *)(weights + p.slots);
    select_experts(memory, p.matrices, p.slots, selected);
    weigh_experts({p.scoring, p.renormalise, p.scale, p.jitter}, memory.logits, p.matrices, selected, p.slots, weights);
    for (u32 slot = threadIdx.x % 32; slot < p.slots; slot += 32) {
      p.experts_out[(u64)token * p.slots + slot] = selected[slot];
      p.weights_out[(u64)token * p.slots + slot] = weights[slot];
    }
  }

  /// The expert of a slot, in every thread; the first block that asks for a token's writes them all. Ends with a barrier.
  __device__ __forceinline__ u32 routed(u32 token, u32 slot, void *shared) const {
    const RouteMemory memory = rank(token, shared);
    const u32 expert = (u32)selected_expert(memory, p.matrices, slot);
    if (blockIdx.x == 0 && slot == 0 && threadIdx.x < 32) publish(token, memory);
    __syncthreads();
    return expert;
  }
};

/// Blocks of y: pairs, or slots where all tokens meet the slot's matrix. Blocks of x share the row tiles.
KERNEL(gate_up_few, GateUpParams, 256, Occupancy::FEW) {
  extern __shared__ __align__(128) u8 memory[];
  constexpr bool ALONE = ROUTING != 0;
  const GateUp launch(p);
  const u32 tokens = ALONE ? 1 : p.tokens, warp = threadIdx.x / 32;
  const u32 each = (launch.row_tiles() + gridDim.x - 1) / gridDim.x, first = min(blockIdx.x * each, launch.row_tiles());
  const u32 tiles = min(each, launch.row_tiles() - first);
  const auto pair_of = [&](u32 t) { return ALONE ? blockIdx.y : t * p.slots + blockIdx.y; };
  u32 matrix = blockIdx.y;
  if constexpr (ALONE) wait_for_inputs();
  if constexpr (ROUTING == 1) matrix = (u32)p.experts[blockIdx.y];
  if constexpr (ROUTING == 2) matrix = launch.routed(blockIdx.y / p.slots, blockIdx.y % p.slots, memory);
  const bool exists = matrix < p.matrices;
  const u8 *gates = launch.row_tile(false, matrix, first), *ups = launch.row_tile(true, matrix, first);
  const auto base = [&](u32 i) { return (i % 2 ? ups : gates) + i / 2 * Tile<WEIGHT>::bytes(p.cols); };
  const Slice slice = slice_of<WEIGHT>(p.cols, warp);
  WeightStream<WEIGHT, decltype(base)> weights(base, slice, exists ? 2 * tiles : 0, p.cols);
  weights.start();
  if constexpr (!ALONE) wait_for_inputs();
  const FewTokens few(memory, tokens, staged_chunks<WEIGHT>(p.cols), PARTS);
  few.stage<WEIGHT, ACTIVATIONS>(launch.source(), [&](u32 t) { return (long long)launch.row_of(pair_of(t)); }, slice);
  // Four warps end a tile, two tokens each.
  const u32 token = warp % 4 + threadIdx.x % 32 / 16 * 4, pair = pair_of(min(token, tokens - 1));
  const float scale = launch.token_scale(pair / p.slots);
  weights.template run<PARTS>([&](u32 part, u32 chunk, u32 of) { return few.operand(part, chunk, of); },
                              [&](u32 i, const float(&acc)[4]) { few.keep(i, acc); });
  let_next_start();
  __syncthreads();
  for (u32 tile = warp / 4; tile < tiles; tile += 2) {
    const u32 row = (first + tile) * 16 + threadIdx.x % 16;
    if (token >= tokens || row >= p.rows) continue;
    const float gate = exists ? few.reduced(2 * tile, token, threadIdx.x % 16) : 0.0f;
    const float up = exists ? few.reduced(2 * tile + 1, token, threadIdx.x % 16) : 0.0f;
    launch.finish(gate, up, scale, matrix, pair, row);
  }
}

/// Blocks an SM where the launch selects experts: on sm_120 the compiler would go for six, and spill for q6_k and for three parts of x.
constexpr u32 PREPARE_BLOCKS = ROUTING == 2 && (Occupancy::SUPER || Occupancy::PARTS > 2) && __CUDA_ARCH__ >= 1200 ? 4 : 0;

/// Blocks: rows of x, then one a token to select its experts, of which the last to end sorts them, or one that sorts given ones.
KERNEL(gate_up_prepare, GateUpParams, 256, PREPARE_BLOCKS) {
  extern __shared__ __align__(128) u8 memory[];
  const GateUp launch(p);
  const ExpertsWorkspace space = launch.space(workspace);
  wait_for_inputs();
  if (blockIdx.x < launch.x_rows()) {
    space.rows.prepare(launch.source(), blockIdx.x);
  } else if constexpr (ROUTING == 1) {
    launch.sort(space, memory);
  } else if constexpr (ROUTING == 2) {
    const u32 token = blockIdx.x - launch.x_rows();
    const RouteMemory ranked = launch.rank(token, memory);
    if (threadIdx.x < 32) launch.publish(token, ranked);
    if (last_to_arrive((u32 *)workspace, p.tokens)) launch.sort(space, memory);
  }
  let_next_start();
}

/// Blocks of x: tiles of tokens; of y: four row tiles, whose gates are of the first four warps.
template <u32 N_TILES> static __device__ __forceinline__ void multiply_many(const GateUp &launch, u8 *memory, u8 *workspace) {
  typedef Gemm<WEIGHT, PARTS, N_TILES> Block;
  typedef BlockPairs<Block::TOKENS> Mine;
  __shared__ u32 pairs[Mine::WORDS];
  __shared__ float scales[Block::TOKENS];
  const GateUpParams &p = launch.p;
  const u32 warp = threadIdx.x / 32;
  const ExpertsWorkspace space = launch.space(workspace);
  wait_for_inputs();
  const Mine found(launch.pairs, space.list(), blockIdx.x, pairs);
  if (found.count == 0) return;
  if (found.matrix < p.matrices) {
    const u32 tile = blockIdx.y * (Block::WARPS / 2) + warp % 4;
    const u8 *weights = launch.row_tile(warp / 4, found.matrix, min(tile, launch.row_tiles() - 1));
    float total[N_TILES][4];
    Block::run(memory, weights, p.cols, [&](u32 t) { return space.rows.row(launch.row_of(pairs[t])); }, total);
    const float *factors = launch.space_anew(workspace).rows.factors;
    Block::keep(memory, total, [&](u32 t) { return factors[launch.row_of(pairs[t])]; });
  }
  let_next_start();
  const Mine mine(pairs);
  const bool exists = mine.matrix < p.matrices;
  for (u32 t = threadIdx.x / 16; t < Block::TOKENS; t += 16) {
    const float scale = launch.token_scale(pairs[t] / p.slots);
    if (threadIdx.x % 16 == 0) scales[t] = scale;
  }
  __syncthreads();
  const float *gates = Block::sums(memory, warp % 4), *ups = Block::sums(memory, warp % 4 + 4);
  const u32 row = (anew(blockIdx.y) * (Block::WARPS / 2) + warp % 4) * 16 + threadIdx.x % 16;
  for (u32 step = warp / 4; step < Block::TOKENS / 2; step += 2) {
    const u32 t = Block::walk_token(step), at = t * Block::PITCH + threadIdx.x % 16;
    if (t < mine.count && row < p.rows)
      launch.finish(exists ? gates[at] : 0.0f, exists ? ups[at] : 0.0f, scales[t], mine.matrix, pairs[t], row);
  }
}

KERNEL(gate_up_many, GateUpParams, 256, Occupancy::MANY) {
  extern __shared__ __align__(128) u8 memory[];
  multiply_many<token_tiles<WEIGHT, PARTS>()>(GateUp(p), memory, workspace);
}

KERNEL(gate_up_narrow, GateUpParams, 256, Occupancy::NARROW) {
  extern __shared__ __align__(128) u8 memory[];
  multiply_many<NARROW_TOKENS / 8>(GateUp(p), memory, workspace);
}
