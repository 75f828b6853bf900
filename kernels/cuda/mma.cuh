// Tensor cores: one wrapper for each PTX instruction, and the 16-bit pairs they take.
//
// Lane = 4 * g + t. A (16 x 16): a[0] = (row g; columns 2t, 2t+1), a[1] = (row g+8; same), a[2] = (row g; columns 2t+8, 2t+9), a[3] =
// (row g+8; those). B (16 x 8): b0 = (rows 2t, 2t+1; column g), b1 = (rows 2t+8, 2t+9). D (16 x 8): d[0], d[1] = (row g; columns 2t,
// 2t+1), d[2], d[3] = (row g+8). A pair's even element is in the low half. Products are exact, sums are f32.
#pragma once
#include "launch.cuh"

/// d += a * b with f16 operands: the only way to the tensor cores that sm_80 to sm_120 share.
__device__ __forceinline__ void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// d += a * b with bf16 operands: the range of f32, so that an f32 splits into three parts without a factor.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 matrices of 16-bit elements as fragments; lane 8i + j gives the shared address of row j of matrix i: 16 bytes, aligned.
/// One instruction for what would be 16 conflicting loads.
__device__ __forceinline__ void ldmatrix_x4(u32 (&d)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(row)
               : "memory");
}

/// As ldmatrix_x4, each matrix transposed: operands whose reduction dimension is not the contiguous one need no transposing pass.
__device__ __forceinline__ void ldmatrix_x4_trans(u32 (&d)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(row)
               : "memory");
}

/// Two f32 rounded to f16, `lo` in the low half: one conversion instruction for two elements.
__device__ __forceinline__ u32 pack_f16(float lo, float hi) {
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
  return pair;
}

/// Two f32 rounded to bf16, `lo` in the low half.
__device__ __forceinline__ u32 pack_bf16(float lo, float hi) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
  return pair;
}

/// Differences and products of two pairs of f16: two numbers an instruction.
__device__ __forceinline__ u32 sub_f16x2(u32 a, u32 b) {
  u32 r;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
__device__ __forceinline__ u32 mul_f16x2(u32 a, u32 b) {
  u32 r;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

/// The f32 of an f16: without cuda_fp16.h, which NVRTC would have to be given.
__device__ __forceinline__ float float_of_f16(u16 half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}

/// An f32 rounded to f16.
__device__ __forceinline__ u16 f16_of_float(float value) {
  u16 half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
}

/// The halves of a pair of f16.
__device__ __forceinline__ float unpack_f16_lo(u32 pair) { return float_of_f16((u16)pair); }
__device__ __forceinline__ float unpack_f16_hi(u32 pair) { return float_of_f16((u16)(pair >> 16)); }

/// The halves of a pair of bf16, which is the upper half of an f32.
__device__ __forceinline__ float unpack_bf16_lo(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float unpack_bf16_hi(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
