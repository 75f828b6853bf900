// column_partials: half a warp for a panel of 16 columns of one token; out[t, p, e] as panel_partials says.
#include "panel_sums.cuh"

#ifndef THREADS
#error "THREADS is not defined: threads of a block"
#endif
#ifndef ROUTER_TYPE
#error "ROUTER_TYPE is not defined: the router's element type, one of panel_sums.cuh"
#endif

KERNEL(column_partials, ColumnPartialsParams, THREADS) {
  const u64 panels = (p.cols + PANEL - 1) / PANEL, item = ((u64)blockIdx.x * THREADS + threadIdx.x) / PANEL;
  const bool exists = item < panels * p.tokens;
  const u32 panel = (u32)(item % panels), column = panel * PANEL + threadIdx.x % PANEL;
  wait_for_inputs();
  const float x = exists && column < p.cols ? p.x[item / panels * p.cols + column] : 0.0f;
  panel_partials<ROUTER_TYPE>(x, p.norm, (const unsigned char *)p.w, p.cols, p.experts, panel,
                              exists ? p.out + item * p.experts : nullptr);
  let_next_start();
}
