#pragma once
// Bulk copies from global to shared memory by the copy engine (TMA, sm_90): a tensor map describes the global
// array, one thread starts a copy, and an mbarrier counts its bytes.

#include <cuda.h>
#include <cudaTypedefs.h>

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/mbarrier.cuh"

namespace spanwise::cuda {

/// Columns of a swizzled box: 128 bytes of bf16.
constexpr int kSwizzleColumns = 64;

/// The map of a bf16 array [batch, length, heads, width] whose tokens lie `token_stride` elements apart, read
/// in boxes of `rows` tokens by kSwizzleColumns columns of one head, with 128-byte swizzle; zeros come where
/// a box reaches behind the last token of a row. data is 16-byte aligned, token_stride a multiple of 8.
inline CUtensorMap head_rows_map(const void* data, int64_t token_stride, int batch, int length, int heads,
                                 int width, int rows) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    SPANWISE_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                   cudaEnableDefault, &found));
    SPANWISE_CHECK(found == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  const cuuint64_t token_bytes = cuuint64_t(token_stride) * 2;
  // One row's tokens may be the whole array, whose stride then is of no account but is checked.
  const cuuint64_t sizes[4] = {cuuint64_t(width), cuuint64_t(heads), cuuint64_t(length), cuuint64_t(batch)};
  const cuuint64_t strides[3] = {cuuint64_t(width) * 2, token_bytes, token_bytes * cuuint64_t(length)};
  const cuuint32_t box[4] = {kSwizzleColumns, 1, cuuint32_t(rows), 1}, steps[4] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(data), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  SPANWISE_CHECK(result == CUDA_SUCCESS,
                 "cuTensorMapEncodeTiled: error {} for [{}, {}, {}, {}], token stride {}", int(result), batch,
                 length, heads, width, token_stride);
  return map;
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

/// Copies the box at column, head, token, batch to `to` (1024-byte aligned) and counts its bytes at
/// `barrier`. One thread.
__device__ __forceinline__ void load_box(void* to, const CUtensorMap& map, MBarrier& barrier, int column,
                                         int head, int token, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5, %6}], [%2];" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
      "l"(&map), "r"(barrier.address()), "r"(column), "r"(head), "r"(token), "r"(batch)
      : "memory");
}

/// The same of `bytes` consecutive bytes; addresses and size are multiples of 16.
__device__ __forceinline__ void load_bytes(void* to, const void* from, int bytes, MBarrier& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          static_cast<uint32_t>(__cvta_generic_to_shared(to))),
      "l"(from), "r"(bytes), "r"(barrier.address())
      : "memory");
}

// From shared to global memory; addresses and sizes are multiples of 16. What ordinary stores wrote needs
// fence_async_proxy in each writing thread and a barrier first. One thread starts copies, commits and awaits.

__device__ __forceinline__ void store_bytes(void* to, const void* from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from))), "r"(bytes)
               : "memory");
}
/// to[i] += from[i] for `bytes` bytes of floats, in the memory system.
__device__ __forceinline__ void add_floats(float* to, const float* from, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
               "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from))), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Shared memory of all committed copies may be written again.
__device__ __forceinline__ void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
/// All committed copies have arrived.
__device__ __forceinline__ void store_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

}  // namespace spanwise::cuda
