// matmul: out[t, n] = sum_k x[t, k] w[n, k] (+ bias[n]).
#include "matrix_product.cuh"

/// A bias, where there is one.
struct BiasEpilogue {
  const MatmulParams &p;

  __device__ __forceinline__ float row_scale(u32) const { return 1.0f; }

  __device__ __forceinline__ void finish(float v, float, u32 token, u32 panel) const {
    const u32 row = panel * 16 + threadIdx.x % 16;
    if (token >= p.tokens || row >= p.rows) return;
    p.out[(u64)token * p.rows + row] = p.bias ? v + p.bias[row] : v;
  }
};

__device__ __forceinline__ MatrixProduct<WEIGHT, ACTIVATIONS> product_of(const MatmulParams &p) {
  return {Source{p.x, nullptr, nullptr, p.cols, 0, 0.0f}, p.w, p.tokens, p.rows};
}

MATRIX_PRODUCT_KERNELS(matmul, MatmulParams, BiasEpilogue, product_of)
