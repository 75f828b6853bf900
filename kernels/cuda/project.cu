// project: out = f(norm(x) w^T) + residual with the steps of ProjectParams, and partial sums of the result.
#include "epilogue.cuh"
#include "matrix_product.cuh"

__device__ __forceinline__ MatrixProduct<WEIGHT, ACTIVATIONS> product_of(const ProjectParams &p) {
  return {Source{p.x, p.norm_weight, p.norm_bias, p.cols, p.norm, p.norm_eps}, p.w, p.tokens, p.rows};
}

MATRIX_PRODUCT_KERNELS(project, ProjectParams, ProjectEpilogue, product_of)
