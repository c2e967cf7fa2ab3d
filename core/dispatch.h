#pragma once
// The one `if` on the device. Every op's computation exists as cpu::f and, in builds with CUDA, as cuda::f
// of the same signature:
//
//   SPANWISE_DISPATCH(ctx, rms_norm_fwd, ctx, x, residual, weight, eps, out, part);
//
// calls the one of ctx's device. A build without CUDA never names cuda::f, so it needs no stubs.

#include "core/context.h"

namespace spanwise {

#ifdef SPANWISE_HAS_CUDA
inline constexpr bool kHasCuda = true;
#else
inline constexpr bool kHasCuda = false;
#endif

}  // namespace spanwise

#define SPANWISE_DISPATCH(ctx, function, ...)                                              \
  ([&]() -> decltype(auto) {                                                               \
    if constexpr (::spanwise::kHasCuda) {                                                  \
      if ((ctx).device() == ::spanwise::Device::kCUDA) return cuda::function(__VA_ARGS__); \
    }                                                                                      \
    return cpu::function(__VA_ARGS__);                                                     \
  }())
