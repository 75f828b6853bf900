// embedding: out[t, :] = table[ids[t], :] as f32, each element the value its format defines. An id outside the table gives zeros.
#include "elements.cuh"
#include "elementwise.cuh"

#if !defined(TABLE) || !defined(TILE_BYTES)
#error "TABLE and TILE_BYTES are not defined: a format of elements.cuh, and bytes of 16 rows"
#endif

KERNEL(embedding, EmbeddingParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u32 id = (u32)p.ids[blockIdx.x];
  float *out = p.out + (u64)blockIdx.x * p.cols;
  const u8 *tile = (const u8 *)p.table + (u64)(id / 16) * TILE_BYTES;
  const u64 scales = (u64)((p.cols + 63) / 64) * TABLE::CHUNK;
  for_elements(blockIdx.y, p.cols, [&](u64 c) {
    out[c] = id < p.rows ? TABLE::value(elements::Place(tile, id % 16, (u32)c, scales)) : 0.0f;
  });
}
