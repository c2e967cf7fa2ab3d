#pragma once
// Bulk copies of contiguous bytes by the copy engine (sm_90).

#include "core/ops/cuda/common/mbarrier.cuh"
#include "core/ops/cuda/common/mma.cuh"

namespace spanwise::cuda {

/// `bytes` (a multiple of 16) from global memory; `barrier` counts them. Addresses are 16-byte aligned.
__device__ __forceinline__ void bulk_load(void* to, const void* from, int bytes, MBarrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
/// `bytes` to global memory. What was written by ordinary stores needs fence_async_proxy() first.
__device__ __forceinline__ void bulk_store(void* to, const void* from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Until this thread's bulk stores have read shared memory, which may then be overwritten.
__device__ __forceinline__ void bulk_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

}  // namespace spanwise::cuda
