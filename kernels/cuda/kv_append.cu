// kv_append: a block a token and head; writes its key, and its value where pages hold any, rounded to CACHE.
#include "kv_pages.cuh"

#if !defined(THREADS) || !defined(CACHE)
#error "THREADS and CACHE are not defined: threads of a block; CacheF16 or CacheF32"
#endif

KERNEL(kv_append, KvAppendParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u32 token = blockIdx.x, head = blockIdx.y;
  const KvSlot<CACHE> slot(p, token, p.v ? 2 : 1);
  const u64 from = ((u64)token * p.kv_heads + head) * p.head_dim;
  for (u32 d = threadIdx.x; d < p.head_dim; d += THREADS) {
    slot.write_key(head, d, p.k[from + d]);
    if (p.v) slot.write_value(head, d, p.v[from + d]);
  }
}
