#pragma once
// From an activation known at run time to one that a loop or kernel is compiled for.

#include <type_traits>

#include "core/check.h"
#include "core/ops/pointwise.h"

namespace spanwise {

/// fn(std::integral_constant<Activation, kind>) for any kind but kNone, which computes nothing.
template <class F>
void dispatch_activation(Activation kind, F&& fn) {
  switch (kind) {
    case Activation::kNone:
      SPANWISE_FAIL("no activation is not a kernel's business");
    case Activation::kSiLU:
      return fn(std::integral_constant<Activation, Activation::kSiLU>{});
    case Activation::kSigmoid:
      return fn(std::integral_constant<Activation, Activation::kSigmoid>{});
    case Activation::kReLU:
      return fn(std::integral_constant<Activation, Activation::kReLU>{});
    case Activation::kEluPlusOne:
      return fn(std::integral_constant<Activation, Activation::kEluPlusOne>{});
  }
}

}  // namespace spanwise
