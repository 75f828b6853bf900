// A cooperative kernel: every block adds its part, all meet at a grid barrier, then each reads all parts.
// The barrier is the usual one: an arrival counter and a generation in device memory.
__device__ unsigned arrived, generation;
__device__ __forceinline__ void grid_barrier() {
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned before, now;
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(before) : "l"(&generation) : "memory");
        __threadfence();
        if (atomicAdd(&arrived, 1u) == gridDim.x - 1) {
            arrived = 0;
            __threadfence();
            atomicAdd(&generation, 1u);
        } else {
            do { __nanosleep(20); asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(&generation) : "memory"); } while (now == before);
        }
        __threadfence();
    }
    __syncthreads();
}
extern "C" __global__ void grid_sum(const float *in, float *parts, float *out, int rounds) {
    for (int r = 0; r < rounds; ++r) {
        if (threadIdx.x == 0) {
            float s = 0;
            for (int i = 0; i < 32; ++i) s += in[blockIdx.x * 32 + i];
            parts[blockIdx.x] = s + r;
        }
        grid_barrier();
        float s = 0;
        for (int b = threadIdx.x; b < gridDim.x; b += 32) s += parts[b];
        for (int d = 16; d; d /= 2) s += __shfl_xor_sync(~0u, s, d);
        if (threadIdx.x == 0) out[blockIdx.x] = s;
        grid_barrier();
    }
}
