// Structures by value through a call that is not inlined, and pointers beside an odd-sized parameter.
struct Mixed { float values[6]; int index; short small; char tiny; };
__device__ __noinline__ Mixed bump(Mixed x, float y) {
    x.values[x.index & 3] += y;
    x.small += 2;
    x.tiny -= 1;
    return x;
}
extern "C" __global__ void structs(const float *add, int unused, Mixed x, Mixed *out) {
    Mixed r = bump(x, add[threadIdx.x]);
    out[threadIdx.x] = bump(r, r.values[1]);
}
