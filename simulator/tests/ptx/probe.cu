// A broad probe: each kernel makes NVRTC emit instructions that the others do not.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

__constant__ float TABLE[16] = {0.f, 0.5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f, -0.f, -0.5f, -1.f, -1.5f, -2.f, -3.f, -4.f, -6.f};
__device__ const int PRIMES[8] = {2, 3, 5, 7, 11, 13, 17, 19};
__device__ unsigned ticket;

extern "C" __global__ void softmax(const float *in, float *out, int n) {
    __shared__ float warps[32];
    float top = -3.0e38f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) top = fmaxf(top, in[(size_t)blockIdx.x * n + i]);
    for (int d = 16; d; d >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = top;
    __syncthreads();
    top = warps[0];
    for (int w = 1; w < blockDim.x / 32; ++w) top = fmaxf(top, warps[w]);
    __syncthreads();
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += __expf(in[(size_t)blockIdx.x * n + i] - top);
    for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < blockDim.x / 32; ++w) sum += warps[w];
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        out[(size_t)blockIdx.x * n + i] = __fdividef(__expf(in[(size_t)blockIdx.x * n + i] - top), sum);
}

extern "C" __global__ void maths(const float *in, float *out) {
    int i = threadIdx.x;
    float x = in[i];
    float y = expf(x) + logf(fabsf(x) + 1.f) + sinf(x) + cosf(x) + tanhf(x) + erff(x) + powf(fabsf(x), 1.3f) + rsqrtf(fabsf(x) + 1.f) +
              sqrtf(fabsf(x)) + 1.f / (x + 10.f) + floorf(x) + ceilf(x) + rintf(x) + truncf(x) + roundf(x) + copysignf(1.f, x) + fmodf(x, 0.7f) +
              log1pf(fabsf(x)) + expm1f(x) + __sinf(x) + __cosf(x) + __logf(fabsf(x) + 1.f) + exp2f(x) + cbrtf(x) + __frcp_rn(x + 10.f) + __fsqrt_rn(fabsf(x)) + __fdiv_rn(x, 3.f);
    double d = (double)x * 1.5 + sqrt((double)fabsf(x)) / 3.0 + fma((double)x, 2.0, 1.0);
    out[i] = y + (float)d + (isinf(x) ? 1.f : 0.f) + (isnan(x) ? 2.f : 0.f) + (signbit(x) ? 1.f : 0.f) + ldexpf(x, 3) + TABLE[i & 15] + (float)PRIMES[i & 7];
}

extern "C" __global__ void integers(const int *in, int *out, long long *wide, unsigned long long *uwide) {
    int i = threadIdx.x;
    int a = in[i], b = in[i + 32];
    unsigned ua = a, ub = b;
    long long la = wide[i];
    unsigned long long lu = uwide[i];
    int r = a * b + __mulhi(a, b) + __umulhi(ua, ub) + a / b + a % b + ua / 7u + ua % 10u + (a >> (b & 31)) + (ua >> (ub & 31)) + (a << 3) + min(a, b) + max(a, b) + abs(a) +
            __popc(a) + __clz(a) + __ffs(a) + __brev(a) + __byte_perm(a, b, 0x1032) + __funnelshift_l(a, b, 7) + __funnelshift_r(a, b, ub) + __mul24(a, b) + __dp4a(a, b, 3) +
            __dp4a(ua, ub, 5u) + __sad(a, b, 1u) + __vadd4(a, b) + __hadd(a, b) + (int)(la / 5) + (int)(lu % 9) + __popcll(lu) + __clzll(la) + (int)__brevll(lu) +
            (int)(__umul64hi(lu, lu + 3)) + __float_as_int((float)a) + (int)(3.7f * a) + (int)(unsigned)(fabsf(1.5f * b)) + __float2int_rd(1.25f * a) + (int)(la >> (b & 63)) + (int)(lu << 3) + ((a & 0xff0) | (b ^ a)) + (~a & b) + (a == b ? 1 : 0) + min(la, 5ll) + max(lu, 3ull) + __fns(ua, 0, 1);
    wide[i] = la * a + (long long)a * b + (la % 11);
    uwide[i] = lu * ub + (unsigned long long)ua * ub;
    short s = (short)a; unsigned char c = (unsigned char)b; signed char sc = (signed char)a;
    s = s * (short)b + (s >> 2) + min(s, (short)5); c = c / 3 + (c << 1); sc = sc >> 1;
    out[i] = r + s + c + sc;
}

