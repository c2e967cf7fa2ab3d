#pragma once
// 16-byte accesses, conversions and reductions of CUDA kernels. Reductions add in a fixed order, so results
// are bitwise equal from run to run.

#include <cuda_bf16.h>

#include <cstdint>

namespace spanwise::cuda {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
  return __bfloat162float(x);
}
template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == 2) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

/// Elements of T in 16 bytes.
template <class T>
inline constexpr int kVector = 16 / int(sizeof(T));

/// kVector<T> consecutive elements as floats. `p` is 16-byte aligned.
template <class T>
__device__ __forceinline__ void load_vector(const T* p, float (&x)[kVector<T>]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(p);
  const T* values = reinterpret_cast<const T*>(&raw);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) x[i] = to_float(values[i]);
}
template <class T>
__device__ __forceinline__ void store_vector(T* p, const float (&x)[kVector<T>]) {
  uint4 raw;
  T* values = reinterpret_cast<T*>(&raw);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) values[i] = from_float<T>(x[i]);
  *reinterpret_cast<uint4*>(p) = raw;
}

/// The sum over a warp, on every lane.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

/// The sum over a block of kThreads, on every thread. `scratch`: kThreads / 32 floats of shared memory, free
/// again after the call. All threads call it.
template <int kThreads>
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  constexpr int kWarps = kThreads / 32;
  x = warp_sum(x);
  if constexpr (kWarps == 1) return x;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += scratch[w];
  __syncthreads();
  return total;
}

}  // namespace spanwise::cuda
