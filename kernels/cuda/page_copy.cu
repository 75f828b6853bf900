// page_copy: whole pages of one layer, 16 bytes a thread at a time; a row of blocks a pair of pages.
#include "elementwise.cuh"

KERNEL(page_copy, PageCopyParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u64 from = (u64)(u32)p.pages[2 * (u64)blockIdx.x], to = (u64)(u32)p.pages[2 * (u64)blockIdx.x + 1];
  const uint4 *source = (const uint4 *)((const unsigned char *)p.kv + from * p.page_bytes);
  uint4 *target = (uint4 *)((unsigned char *)p.kv + to * p.page_bytes);
  for_elements(blockIdx.y, p.page_bytes / 16, [&](u64 i) { target[i] = source[i]; });
}