extern "C" __global__ void narrow(const float *in, unsigned short *h, unsigned char *q, float *out) {
    int i = threadIdx.x;
    float x = in[i], y = in[i ^ 1];
    __half2 hp = __floats2half2_rn(x, y);
    __nv_bfloat162 bp = __floats2bfloat162_rn(x, y);
    hp = __hfma2(hp, hp, __hmul2(hp, __float2half2_rn(0.5f)));
    bp = __hfma2(bp, bp, bp);
    bp = __hmax2(bp, __hadd2(bp, bp));
    hp = __hmin2(hp, h2exp2(hp)); hp = __habs2(hp); hp = __hneg2(hp);
    bool lt = __hlt(__low2half(hp), __high2half(hp));
    __half z = __float2half_rz(x); z = hsqrt(__hadd(z, __ushort2half_rn(3))); z = __hdiv(z, __float2half(3.f)); z = htanh(z);
    __half2 gt = __hgt2(hp, __float2half2_rn(1.f));
    __nv_bfloat16 bz = __float2bfloat16_ru(x);
    __nv_fp8_e4m3 e4(x); __nv_fp8_e5m2 e5(y);
    __nv_fp8x2_e4m3 two(make_float2(x, y));
    float2 back = static_cast<float2>(two);
    q[i] = e4.__x; q[i + 32] = e5.__x;
    h[i] = __half_as_ushort(z);
    out[i] = __low2float(hp) + __high2float(hp) + __bfloat162float(bp.x) + __bfloat162float(bp.y) + (lt ? 1.f : 0.f) + __low2float(gt) + __bfloat162float(bz) + (float)e4 + (float)e5 + back.x + back.y + __half2int_rn(z) + (float)__half2short_rz(z) + (__hisnan(z) ? 1.f : 0.f) + __half2float(hexp(z));
}

extern "C" __global__ void warps(const unsigned *in, unsigned *out, float *sums) {
    int lane = threadIdx.x % 32;
    unsigned v = in[threadIdx.x], r = 0;
    r += __shfl_sync(~0u, v, 3) + __shfl_up_sync(~0u, v, 1) + __shfl_down_sync(~0u, v, 2) + __shfl_xor_sync(~0u, v, 4, 8);
    r += __ballot_sync(~0u, v & 1) + __any_sync(~0u, v == 7) + __all_sync(~0u, v < 1000);
    r += __reduce_add_sync(~0u, v) + __reduce_max_sync(~0u, (int)v) + __reduce_xor_sync(~0u, v) + __reduce_min_sync(~0u, v) + __reduce_and_sync(~0u, v);
    r += __match_any_sync(~0u, v & 3); int pred; r += __match_all_sync(~0u, v & 3, &pred) + pred;
    if (v & 1) r += __popc(__activemask()); else r -= lane;
    __syncwarp();
    atomicAdd(&out[128], r); atomicMax((int *)&out[129], (int)r); atomicOr(&out[130], r); atomicCAS(&out[131], 0u, r); atomicExch(&out[132], r); atomicAdd(&sums[0], (float)v); atomicInc(&out[133], 100u); atomicMin(&out[134], r); atomicXor(&out[135], r);
    unsigned long long *w = (unsigned long long *)(out + 136); atomicAdd(w, (unsigned long long)r);
    atomicAdd((__half2 *)(out + 140), __float2half2_rn(1.f));
    unsigned old = atomicAdd(&ticket, 1u); out[threadIdx.x] = r + (old > 100000u);
    __threadfence(); __threadfence_block();
    if (__syncthreads_or(v == 3)) out[threadIdx.x] += 1; out[threadIdx.x] += __syncthreads_count(v > 2);
}

__device__ __noinline__ float poly(float x, const float *c, int n) { float r = 0; for (int i = 0; i < n; ++i) r = r * x + c[i]; return r; }
extern "C" __global__ void locals(const float *in, float *out, int n) {
    float c[16];
    for (int i = 0; i < n; ++i) c[i] = in[i];
    float t = c[(threadIdx.x * 7) & 15];
    out[threadIdx.x] = poly(in[threadIdx.x], c, n) + t;
}

extern "C" __global__ void switcher(const int *in, int *out) {
    int v = in[threadIdx.x], r;
    switch (v) { case 0: r = out[32]; break; case 1: r = out[33] * 3; break; case 2: r = v + 77; out[40] = 3; break; case 3: r = v * v; break; case 4: r = 11 ^ out[35]; break; case 5: r = 9; out[41] = 5; break; default: r = -1; }
    out[threadIdx.x] = r;
}
