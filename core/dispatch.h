#pragma once
// The one `if` on the device. Every op's computation exists as cpu::f and, in builds with CUDA, as cuda::f
// of the same signature:
//
//   SPANWISE_DISPATCH(ctx, rms_norm_fwd, ctx, x, residual, weight, eps, out, part);
//
// calls the one of ctx's device. A build without CUDA never names cuda::f, so it needs no stubs. Two more
// functions take the same arguments and say what the computation costs, in every build and for any device:
//
//   work::f   what it does (core/work.h): counted on every Context
//   dry::f    stands in for it on a dry Context: takes and gives back the temporaries that the kernel of
//             ctx's device does, in its order, computes nothing, and returns what it does
//
// Sizes of temporaries stand once, in a host function that dry::f and the kernel call. Where there are none
// and nothing but operands is moved, one line says it:
//
//   namespace work { constexpr Moves swiglu_fwd, swiglu_bwd; }
//   namespace dry { constexpr NoTemporaries swiglu_fwd, swiglu_bwd; }

#include <type_traits>

#include "core/context.h"
#include "core/tensor.h"

namespace spanwise {

#ifdef SPANWISE_HAS_CUDA
inline constexpr bool kHasCuda = true;
#else
inline constexpr bool kHasCuda = false;
#endif

/// Of the defined ones; what is not a Tensor counts nothing.
template <class... Arguments>
double bytes_of(const Arguments&... arguments) {
  const auto bytes = [](const auto& argument) {
    if constexpr (std::is_same_v<std::decay_t<decltype(argument)>, Tensor>)
      return argument.defined() ? double(argument.bytes()) : 0.0;
    return 0.0;
  };
  return (0.0 + ... + bytes(arguments));
}

namespace work {
/// Each operand and result is read or written once; arithmetic that does not count.
struct Moves {
  template <class... Arguments>
  Work operator()(const Arguments&... arguments) const {
    return {.bytes = bytes_of(arguments...)};
  }
};
}  // namespace work

namespace dry {
struct NoTemporaries {
  template <class... Arguments>
  void operator()(const Arguments&...) const {}
};
}  // namespace dry

}  // namespace spanwise

#define SPANWISE_DISPATCH(ctx, function, ...)                                              \
  ([&]() -> decltype(auto) {                                                               \
    (ctx).count(work::function(__VA_ARGS__));                                              \
    if ((ctx).dry()) return dry::function(__VA_ARGS__);                                    \
    if constexpr (::spanwise::kHasCuda) {                                                  \
      if ((ctx).device() == ::spanwise::Device::kCUDA) return cuda::function(__VA_ARGS__); \
    }                                                                                      \
    return cpu::function(__VA_ARGS__);                                                     \
  }())
