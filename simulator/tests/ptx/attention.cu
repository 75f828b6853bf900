// Flash attention for one query tile: 16 queries a warp, head size 64, f16 in, f32 out; keys in tiles of 16.
#include <cuda_fp16.h>
struct AttentionParams { const __half *q, *k, *v; float *out; int queries, keys; float scale; };
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
extern "C" __global__ void __launch_bounds__(32) attention(AttentionParams p) {
    __shared__ __align__(16) __half ks[16 * 72], vs[16 * 72];
    int lane = threadIdx.x, q0 = blockIdx.x * 16;
    unsigned q[4][4];
    for (int c = 0; c < 4; ++c)
        for (int i = 0; i < 4; ++i) {
            int r = min(q0 + lane / 4 + (i & 1) * 8, p.queries - 1);
            q[c][i] = *reinterpret_cast<const unsigned *>(&p.q[r * 64 + c * 16 + lane % 4 * 2 + (i / 2) * 8]);
        }
    float o[8][4] = {}, top[2] = {-1e30f, -1e30f}, sum[2] = {};
    for (int k0 = 0; k0 < p.keys; k0 += 16) {
        __syncthreads();
        for (int i = lane; i < 128; i += 32) {
            int r = i / 8, c = i % 8 * 8;
            uint4 zero = {};
            bool in = k0 + r < p.keys;
            *reinterpret_cast<uint4 *>(&ks[r * 72 + c]) = in ? *reinterpret_cast<const uint4 *>(&p.k[(k0 + r) * 64 + c]) : zero;
            *reinterpret_cast<uint4 *>(&vs[r * 72 + c]) = in ? *reinterpret_cast<const uint4 *>(&p.v[(k0 + r) * 64 + c]) : zero;
        }
        __syncthreads();
        float s[2][4] = {};
        for (int n = 0; n < 2; ++n)
            for (int c = 0; c < 4; ++c) {
                unsigned b0 = *reinterpret_cast<unsigned *>(&ks[(n * 8 + lane / 4) * 72 + c * 16 + lane % 4 * 2]);
                unsigned b1 = *reinterpret_cast<unsigned *>(&ks[(n * 8 + lane / 4) * 72 + c * 16 + lane % 4 * 2 + 8]);
                mma(s[n], q[c], b0, b1);
            }
        float newtop[2] = {top[0], top[1]};
        for (int n = 0; n < 2; ++n)
            for (int i = 0; i < 4; ++i) {
                int key = k0 + n * 8 + lane % 4 * 2 + (i & 1), query = q0 + lane / 4 + (i / 2) * 8;
                s[n][i] = key < p.keys && key <= query + p.keys - p.queries ? s[n][i] * p.scale : -1e30f;
                newtop[i / 2] = fmaxf(newtop[i / 2], s[n][i]);
            }
        for (int h = 0; h < 2; ++h) {
            newtop[h] = fmaxf(newtop[h], __shfl_xor_sync(~0u, newtop[h], 1));
            newtop[h] = fmaxf(newtop[h], __shfl_xor_sync(~0u, newtop[h], 2));
            float keep = exp2f((top[h] - newtop[h]) * 1.44269504f);
            sum[h] *= keep;
            for (int d = 0; d < 8; ++d) { o[d][h * 2] *= keep; o[d][h * 2 + 1] *= keep; }
            top[h] = newtop[h];
        }
        unsigned a[4];
        for (int n = 0; n < 2; ++n)
            for (int h = 0; h < 2; ++h) {
                float x = exp2f((s[n][h * 2] - top[h]) * 1.44269504f), y = exp2f((s[n][h * 2 + 1] - top[h]) * 1.44269504f);
                sum[h] += x + y;
                __half2 e = __floats2half2_rn(x, y);
                a[n * 2 + h] = *reinterpret_cast<unsigned *>(&e);
            }
        for (int d = 0; d < 4; ++d) {
            unsigned b[4], at = (unsigned)__cvta_generic_to_shared(&vs[(lane % 16) * 72 + d * 16 + lane / 16 * 8]);
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(at));
            mma(o[d * 2], a, b[0], b[1]);
            mma(o[d * 2 + 1], a, b[2], b[3]);
        }
    }
    for (int h = 0; h < 2; ++h) {
        sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
        sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
        int query = q0 + lane / 4 + h * 8;
        if (query < p.queries)
            for (int d = 0; d < 8; ++d)
                *reinterpret_cast<float2 *>(&p.out[query * 64 + d * 8 + lane % 4 * 2]) = make_float2(o[d][h * 2] / sum[h], o[d][h * 2 + 1] / sum[h]);
    }
}
