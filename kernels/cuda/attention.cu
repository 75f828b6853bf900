// attention: causal attention over the paged cache, in one of two launches: of tiles for many rows, of segments for few. Both do the
// operations of attention_unit.cuh in the order said there, so that they give the same bits.
#include "attention_segments.cuh"
#include "attention_tiles.cuh"

/// Grid: (tokens in equal pieces, kv_heads * HEAD_TILES). A block does the tiles that begin in its piece, late tokens first: they see most.
KERNEL(attention_tiles, AttentionParams, TILE_THREADS, 1) {
  wait_for_inputs();
  let_next_start();
  const u32 piece = divide_up(p.tokens, gridDim.x), begin = (gridDim.x - 1 - blockIdx.x) * piece;
  for (u32 token = begin; token < min(begin + piece, p.tokens); token++)
    if (begins_tile(p, token)) attend_tile(p, token, tile_run(p, token));
}

/// Grid: (segments, or fewer blocks that do every gridDim.x-th, kv_heads * HEAD_TILES, tokens).
KERNEL(attention_segments, AttentionParams, SEGMENT_THREADS, 1) {
  wait_for_inputs();
  let_next_start();
  const TokenRows rows(blockIdx.z, 1, blockIdx.y);
  const Cached cached(p, blockIdx.z, 1, blockIdx.y / TokenRows::HEAD_TILES);
  const u32 first = cached.first / SEGMENT, last = cached.last / SEGMENT;
  if (first + blockIdx.x > last) return;
  const Partials partials(p, workspace);
  for (u32 segment = first + blockIdx.x; segment <= last; segment += gridDim.x) {
    const u32 unit = segment * SEGMENT_WARPS + threadIdx.x / 32;
    if (unit >= cached.first_unit() && unit <= cached.last_unit())
      for (u32 i = 0; i < SEGMENT_RING; i++) load_unit_chunk(cached, unit, i);
    if (segment == first + blockIdx.x) {
      prepare_queries(p, rows, query_scale(p), shared_address(shared) + SEGMENT_QUERIES, (float *)(shared + SEGMENT_FACTORS),
                      threadIdx.x / 32, SEGMENT_WARPS);
      __syncthreads();
    }
    attend_segment(p, partials, rows, cached, segment, first == last);
  }
  if (first != last && last_to_arrive(partials.counter, min(gridDim.x, last - first + 1)))
    fold_segments(p, partials, rows, first, last);
}
