#pragma once
// Products and copies of the mma.sync attention kernels: four warps own 16 rows of a 64-row block each.

#include "core/ops/cuda/softmax_attention/blocks.cuh"

namespace spanwise::cuda {

constexpr int kMmaRows = 64;  ///< queries or keys of a block

/// Rows [first, first + kMmaRows) of one head; zeros behind num_rows.
template <int kDim, int kThreads>
__device__ __forceinline__ void load_rows(SwizzledTile<kDim> tile, const HeadRows<const bf16>& from,
                                          int batch, int head, int first, int num_rows) {
  const bf16* start = from.row(batch, num_rows, first, head, kDim);
#pragma unroll
  for (int i = threadIdx.x; i < kMmaRows * kDim / 8; i += kThreads) {
    const int row = i / (kDim / 8), col = i % (kDim / 8) * 8;
    const bool valid = first + row < num_rows;
    copy_async_16(tile.piece(row, col), valid ? start + row * from.stride + col : start, valid);
  }
}

/// c [16, 64] = A rows row0.. of a · bᵀ, over kDim columns.
template <int kDim>
__device__ __forceinline__ void multiply_transposed(float (&c)[kMmaRows / 8][4], SwizzledTile<kDim> a,
                                                    int row0, SwizzledTile<kDim> b) {
#pragma unroll
  for (int i = 0; i < kMmaRows / 8; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) c[i][e] = 0;
  }
#pragma unroll
  for (int k = 0; k < kDim; k += 16) {
    uint32_t fa[4], fb[4];
    a.load_a(fa, row0, k);
#pragma unroll
    for (int n = 0; n < kMmaRows; n += 16) {
      b.load_b(fb, n, k);
      mma_16816(c[n / 8], fa, fb[0], fb[1]);
      mma_16816(c[n / 8 + 1], fa, fb[2], fb[3]);
    }
  }
}

/// c [16, 8 kTiles] += a [16, 64] · columns col0.. of b [64, kDim].
template <int kDim, int kTiles>
__device__ __forceinline__ void multiply_add(float (&c)[kTiles][4], const uint32_t (&a)[kMmaRows / 16][4],
                                             SwizzledTile<kDim> b, int col0) {
#pragma unroll
  for (int k = 0; k < kMmaRows / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      uint32_t fb[4];
      b.load_b_trans(fb, 16 * k, col0 + 8 * n);
      mma_16816(c[n], a[k], fb[0], fb[1]);
      mma_16816(c[n + 1], a[k], fb[2], fb[3]);
    }
  }
}

/// Stores a warp's rows first_row + g and + 8 of one head of a contiguous [B, length, heads, kDim] tensor.
template <int kDim, int kTiles>
__device__ __forceinline__ void store_rows(bf16* to, int batch, int length, int heads, int head,
                                           int first_row, int col0, const float (&x)[kTiles][4],
                                           const float (&factor)[2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + lane / 4 + 8 * half;
    if (row >= length) continue;
    bf16* at = to + ((int64_t(batch) * length + row) * heads + head) * kDim + col0 + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const uint32_t pair = pack_bf16(x[i][2 * half] * factor[half], x[i][2 * half + 1] * factor[half]);
      *reinterpret_cast<uint32_t*>(at + 8 * i) = pair;
    }
  }
}

/// Calls fn(integral_constant<int, width>{}) for the widths the kernels are built for.
template <class F>
void dispatch_width(int width, F&& fn) {
  switch (width) {
    case 64:
      return fn(std::integral_constant<int, 64>{});
    case 128:
      return fn(std::integral_constant<int, 128>{});
    case 256:
      return fn(std::integral_constant<int, 256>{});
    default:
      SPANWISE_FAIL("attention on CUDA supports head dims 64, 128 and 256 in BF16, got {}", width);
  }
}

}  // namespace spanwise::cuda
