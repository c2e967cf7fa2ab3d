#pragma once
// Warpgroup matrix products in bf16 with fp32 accumulation (wgmma, sm_90a). Four consecutive warps, the first
// a multiple of 4, together compute D [64, N] += A [64, 16] · B [16, N], asynchronously:
//
//   wgmma_fence();  wgmma<...>(d, ...);  ...  wgmma_commit();  ...  wgmma_wait<0>();  pin_registers(d);
//
// D: warp w of the four holds rows 16 w .. 16 w + 15 in the layout of mma_16816
// (core/ops/cuda/common/mma.cuh), tile of 8 columns by tile: d[4n .. 4n + 3], or d[n][4], holds columns
// 8n .. 8n + 7. A: a fragment of that layout in registers, or 64 rows in shared memory. Registers of a
// product under way must not be touched; pin_registers keeps the compiler from moving their uses across the
// wait.
//
// Shared memory holds bf16 tiles of rows of 64 columns (128 bytes), 128-byte swizzled, 1024-byte aligned:
// what TMA writes (tma.cuh). Wider matrices are several such tiles behind each other. Tiles that ordinary
// stores or cp.async wrote need fence_async_proxy() before a barrier that orders them, or after it in every
// reading thread.

#include <cstdint>

#include "core/ops/cuda/common/wgmma_order.cuh"

namespace spanwise::cuda {

/// Which dimension of an operand in shared memory lies along the rows of its tiles: that of the sum (k), or
/// the other one.
enum class Major { kK = 0, kMN = 1 };

/// Descriptors of operands in shared memory. `address`: shared-memory address of the first element, within a
/// swizzled tile a multiple of 32 bytes along a row or of 8 rows along a column.
///
/// Major::kK (A as stored, B = tileᵀ): 8-row groups follow at 1024 bytes; the next 16 of the sum are 32 bytes
/// further.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 |
         uint64_t(1) << 62;
}
/// Major::kMN (A = tileᵀ, B = tile as stored): the next 64 columns of B lie
/// `tile_bytes` further, the next 16 of the sum 16 rows = 2048 bytes further.
__device__ __forceinline__ uint64_t wgmma_descriptor_rows(uint32_t address, int tile_bytes) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(tile_bytes >> 4) << 16 | uint64_t(1024 >> 4) << 32 |
         uint64_t(1) << 62;
}

/// Keeps the compiler from moving uses of accumulators or fragments across wgmma_wait() or wgmma_fence().
template <int kCount>
__device__ __forceinline__ void pin_registers(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int kTiles>
__device__ __forceinline__ void pin_registers(float (&d)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) pin_registers(d[i]);
}
template <int kFragments>
__device__ __forceinline__ void pin_registers(uint32_t (&a)[kFragments][4]) {
#pragma unroll
  for (int i = 0; i < kFragments; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+r"(a[i][e])::"memory");
  }
}

// d = A·B if `add` is 0, else d += A·B, with N = 64, 128 or 256 columns of B:
//   wgmma<kB>(d, fragment, descriptor, add)    wgmma<kA, kB>(d, descriptor, descriptor, add)
// The instruction names every accumulator; these list them.
#define SPANWISE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SPANWISE_D16(i) SPANWISE_D4(i), SPANWISE_D4(i + 4), SPANWISE_D4(i + 8), SPANWISE_D4(i + 12)
#define SPANWISE_D32(i) SPANWISE_D16(i), SPANWISE_D16(i + 16)
#define SPANWISE_D64(i) SPANWISE_D32(i), SPANWISE_D32(i + 32)
#define SPANWISE_D128(i) SPANWISE_D64(i), SPANWISE_D64(i + 64)
#define SPANWISE_R32                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SPANWISE_R64_HIGH                                                            \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SPANWISE_R128_HIGH                                                                       \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SPANWISE_R64 SPANWISE_R32 ", " SPANWISE_R64_HIGH
#define SPANWISE_R128 SPANWISE_R64 ", " SPANWISE_R128_HIGH

/// registers: accumulators a thread = N / 2; the numbers behind them are the operands that follow.
#define SPANWISE_WGMMA(n, registers, o0, o1, o2, o3, o4, o5, o6)                                            \
  template <Major kA, Major kB>                                                                             \
  __device__ __forceinline__ void wgmma(float(&d)[registers], uint64_t a, uint64_t b, int add) {            \
    asm volatile("{.reg .pred p;\n setp.ne.b32 p, %" #o2                                                    \
                 ", 0;\n"                                                                                   \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" SPANWISE_R##registers         \
                 "}, %" #o0 ", %" #o1 ", p, 1, 1, %" #o3 ", %" #o4 ";}"                                     \
                 : SPANWISE_D##registers(0)                                                                 \
                 : "l"(a), "l"(b), "r"(add), "n"(int(kA)), "n"(int(kB)));                                   \
  }                                                                                                         \
  template <Major kB>                                                                                       \
  __device__ __forceinline__ void wgmma(float(&d)[registers], const uint32_t(&a)[4], uint64_t b, int add) { \
    asm volatile("{.reg .pred p;\n setp.ne.b32 p, %" #o5                                                    \
                 ", 0;\n"                                                                                   \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" SPANWISE_R##registers         \
                 "}, {%" #o0 ", %" #o1 ", %" #o2 ", %" #o3 "}, %" #o4 ", p, 1, 1, %" #o6 ";}"               \
                 : SPANWISE_D##registers(0)                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(int(kB)));             \
  }
SPANWISE_WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38)
SPANWISE_WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70)
SPANWISE_WGMMA(256, 128, 128, 129, 130, 131, 132, 133, 134)
#undef SPANWISE_WGMMA
#undef SPANWISE_R128
#undef SPANWISE_R64
#undef SPANWISE_R128_HIGH
#undef SPANWISE_R64_HIGH
#undef SPANWISE_R32
#undef SPANWISE_D128
#undef SPANWISE_D64
#undef SPANWISE_D32
#undef SPANWISE_D16
#undef SPANWISE_D4

/// The same with accumulators by tile.
template <Major kA, Major kB, int kTiles>
__device__ __forceinline__ void wgmma(float (&d)[kTiles][4], uint64_t a, uint64_t b, int add) {
  wgmma<kA, kB>(reinterpret_cast<float(&)[4 * kTiles]>(d), a, b, add);
}
template <Major kB, int kTiles>
__device__ __forceinline__ void wgmma(float (&d)[kTiles][4], const uint32_t (&a)[4], uint64_t b, int add) {
  wgmma<kB>(reinterpret_cast<float(&)[4 * kTiles]>(d), a, b, add);
}

}  // namespace spanwise::cuda
