// What `project` does with each element of its product, in the order of ProjectParams, and the partial sums it emits beside the result.
//
// Half a warp holds the 16 rows of a panel of the result of one token, lane % 16 the row, in both paths of the product: the few-token path's map of
// threads to elements, and the many-token path's walk over its sums. Every lane of the warp takes part.
#pragma once
#include "math.cuh"
#include "panel_sums.cuh"

struct ProjectEpilogue {
  const ProjectParams &p;

  /// What the products of a token are multiplied by: its row's reciprocal root mean square, where the sums of squares are given. Of a token past
  /// the end anything.
  __device__ __forceinline__ float row_scale(u32 token) const {
    if (p.squares == nullptr) return 1.0f;
    const u64 panels = (p.cols + PANEL - 1) / PANEL;
    return row_reciprocal_rms(p.squares + min(token, p.tokens - 1) * panels, p.cols, p.eps);
  }

  /// Ends the lane's row of panel `panel` for `token`, which may lie past the end; `v` is the product, `scale` the token's row_scale.
  __device__ __forceinline__ void finish(float v, float scale, u32 token, u32 panel) const {
    const u32 row = panel * PANEL + threadIdx.x % PANEL;
    const bool exists = token < p.tokens && row < p.rows;
    if (exists) {
      const u64 at = (u64)token * p.rows + row;
      if (p.squares) v *= scale;
      if (p.bias) v += p.bias[row];
      if (p.gate) v *= sigmoid(p.gate[token]);
      v *= p.factor;
      if (p.softcap > 0.0f) v = soft_capped(v, p.softcap);
      if (p.residual) v = p.residual[at] + v;
      p.out[at] = v;
    }
    if (p.squares_out || p.partials_out) emit(exists ? v : 0.0f, token, panel);
  }

  /// Writes the partial sums that are asked for.
  __device__ __forceinline__ void emit(float v, u32 token, u32 panel) const {
    const u64 place = (u64)token * ((p.rows + PANEL - 1) / PANEL) + panel;
    const bool exists = token < p.tokens;
    if (p.squares_out) {
      const float squares = panel_square_sum(v);
      if (exists && threadIdx.x % PANEL == 0) p.squares_out[place] = squares;
    }
    if (p.partials_out == nullptr) return;
    const u8 *router = (const u8 *)p.router;
    float *out = exists ? p.partials_out + place * p.router_rows : nullptr;
    switch (p.router_type) {
    case ROUTER_F32: return panel_partials<ROUTER_F32>(v, p.router_norm, router, p.rows, p.router_rows, panel, out);
    case ROUTER_F16: return panel_partials<ROUTER_F16>(v, p.router_norm, router, p.rows, p.router_rows, panel, out);
    default: return panel_partials<ROUTER_BF16>(v, p.router_norm, router, p.rows, p.router_rows, panel, out);
    }
  }
};
