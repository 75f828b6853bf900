// kv_append: a block a token and head; writes its key, and its value where pages hold any, rounded to CACHE.
#include "kv_pages.cuh"

#if !defined(THREADS) || !defined(CACHE)
#error "THREADS and CACHE are not defined: threads of a block; CacheF16, CacheF32 or CacheInt8"
#endif

KERNEL(kv_append, KvAppendParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u32 token = blockIdx.x, head = blockIdx.y;
  const KvSlot<CACHE> slot(p, token, p.v ? 2 : 1);
  const u64 from = ((u64)token * p.kv_heads + head) * p.head_dim;
  const RowScale key = warp_row_scale<CACHE>([&](u32 d) { return p.k[from + d]; }, p.head_dim);
  for (u32 d = threadIdx.x; d < p.head_dim; d += THREADS) slot.write_key(head, d, p.k[from + d], key);
  if (threadIdx.x == 0) slot.write_scale(0, head, key);
  if (!p.v) return;
  const RowScale value = warp_row_scale<CACHE>([&](u32 d) { return p.v[from + d]; }, p.head_dim);
  for (u32 d = threadIdx.x; d < p.head_dim; d += THREADS) slot.write_value(head, d, p.v[from + d], value);
  if (threadIdx.x == 0) slot.write_scale(1, head, value);
}
