#include "core/cuda/pinned_host.h"

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda {

void* allocate_pinned(size_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaMallocHost(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is told by the result, and by no later call
    return nullptr;
  }
  check(error, "cudaMallocHost");
  return data;
}

void free_pinned(void* data) noexcept {
  cudaFreeHost(data);  // fails only after an error that was reported before
}

}  // namespace spanwise::cuda
