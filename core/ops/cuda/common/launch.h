#pragma once
// What every CUDA launcher needs: errors checked, and launches on the Context's stream. Included by .cu files
// only; no other header includes CUDA.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "core/check.h"
#include "core/context.h"
#include "core/ops/cuda/common/ceil_div.h"
#include "core/tensor.h"

namespace spanwise::cuda {

/// Throws Error naming the call. Kernels' own faults show at a later call: CUDA reports them late.
inline void check(cudaError_t error, const char* call) {
  SPANWISE_CHECK(error == cudaSuccess, "{}: {}", call, cudaGetErrorString(error));
}
#define SPANWISE_CUDA(call) ::spanwise::cuda::check((call), #call)

inline cudaStream_t stream_of(const Context& ctx) {
  return ctx.stream();
}

/// After a launch: bad launch parameters show at once.
inline void check_launch(const char* kernel) {
  check(cudaGetLastError(), kernel);
}

/// Once per kernel and process: more than 48 KB of shared memory a block.
template <class Kernel>
void allow_shared_memory(Kernel* kernel, int bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute(MaxDynamicSharedMemorySize)");
}

template <class T>
struct CudaType {
  using type = T;
};
template <>
struct CudaType<BFloat16> {
  using type = __nv_bfloat16;
};

/// Device pointer to a tensor's elements as kernels read them (__nv_bfloat16 for BF16); nullptr if undefined.
template <class T>
T* pointer(const Tensor& t) {
  if (!t.defined()) return nullptr;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return reinterpret_cast<T*>(t.data<BFloat16>());
  } else {
    return t.data<T>();
  }
}

/// Calls fn(T{}) with T = float or __nv_bfloat16.
template <class F>
decltype(auto) dispatch_cuda(DType dtype, F&& fn) {
  SPANWISE_CHECK(dtype == DType::kF32 || dtype == DType::kBF16,
                 "dtype {} is not supported on CUDA (F32, BF16 are)", name_of(dtype));
  return dtype == DType::kF32 ? fn(float{}) : fn(__nv_bfloat16{});
}

}  // namespace spanwise::cuda
