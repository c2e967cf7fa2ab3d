#pragma once
// Warpgroup-level matrix products of sm_90a in bf16 with fp32 accumulation, and the barriers of pipelines
// that feed them. A warpgroup is four consecutive warps, the first a multiple of four.
//
//   D [64, N] fp32 in registers: warp w of the group holds rows 16w..16w+15 as N / 8 tiles of mma.cuh's C:
//       d[4n..4n+3] is the tile of columns 8n..8n+7
//   A [64, 16]: mma.cuh's A fragment of the warp's 16 rows, or shared memory
//   B [16, N]: shared memory
//
// Shared operands are "subtiles": 64 rows of 64 bf16 (128 bytes) in 8 KB, aligned to 1 KB, 16-byte pieces
// exchanged as in SwizzledTile<64> (the hardware's 128-byte swizzle). Wider tiles are subtiles side by side,
// kSubtileBytes apart.
//
// Order: wgmma_fence() after registers of D or A were written and before the first product; products between
// it and wgmma_wait() must not touch those registers. Shared memory that ordinary stores or cp.async wrote is
// read by the tensor cores only after fence_async_proxy() in the writing thread and a barrier.

#include "core/ops/cuda/common/mma.cuh"
#include "core/ops/cuda/common/wgmma_order.cuh"

namespace spanwise::cuda::scan {

constexpr int kSubtileBytes = 64 * 64 * 2;

/// Which dimension of a shared operand is consecutive in memory: that of the sum (k), or the other one.
enum class Major { kK = 0, kMN = 1 };

__device__ __forceinline__ uint64_t subtile_descriptor(uint32_t address, uint32_t leading_bytes) {
  constexpr uint64_t k128ByteSwizzle = uint64_t(1) << 62, kStride = uint64_t(8 * 128 / 16) << 32;
  return k128ByteSwizzle | kStride | uint64_t(leading_bytes / 16) << 16 | (address & 0x3ffff) / 16;
}
/// Operand whose rows are subtile rows and whose sum runs over their columns k..k+15.
__device__ __forceinline__ uint64_t k_major(uint32_t tile, int k) {
  return subtile_descriptor(tile + k / 64 * kSubtileBytes + k % 64 * 2, 16);
}
/// Operand whose rows are columns of the subtiles from `tile` on, and whose sum runs over subtile rows
/// k..k+15.
__device__ __forceinline__ uint64_t mn_major(uint32_t tile, int k) {
  return subtile_descriptor(tile + k * 128, kSubtileBytes);
}

/// A barrier among `kThreads` threads of a block; ids 1..15 (0 is __syncthreads).
template <int kThreads>
__device__ __forceinline__ void named_barrier(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}

/// Four 8x8 matrices, transposed: lane l gives the address of the memory row l % 8 of matrix l / 8; register
/// i holds matrix i as mma.cuh's C holds a tile, and memory rows are its columns.
__device__ __forceinline__ void stmatrix_x4_trans(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2,
                                                  uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r0),
               "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}
/// The same, memory rows are its rows.
__device__ __forceinline__ void stmatrix_x4(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2,
                                            uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r0),
               "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

/// 2^x; results below the smallest normal number are zero.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// d += A·B with A [64, 16] in registers and 64 columns of B; `accumulate` 0: d = A·B.
template <Major kMajorB>
__device__ __forceinline__ void wgmma(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(int(kMajorB)));
}
/// The same with A [64, 16] in shared memory, k-major.
template <Major kMajorB>
__device__ __forceinline__ void wgmma(float (&d)[32], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, %35;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31])
      : "l"(a), "l"(b), "r"(accumulate), "n"(int(kMajorB)));
}
/// d += A·B with A [64, 16] in registers and 128 columns of B; `accumulate` 0: d = A·B.
template <Major kMajorB>
__device__ __forceinline__ void wgmma(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
        "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
        "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(int(kMajorB)));
}

}  // namespace spanwise::cuda::scan
