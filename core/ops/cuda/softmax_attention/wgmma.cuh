#pragma once
// What the wgmma attention kernels share. A block has three warpgroups: the first loads by TMA, the other two
// own 64 of the block's 128 rows each. A tile of kRows rows by kDim columns is kDim / 64 swizzled tiles of
// kRows by 64 behind each other.

#include "core/ops/cuda/common/tma.cuh"
#include "core/ops/cuda/common/wgmma.cuh"
#include "core/ops/cuda/softmax_attention/blocks.cuh"

namespace spanwise::cuda {

constexpr int kWgmmaRows = 128;  ///< queries or keys of a block, 64 a consuming warpgroup
constexpr int kWgmmaThreads = 384;
constexpr int kConsumerWarps = 8;
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;

/// This thread's warpgroup. Through a shuffle the compiler knows that warps do not diverge on it: where they
/// might, it would run products one by one (ptxas C7520).
__device__ __forceinline__ int warpgroup_index() {
  return __shfl_sync(0xffffffffu, int(threadIdx.x) / 128, 0);
}

template <int kRows, int kDim>
struct alignas(1024) SwizzledRows {
  bf16 data[kDim / kSwizzleColumns][kRows][kSwizzleColumns];
  static constexpr int kBytes = kRows * kDim * int(sizeof(bf16));

  /// One thread; counts kBytes at `barrier`.
  __device__ __forceinline__ void load(const CUtensorMap& map, MBarrier& barrier, int head, int token,
                                       int batch) {
#pragma unroll
    for (int i = 0; i < kDim / kSwizzleColumns; ++i)
      load_box(data[i], map, barrier, i * kSwizzleColumns, head, token, batch);
  }
  __device__ __forceinline__ uint64_t descriptor(int row = 0) const {
    return wgmma_descriptor(shared_address(data[0][row]));
  }
  /// For products that sum over the rows.
  __device__ __forceinline__ uint64_t descriptor_rows() const {
    return wgmma_descriptor_rows(shared_address(data), int(sizeof(data[0])));
  }
};

/// The dynamic shared memory, aligned for swizzled tiles: ask for sizeof(T) + 1024 bytes.
template <class T>
__device__ __forceinline__ T& aligned_shared(uint8_t* raw) {
  const uint32_t address = shared_address(raw);
  return *reinterpret_cast<T*>(raw + ((address + 1023) / 1024 * 1024 - address));
}
template <class T>
constexpr int shared_bytes_of() {
  return int(sizeof(T)) + 1024;
}

/// c [64, kCols] = 64 rows of a · bᵀ over kDim columns; started, not awaited. Descriptors of tiles of kRowsA
/// and kCols rows.
template <int kDim, int kRowsA, int kCols>
__device__ __forceinline__ void start_transposed(float (&c)[kCols / 8][4], uint64_t a, uint64_t b) {
#pragma unroll
  for (int k = 0; k < kDim; k += 16) {
    const int tile = k / kSwizzleColumns, within = k % kSwizzleColumns * 2;
    wgmma<Major::kK, Major::kK>(c, a + ((tile * kRowsA * 128 + within) >> 4),
                                b + ((tile * kCols * 128 + within) >> 4), k > 0);
  }
}

/// c [64, 8 kTiles] += a [64, kRows] · b [kRows, 8 kTiles]; started, not awaited. b: descriptor_rows().
template <int kTiles, int kFragments>
__device__ __forceinline__ void start_add(float (&c)[kTiles][4], const uint32_t (&a)[kFragments][4],
                                          uint64_t b) {
#pragma unroll
  for (int k = 0; k < kFragments; ++k) wgmma<Major::kMN>(c, a[k], b + (k * 2048 >> 4), 1);
}

/// Stores this warp's 16 rows of x, times factor, as rows first_row.. of one head of a contiguous
/// [B, length, heads, kDim] tensor. They pass through rows row0.. of `tile`, which nobody reads any more, so
/// that 16 bytes leave at a time.
template <int kRows, int kDim>
__device__ __forceinline__ void store_warp_rows(SwizzledRows<kRows, kDim>& tile, int row0, bf16* to,
                                                int batch, int length, int heads, int head, int first_row,
                                                const float (&x)[kDim / 8][4], const float (&factor)[2]) {
  // Volatile: in a loop over tiles, addresses computed once would take registers from the products.
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  const auto piece_of = [&](int row, int piece) {  // 8 columns
    return &tile.data[piece / 8][row0 + row][(piece % 8 ^ row % 8) * 8];
  };
#pragma unroll
  for (int i = 0; i < kDim / 8; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<uint32_t*>(piece_of(lane / 4 + 8 * half, i) + 2 * (lane % 4)) =
          pack_bf16(x[i][2 * half] * factor[half], x[i][2 * half + 1] * factor[half]);
    }
  }
  __syncwarp();
#pragma unroll
  for (int at = lane; at < 16 * kDim / 8; at += 32) {
    const int row = at / (kDim / 8), piece = at % (kDim / 8);
    if (first_row + row >= length) continue;
    bf16* row_start = to + ((int64_t(batch) * length + first_row + row) * heads + head) * kDim;
    *reinterpret_cast<uint4*>(row_start + 8 * piece) = *reinterpret_cast<const uint4*>(piece_of(row, piece));
  }
  __syncwarp();  // the next tile may be written
}

}  // namespace spanwise::cuda
