#pragma once
// Warp-level matrix products in bf16 with fp32 accumulation (mma.sync m16n8k16, sm_80 and later), the
// ldmatrix loads that feed them, and asynchronous copies to shared memory. All indices below are those of
// the PTX ISA, "Matrix fragments for mma.m16n8k16".
//
//   lane l: group g = l / 4, pair t = l % 4
//   A [16, 16] row-major: a0 = rows g, cols 2t..2t+1;  a1 = row g + 8;  a2 = row g, cols + 8;  a3 = both
//   B [16, 8] (k, n): b0 = rows 2t..2t+1, column g;  b1 = rows + 8
//   C [16, 8] fp32: c0, c1 = row g, cols 2t, 2t + 1;  c2, c3 = row g + 8

#include <cuda_bf16.h>

#include <cstdint>

namespace spanwise::cuda {

using bf16 = __nv_bfloat16;

/// c += A·B.
__device__ __forceinline__ void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two floats as a bf16 pair; `low` in the lower half, which is the first in memory.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ float2 unpack_bf16(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}

/// The accumulators of two neighbouring n-tiles (C columns 0-7 and 8-15) as an A fragment of the next
/// product: the layouts agree, so nothing moves between lanes.
__device__ __forceinline__ void accumulators_to_a(uint32_t (&a)[4], const float (&left)[4],
                                                  const float (&right)[4]) {
  a[0] = pack_bf16(left[0], left[1]);
  a[1] = pack_bf16(left[2], left[3]);
  a[2] = pack_bf16(right[0], right[1]);
  a[3] = pack_bf16(right[2], right[3]);
}

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// Four 8x8 matrices; lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, aligned).
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// A [rows, kCols] bf16 tile in shared memory without bank conflicts: the 16-byte pieces of a row are
/// exchanged by XOR with the row's index mod 8. kCols is a multiple of 64.
template <int kCols>
struct SwizzledTile {
  static_assert(kCols % 64 == 0);
  bf16* data;  ///< 16-byte aligned

  /// Of the piece that holds columns [col, col + 8); col a multiple of 8.
  __device__ __forceinline__ bf16* piece(int row, int col) const {
    const int piece = (col / 8) ^ (row % 8);
    return data + row * kCols + piece * 8;
  }
  __device__ __forceinline__ bf16* at(int row, int col) const { return piece(row, col & ~7) + col % 8; }

  /// A fragment of rows row..row+15, columns k..k+15, stored row-major.
  __device__ __forceinline__ void load_a(uint32_t (&a)[4], int row, int k) const {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4(a, shared_address(piece(row + lane % 16, k + lane / 16 * 8)));
  }
  /// The same of the transpose: A = tileᵀ, whose rows row..row+15 are the tile's columns, its columns
  /// k..k+15 the tile's rows.
  __device__ __forceinline__ void load_a_trans(uint32_t (&a)[4], int row, int k) const {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4_trans(a, shared_address(piece(k + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8)));
  }
  /// B fragments of two n-tiles from a tile stored [n, k] (the product is A·tileᵀ): n..n+15, k..k+15.
  /// b[0], b[1]: n..n+7; b[2], b[3]: n+8..n+15.
  __device__ __forceinline__ void load_b(uint32_t (&b)[4], int n, int k) const {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4(b, shared_address(piece(n + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8)));
  }
  /// The same from a tile stored [k, n] (the product is A·tile).
  __device__ __forceinline__ void load_b_trans(uint32_t (&b)[4], int k, int n) const {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4_trans(b, shared_address(piece(k + lane % 16, n + lane / 16 * 8)));
  }
};

/// 16 bytes from global to shared memory, without registers; zeros when `valid` is false (`from` is then not
/// read).
__device__ __forceinline__ void copy_async_16(void* to, const void* from, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most `kPending` of this thread's newest groups are under way; others' copies are seen after
/// a barrier.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace spanwise::cuda
