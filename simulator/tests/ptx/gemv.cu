// Int4 matrix-vector product: y = W x, W packed eight values a word with one f16 scale a group of 32.
#include <cuda_fp16.h>

struct GemvParams {
    const uint4 *weights;       // [rows, columns / 32], 32 nibbles each
    const __half *scales;       // [rows, columns / 32]
    const float *activations;   // [columns]
    float *out;                 // [rows]
    int rows, columns;
};

__device__ __forceinline__ float2 pair(unsigned word, int shift) {
    unsigned bits = ((word >> shift) & 0x000f000fu) | 0x64006400u;
    __half2 value = __hsub2(*reinterpret_cast<__half2 *>(&bits), __float2half2_rn(1032.0f));
    return __half22float2(value);
}

extern "C" __global__ void __launch_bounds__(128) gemv_int4(GemvParams p) {
    extern __shared__ float staged[];
    for (int i = threadIdx.x; i < p.columns; i += blockDim.x) staged[i] = p.activations[i];
    __syncthreads();
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    int groups = p.columns / 32;
    float sum = 0;
    for (int g = lane; g < groups; g += 32) {
        uint4 w = __ldg(&p.weights[(size_t)row * groups + g]);
        float scale = __half2float(p.scales[(size_t)row * groups + g]);
        const unsigned words[4] = {w.x, w.y, w.z, w.w};
        float part = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                float2 v = pair(words[k], s * 4);
                part = fmaf(v.x, staged[g * 32 + k * 8 + s], part);
                part = fmaf(v.y, staged[g * 32 + k * 8 + s + 4], part);
            }
        sum = fmaf(part, scale, sum);
    }
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (lane == 0) p.out[row] = sum;
}
