// f16 matrix product C[M,N] = A[M,K] B[N,K]^T with cp.async double buffering, ldmatrix and mma.m16n8k16.
// A block computes 32 x 32 with two warps; K a multiple of 32, M and N of 32.
#include <cuda_fp16.h>

__device__ __forceinline__ void copy16(unsigned to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}
__device__ __forceinline__ void load4(unsigned (&r)[4], unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct GemmParams { const __half *a, *b; float *c; int m, n, k; };

constexpr int STRIDE = 40;  // halves a row of a tile: 32 and 8 of padding against bank conflicts

extern "C" __global__ void __launch_bounds__(64) gemm_f16(GemmParams p) {
    __shared__ __align__(16) __half tiles[2][64 * STRIDE];
    int row0 = blockIdx.y * 32, col0 = blockIdx.x * 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned base = (unsigned)__cvta_generic_to_shared(&tiles[0][0]);
    auto stage = [&](int t) {
        for (int i = threadIdx.x; i < 256; i += 64) {
            int r = i / 4, c = i % 4 * 8;
            const __half *from = r < 32 ? p.a + (size_t)(row0 + r) * p.k : p.b + (size_t)(col0 + r - 32) * p.k;
            copy16(base + ((t % 2) * 64 * STRIDE + r * STRIDE + c) * 2, from + t * 32 + c);
        }
        asm volatile("cp.async.commit_group;");
    };
    float acc[4][4] = {};
    int steps = p.k / 32;
    stage(0);
    for (int t = 0; t < steps; ++t) {
        if (t + 1 < steps) { stage(t + 1); asm volatile("cp.async.wait_group 1;"); }
        else asm volatile("cp.async.wait_group 0;");
        __syncthreads();
        for (int kk = 0; kk < 32; kk += 16) {
            unsigned a[4], tile = base + (t % 2) * 64 * STRIDE * 2;
            load4(a, tile + ((warp * 16 + lane % 16) * STRIDE + kk + lane / 16 * 8) * 2);
            for (int n = 0; n < 2; ++n) {
                unsigned b[4];
                load4(b, tile + ((32 + n * 16 + lane % 16) * STRIDE + kk + lane / 16 * 8) * 2);
                mma(acc[n * 2], a, b[0], b[2]);
                mma(acc[n * 2 + 1], a, b[1], b[3]);
            }
        }
        __syncthreads();
    }
    for (int n = 0; n < 4; ++n)
        for (int h = 0; h < 2; ++h) {
            int r = row0 + warp * 16 + lane / 4 + h * 8, c = col0 + n * 8 + lane % 4 * 2;
            *reinterpret_cast<float2 *>(&p.c[(size_t)r * p.n + c]) = make_float2(acc[n][h * 2], acc[n][h * 2 + 1]);
        }
}
